"""A Debian system of `doppel image debian` on a disk of its own: boots to its login, installs and runs
a package that comes over the network, restarts, powers off. DEBIAN_SYSTEM names the disk, without
.qcow2; the test writes to overlays of it. LOGIN_SECONDS: how long the boot may take, by the clock of a
machine that has nothing else to do."""
import functools
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time

from harness import ENGINE, GUESTS, PATIENCE, TestCase, main, run

SYSTEM = os.environ.get("DEBIAN_SYSTEM",
                        os.path.join(GUESTS, "..", "downloads", "debian-system"))
LOGIN_SECONDS = float(os.environ.get("LOGIN_SECONDS", "0"))
BOOT_SECONDS = 300 * PATIENCE
PROGRAM = """#!/bin/sh
echo "installed, on $(uname -s)"
"""


def make_repository(folder):
    """A folder that apt takes for a repository, with one package."""
    root = os.path.join(folder, "package")
    os.makedirs(os.path.join(root, "DEBIAN"))
    os.makedirs(os.path.join(root, "usr/bin"))
    with open(os.path.join(root, "DEBIAN/control"), "w", encoding="ascii") as file:
        file.write("Package: doppel-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody "
                   "<nobody@localhost>\nDescription: says that it is installed\n")
    program = os.path.join(root, "usr/bin/doppel-hello")
    with open(program, "w", encoding="ascii") as file:
        file.write(PROGRAM)
    os.chmod(program, 0o755)
    served = os.path.join(folder, "repository")
    os.mkdir(served)
    name = "doppel-hello_1.0_all.deb"
    package = os.path.join(served, name)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, package], check=True,
                   stdout=subprocess.DEVNULL)
    control = subprocess.run(["dpkg-deb", "--field", package], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    with open(package, "rb") as file:
        content = file.read()
    entry = (f"{control}Filename: ./{name}\nSize: {len(content)}\n"
             f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n").encode()
    with gzip.open(os.path.join(served, "Packages.gz"), "wb") as file:
        file.write(entry)
    return served


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class DebianSystem(TestCase):
    def overlay(self):
        path = self.path("overlay.qcow2")
        made = run("image", "create", "-b", os.path.abspath(SYSTEM + ".qcow2"), path)
        self.assertEqual(made.returncode, 0, made.stderr)
        return path

    def boot(self, disk, *arguments):
        """Its terminal, logged in as root."""
        begin = time.monotonic()
        terminal = self.terminal("run", "--engine", ENGINE, "--memory", "1G", "--kernel",
                                 SYSTEM + ".vmlinuz", "--initrd", SYSTEM + ".initrd", "--disk", disk,
                                 "--cmdline", "console=ttyS0 root=LABEL=doppel-root", *arguments,
                                 seconds=BOOT_SECONDS)
        self.log_in(terminal)
        return terminal, self.login_at - begin

    def log_in(self, terminal):
        terminal.expect(b" login: ")
        self.login_at = time.monotonic()
        terminal.send(b"root\r")
        terminal.expect(b":~# ")

    def do(self, terminal, command):
        """What it prints; it must not fail."""
        # As it is typed it is not what it prints.
        terminal.send(b"{ " + command.encode() + b"; } && echo it'' worked || echo it'' failed\r")
        said = terminal.expect(b"it ")
        self.assertEqual(terminal.expect(b"\r\n"), b"worked", said.decode(errors="replace"))
        return said.decode(errors="replace")

    def test_login_packages_restart_and_end(self):
        repository = make_repository(self.folder.name)
        handler = functools.partial(Handler, directory=repository)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.addCleanup(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)

        disk = self.overlay()
        terminal, seconds = self.boot(disk, "--net", "user")
        print(f"login after {seconds:.1f} s")
        if LOGIN_SECONDS != 0:
            self.assertLess(seconds, LOGIN_SECONDS)
        self.assertIn("running", self.do(terminal, "systemctl is-system-running --wait"))
        # Only this repository: nobody but this machine is needed.
        self.do(terminal, "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*; "
                          f"echo 'deb [trusted=yes] http://10.0.2.2:{server.server_port}/ ./' "
                          ">/etc/apt/sources.list; apt-get -q update")
        self.do(terminal, "apt-get -q -y install doppel-hello")
        self.assertIn("installed, on Linux", self.do(terminal, "doppel-hello"))

        terminal.send(b"reboot\r")
        self.log_in(terminal)
        self.assertIn("installed, on Linux", self.do(terminal, "doppel-hello"))
        terminal.send(b"poweroff\r")
        self.assertEqual(terminal.wait(), 0, terminal.output.decode(errors="replace")[-2000:])
        checked = run("image", "check", disk)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_over_mmio(self):
        terminal, _ = self.boot(self.overlay() + ",transport=mmio", "--net", "user,transport=mmio",
                                "--rng", "on,transport=mmio")
        self.do(terminal, "findmnt -n -o SOURCE / | grep /dev/vda")
        self.do(terminal, "systemctl is-active systemd-networkd; ip route get 10.0.2.2")
        terminal.send(b"poweroff\r")
        self.assertEqual(terminal.wait(), 0, terminal.output.decode(errors="replace")[-2000:])


if __name__ == "__main__":
    if not os.path.exists(SYSTEM + ".qcow2"):
        print(f"SKIPPED, no {SYSTEM}.qcow2: make check-slow makes it")
        sys.exit(77)
    main()
