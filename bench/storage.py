"""fio in the guest, on a raw and on a qcow2 disk, against QEMU and against fio on this machine.

Each place has copies of the same two files, on the same file system, past the host's page cache
(cache=none, O_DIRECT): otherwise the host's memory would be measured. Both disks are full, so that
nothing is allocated; QEMU has the host do its I/O by io_uring, as doppel does.
"""
import contextlib
import os
import resource
import subprocess
import tempfile

import guests
import transfers

MIB = 1 << 20
# name, fio's pattern, block size, depth
JOBS = [
    ("4k random read, depth 1", "randread", 4096, 1),
    ("4k random read, depth 32", "randread", 4096, 32),
    ("4k random write, depth 1", "randwrite", 4096, 1),
    ("4k random write, depth 32", "randwrite", 4096, 32),
    ("128k read, depth 8", "read", 131072, 8),
    ("128k write, depth 8", "write", 131072, 8),
]
FORMATS = ("raw", "qcow2")
DEVICES = {"raw": "/dev/vda", "qcow2": "/dev/vdb"}
SEQUENTIAL_OF_HOST = 0.6
# Fields of fio's terse output, version 3, from 0: KiB, KiB/s, operations a second.
READ_FIELDS, WRITE_FIELDS = (5, 6, 7), (46, 47, 48)


class Disks:
    """One place's files, full, so that nothing of them is missing on the disk."""

    def __init__(self, folder, place, size):
        self.size = size
        self.raw = os.path.join(folder, place + ".raw")
        self.qcow2 = os.path.join(folder, place + ".qcow2")
        filling = os.urandom(MIB)
        with open(self.raw, "wb") as file:
            for _ in range(size // MIB):
                file.write(filling)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2],
                       check=True)

    def doppel_options(self):
        return ["--disk", f"{self.raw},format=raw,cache=none",
                "--disk", f"{self.qcow2},format=qcow2,cache=none"]

    def qemu_options(self):
        options = []
        for name, path in (("raw", self.raw), ("qcow2", self.qcow2)):
            options += ["-drive", f"file={path},format={name},if=none,id={name},cache=none,"
                        "aio=io_uring", "-device", f"virtio-blk-pci,drive={name}"]
        return options


def fio_command(program, job, target, size, seconds):
    _, pattern, block, depth = job
    return (f"{program} --name=row --filename={target} --rw={pattern} --bs={block} "
            f"--iodepth={depth} --ioengine=libaio --direct=1 --norandommap --size={size} "
            f"--time_based --runtime={seconds} --output-format=terse --terse-version=3")


def sample_of(lines, cpu, job):
    """From fio's one long line."""
    for line in lines:
        fields = line.split(";")
        if fields[0] == "3" and len(fields) > max(WRITE_FIELDS):
            kib, rate, operations = (float(fields[i]) for i in (
                READ_FIELDS if "read" in job[1] else WRITE_FIELDS))
            return transfers.Sample(rate * 1024 if job[2] > 4096 else operations, kib * 1024, cpu)
    raise guests.GuestError("fio said nothing that can be understood:\n" + "\n".join(lines))


class Native:
    """fio on this machine, on the raw file: what the disk can do, whatever is in the file."""

    def __init__(self, disks):
        self.disks = disks

    def sample(self, job, kind, seconds):
        del kind
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            fio_command("fio", job, self.disks.raw, self.disks.size, seconds).split(),
            capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return sample_of(done.stdout.splitlines(), used, job)


class InGuest:
    def __init__(self, shell, disks):
        self.shell, self.disks = shell, disks

    def sample(self, job, kind, seconds):
        return sample_of(*self.shell.run(fio_command("/bin/fio", job, DEVICES[kind],
                                                     self.disks.size, seconds)), job)


def measure(files, engine, options):
    cmdline = transfers.Shell.cmdline()
    rows = {(kind, job): transfers.Row(f"{kind}, {job[0]}", "MB/s" if job[2] > 4096 else "/s")
            for kind in FORMATS for job in JOBS}
    with (tempfile.TemporaryDirectory(prefix="doppel-bench-", dir=options.folder) as folder,
          contextlib.ExitStack() as stack):
        def disks(place):
            return Disks(folder, place, options.disk_mib * MIB)

        def guest(own, command):
            return InGuest(stack.enter_context(transfers.Shell(command)), own)

        places = {"native": Native(disks("native"))}
        if options.tcg:
            own = disks("tcg")
            places["TCG"] = guest(own, guests.qemu_command(files.kernel, files.io_initramfs,
                                                           cmdline, own.qemu_options()))
        own = disks("doppel")
        places[engine] = guest(own, guests.doppel_command(options.doppel, engine, files.kernel,
                                                          files.io_initramfs, cmdline,
                                                          own.doppel_options()))
        os.sync()
        transfers.take_turns(rows, places, options)
    found = list(rows.values())
    return transfers.Table("disk", engine, found, SEQUENTIAL_OF_HOST,
                           [row for row in found if row.unit == "MB/s"])
