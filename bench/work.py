"""Work that people do: a C program's build and a script of short commands, in the guest, against
QEMU and against this machine. The guest has this machine's own compiler and libraries.
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
# In the folder of the sources; one job at a time, since what is compared has one processor.
BUILD = "make -s -C src clean && make -s -j1 generic >/dev/null"
SCRIPT = f"i=0; while [ $i -lt {COMMANDS} ]; do i=$((i+1)); {{true}}; done"
JOBS = {
    "build": "build of Lua, gcc -O2, one job",
    "script": f"script of {COMMANDS} commands",
}


class Native:
    def __init__(self, files, folder):
        self.folder = folder
        subprocess.run(["tar", "xzf", files.program("sources.tar.gz"), "-C", folder,
                        "--strip-components=1"], check=True)
        self.shell = [os.path.abspath(files.busybox), "sh", "-c"]
        self.true = os.path.join(folder, "true")
        shutil.copy(files.busybox, self.true)

    def sample(self, job, kind, seconds):
        del kind, seconds
        command = {"build": BUILD, "script": SCRIPT.format(true=self.true)}[job]
        start = time.monotonic()
        subprocess.run([*self.shell, command], cwd=self.folder, check=True,
                       stdin=subprocess.DEVNULL)
        return transfers.Sample(1 / (time.monotonic() - start), 0)


class InGuest:
    def __init__(self, shell):
        self.shell = shell

    def sample(self, job, kind, seconds):
        del kind, seconds
        command = {"build": BUILD, "script": SCRIPT.format(true="/bin/true")}[job]
        start = time.monotonic()
        self.shell.run(command, LIMIT)
        return transfers.Sample(1 / (time.monotonic() - start), 0)


def measure(files, engine, options):
    rows = {("work", job): transfers.Row(name, "s") for job, name in JOBS.items()}
    # /root is the root file system, in memory; natively it is a temporary folder.
    prepare = ("export PATH=/usr/bin:/bin; mkdir /root/lua; cd /root/lua; "
               "tar xzf /bench/sources.tar.gz --strip-components=1; ")
    cmdline = transfers.Shell.cmdline(prepare)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        places = {"native": Native(files, folder)}
        if options.tcg:
            places["TCG"] = InGuest(stack.enter_context(transfers.Shell(guests.qemu_command(
                files.kernel, files.work_initramfs, cmdline))))
        places[engine] = InGuest(stack.enter_context(transfers.Shell(guests.doppel_command(
            options.doppel, engine, files.kernel, files.work_initramfs, cmdline))))
        transfers.take_turns(rows, places, options)
    build = rows["work", "build"]
    return transfers.Table("work", engine, list(rows.values()), of_host=0.5, of_host_rows=(build,))
