"""Guests as these tools run them: a process whose standard output is the console."""
import collections
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

BANNER = "doppel: init is running"
GOODBYE = "doppel: powering off"
# The kernel prints this once and then, without panic=, stays where it is.
PANIC = "Kernel panic"
BOOT = "console=ttyS0"
# Large pages as most hosts have them, so that a program maps the same here and there.
QUIET = BOOT + " quiet transparent_hugepage=madvise"


class GuestError(Exception):
    """A guest that ended, hung or panicked; the text says which and shows the console's end."""


class Files:
    """What `make` put into its guest folder."""

    def __init__(self, folder):
        self.kernel = os.path.join(folder, "linux", "vmlinuz")
        self.initramfs = os.path.join(folder, "linux", "initramfs.gz")
        self.bench_initramfs = os.path.join(folder, "linux", "bench-initramfs.gz")
        self.io_initramfs = os.path.join(folder, "linux", "io-bench-initramfs.gz")
        self.work_initramfs = os.path.join(folder, "linux", "work-initramfs.gz")
        self.busybox = os.path.join(folder, "linux", "busybox")
        self.programs = os.path.join(folder, "bench")

    def program(self, name):
        return os.path.join(self.programs, name)


def doppel_command(doppel, engine, kernel, initramfs, cmdline, options=()):
    return [doppel, "run", "--engine", engine, "--memory", "512M", "--kernel", kernel,
            "--initrd", initramfs, "--cmdline", cmdline, *options]


def qemu_command(kernel, initramfs, cmdline, options=(), cpus=1):
    """None where QEMU is not installed."""
    qemu = shutil.which("qemu-system-x86_64")
    return qemu and [qemu, "-accel", "tcg", "-cpu", "max", "-machine", "q35", "-smp", str(cpus),
                     "-m", "512", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
                     "-kernel", kernel, "-initrd", initramfs, "-append", cmdline, *options]


def commands(text):
    """The kernel command line option that makes our init run a shell line."""
    return f' doppel.run="{text}"'


def process_tree(root):
    """`root` and its descendants, as far as they live."""
    children = collections.defaultdict(list)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children[parent].append(int(name))
    tree = [root]
    for process in tree:
        tree.extend(children[process])
    return tree


def resident_kib(root):
    """Private and shared memory of the whole tree; what processes share counts once (PSS)."""
    total = 0
    for process in process_tree(root):
        try:
            with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            continue
    return total


class Guest:
    """One running guest. Use as a context: it is killed at the end if it still runs."""

    def __init__(self, command, stdin=subprocess.DEVNULL):
        self.errors = tempfile.TemporaryFile()
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdin=stdin,
                                        stdout=subprocess.PIPE, stderr=self.errors,
                                        start_new_session=True)
        self.recent = collections.deque(maxlen=12)
        self._pending = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.errors.close()

    def lines(self, limit, silence=None):
        """Each console line with the time it came at, until the end. Raises GuestError after
        `limit` seconds since the start, or `silence` seconds without a line, or a panic."""
        silence = silence or limit
        heard = time.monotonic()
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                heard = time.monotonic()
                text = line.decode(errors="replace").strip("\r")
                self.recent.append(text)
                yield heard - self.started, text
                if PANIC in text:
                    raise self.error("the guest's kernel panicked")
                continue
            now = time.monotonic()
            until = min(self.started + limit, heard + silence)
            if now >= until:
                raise self.error(f"no end after {now - self.started:.0f} s, "
                                 f"no line for {now - heard:.0f} s")
            if select.select([self.process.stdout], [], [], until - now)[0]:
                part = os.read(self.process.stdout.fileno(), 65536)
                if not part:
                    return
                self._pending += part

    def wait_for(self, text, limit):
        """When the line came that has `text` in it."""
        for when, line in self.lines(limit):
            if text in line:
                return when
        raise self.error(f"ended without a line '{text}'")

    def exit_status(self, limit=30):
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise self.error("closed its console but did not end") from None

    def error_text(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def error(self, what):
        said = "\n".join(["    " + line for line in self.recent] +
                         ["    " + line for line in self.error_text().splitlines()[-5:]])
        return GuestError(what + ("\n" + said if said else ""))


def boot_seconds(command, limit=900):
    """From the start of the process to init's first line; the process is killed then."""
    with Guest(command) as guest:
        return guest.wait_for(BANNER, limit)
