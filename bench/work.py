"""Work that people do: a C program's build and a script of short commands, in the guest, against
QEMU and against this machine. The guest has this machine's own compiler and libraries.

And what a second processor is good for: the same work on two, against one.
"""
import contextlib
import os
import shutil
import subprocess
import tempfile
import time

import guests
import transfers

LIMIT = 900
COMMANDS = 2000
# In the folder of the sources.
BUILD = "make -s -C src clean; make -s -j{jobs} generic >/dev/null"
SCRIPT = f"i=0; while [ $i -lt {COMMANDS} ]; do i=$((i+1)); {{true}}; done"
# With what was built.
COMPUTE = "src/lua -e 'local x = 0; for i = 1, 1.5e8 do x = (x + i) % 1000003 end'"
# One after the other for one processor, at once for two.
ONE = {"build": BUILD.format(jobs=1), "compute": f"{COMPUTE}; {COMPUTE}", "script": SCRIPT}
TWO = {"build": BUILD.format(jobs=2), "compute": f"{COMPUTE} & {COMPUTE}; wait"}


def seconds_of(action):
    start = time.monotonic()
    action()
    return time.monotonic() - start


class Native:
    def __init__(self, files, folder):
        self.folder = folder
        subprocess.run(["tar", "xzf", files.program("sources.tar.gz"), "-C", folder,
                        "--strip-components=1"], check=True)
        self.shell = [os.path.abspath(files.busybox), "sh", "-c"]
        self.true = os.path.join(folder, "true")
        shutil.copy(files.busybox, self.true)

    def seconds(self, command):
        """How long the command took; a processor is all that one process at a time has."""
        return seconds_of(lambda: subprocess.run(
            [*self.shell, command.replace("{true}", self.true)], cwd=self.folder, check=True,
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


class InGuest:
    def __init__(self, stack, command):
        self.shell = stack.enter_context(transfers.Shell(command))

    def seconds(self, command):
        return seconds_of(lambda: self.shell.run(command.replace("{true}", "/bin/true"), LIMIT))


def measure(files, engine, options):
    # /root is the root file system, in memory; natively it is a temporary folder.
    prepare = ("export PATH=/usr/bin:/bin; mkdir /root/lua; cd /root/lua; "
               "tar xzf /bench/sources.tar.gz --strip-components=1; ")
    cmdline = transfers.Shell.cmdline(prepare)
    rows = {"build": transfers.Row("build of Lua, gcc -O2, one job", "s"),
            "script": transfers.Row(f"script of {COMMANDS} commands", "s"),
            "build2": transfers.Row("the build, two jobs on two", "x"),
            "compute2": transfers.Row("two programs on two", "x")}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        native = Native(files, folder)
        places = {"native": (native, native)}
        if options.tcg:
            places["TCG"] = tuple(InGuest(stack, guests.qemu_command(
                files.kernel, files.work_initramfs, cmdline, cpus=cpus)) for cpus in (1, 2))
        places[engine] = tuple(InGuest(stack, guests.doppel_command(
            options.doppel, engine, files.kernel, files.work_initramfs, cmdline,
            ("--cpus", str(cpus)))) for cpus in (1, 2))
        for _ in range(options.rounds):
            for place, (one, two) in places.items():
                for job, command in ONE.items():
                    alone = one.seconds(command)
                    if job in rows:
                        rows[job].add(place, transfers.Sample(1 / alone, 0))
                    if job in TWO:
                        rows[job + "2"].add(
                            place, transfers.Sample(alone / two.seconds(TWO[job]), 0))
                    if options.verbose:
                        print(f"  {place}, {job}: {alone:.2f} s", flush=True)
    return transfers.Table("work", engine, list(rows.values()), of_host=0.5,
                           of_host_rows=(rows["build"],),
                           least=((rows["build2"], 1.6), (rows["compute2"], 1.8)))
