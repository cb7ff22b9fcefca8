#!/usr/bin/env python3
"""Writes an initramfs: busybox with a link for each of its applets, and our init.

Usage: make_initramfs.py BUSYBOX INIT OUTPUT [FILE...]

Kernel modules (.ko) go to /lib/modules, and their names in the order given to
/lib/modules/order, for init to load them; programs, executable files, go to /bench when they
come from a folder of that name, else to /bin, and the shared libraries of this machine that they
need to where they are here. @LIST: a file that names others, a line each, which go where they are
here.

Writes the newc cpio format itself (see the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst) rather than through cpio,
so that device nodes need no root and the same input gives the same bytes.
"""
import gzip
import os
import re
import stat
import subprocess
import sys


class Archive:
    def __init__(self):
        self.data = bytearray()
        self.inode = 0

    def add(self, name, mode, content=b"", device=(0, 0)):
        self.inode += 1
        fields = [self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, device[0], device[1],
                  len(name) + 1, 0]
        self.data += b"070701" + b"".join(b"%08X" % field for field in fields)
        self.data += name.encode() + b"\0"
        self._align()
        self.data += content
        self._align()

    def folder(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, path, mode):
        with open(path, "rb") as source:
            self.add(name, stat.S_IFREG | mode, source.read())

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor):
        self.add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.data)

    def _align(self):
        self.data += b"\0" * (-len(self.data) % 4)


def libraries(programs):
    """Absolute names of what the dynamic linker would load, itself included."""
    found = set()
    for program in programs:
        # A static program has none, which is an error to ldd.
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        found.update(re.findall(r"(/\S+) \(0x", said.stdout))
    return sorted(found)


def main():
    busybox, init, output, *files = sys.argv[1:]
    modules = [file for file in files if file.endswith(".ko")]
    benches = [file for file in files if os.path.basename(os.path.dirname(file)) == "bench"]
    lists = [file[1:] for file in files if file.startswith("@")]
    programs = [file for file in files if file not in modules + benches and file[0] != "@"]
    here = [name for each in lists for name in open(each, encoding="utf-8").read().splitlines()]
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    archive = Archive()
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
        archive.folder(name)
    archive.device("dev/console", 5, 1)  # before devtmpfs is mounted, init's own output
    archive.device("dev/null", 1, 3)
    archive.file("bin/busybox", busybox, 0o755)
    for applet in applets.stdout.split():
        if applet != "busybox":
            archive.link("bin/" + applet, "busybox")
    archive.file("init", init, 0o755)
    archive.folder("etc/udhcpc")
    archive.file("etc/udhcpc/default.script",
                 os.path.join(os.path.dirname(init), "udhcpc.script"), 0o755)
    if modules:
        archive.folder("lib")
        archive.folder("lib/modules")
        order = "".join(os.path.basename(module) + "\n" for module in modules)
        archive.add("lib/modules/order", stat.S_IFREG | 0o644, order.encode())
    for module in modules:
        archive.file("lib/modules/" + os.path.basename(module), module, 0o644)
    for program in programs:
        archive.file("bin/" + os.path.basename(program), program, 0o755)
    if benches:
        archive.folder("bench")
    for bench in benches:
        archive.file("bench/" + os.path.basename(bench), bench, 0o755)
    folders = {"bin", "dev", "etc"} | ({"lib", "lib/modules"} if modules else set())
    needed = libraries(programs + benches + [name for name in here if os.access(name, os.X_OK)])
    for name in sorted({*needed, *here}):
        parts = name.lstrip("/").split("/")
        for folder in ("/".join(parts[:end]) for end in range(1, len(parts))):
            if folder not in folders:
                folders.add(folder)
                archive.folder(folder)
        if os.path.islink(name) and name in here:
            archive.link(name.lstrip("/"), os.readlink(name))
        else:
            archive.file(name.lstrip("/"), name, 0o755)
    packed = gzip.compress(archive.finish(), compresslevel=6, mtime=0)
    temporary = output + ".new"
    with open(temporary, "wb") as target:
        target.write(packed)
    os.replace(temporary, output)


main()
