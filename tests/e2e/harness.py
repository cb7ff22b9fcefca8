"""What the end-to-end tests share: where things are, and how to run doppel.

The environment says where: DOPPEL (the binary), GUESTS (build/guests), ENGINE (for the
tests that run on several)."""
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

DOPPEL = os.path.abspath(os.environ.get("DOPPEL", "build/doppel"))
GUESTS = os.path.abspath(os.environ.get("GUESTS", "build/guests"))
ENGINE = os.environ.get("ENGINE", "interpret")
KERNEL = os.path.join(GUESTS, "linux", "vmlinuz")
INITRAMFS = os.path.join(GUESTS, "linux", "initramfs.gz")
# With modules and programs for devices that few machines have.
MORE_INITRAMFS = os.path.join(GUESTS, "linux", "more-initramfs.gz")
# Machines with little to spare run several tests at once.
PATIENCE = float(os.environ.get("PATIENCE", "1"))
BARE_SECONDS = 60 * PATIENCE
LINUX_SECONDS = 400 * PATIENCE

# Statuses of bare guests that report through the debug exit port, guests/bare/bare.h.
PASSED = (0x20 << 1) | 1


def bare(name):
    return os.path.join(GUESTS, "bare", name + ".elf")


def run(*arguments, seconds=BARE_SECONDS, **options):
    """Runs doppel to its end; output as text, broken bytes replaced."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    try:
        return subprocess.run([DOPPEL, *arguments], timeout=seconds, text=True,
                              errors="replace", **options)
    except subprocess.TimeoutExpired as late:
        # Bytes even in text mode; without them nobody knows how far the guest came.
        output, errors = ((part or b"")[-3000:].decode(errors="replace")
                          for part in (late.stdout, late.stderr))
        raise AssertionError(f"doppel did not end in {seconds:.0f} s; its output ended with:\n"
                             f"{output}\n{errors}") from None


def run_bare(name, *arguments, **options):
    return run("run", "--engine", ENGINE, "--kernel", bare(name), "--debug-exit", "0xf4",
               *arguments, **options)


def receive_all(connection):
    data = bytearray()
    while part := connection.recv(1 << 20):
        data += part
    return bytes(data)


def serve_both_ways(server, data):
    """The first who connects gets the data. A thread, and a list with what the second one sent
    when the thread has ended."""
    server.settimeout(LINUX_SECONDS)
    got = []

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        connection, _ = server.accept()
        with connection:
            got.append(receive_all(connection))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread, got


class Terminal:
    """doppel on a terminal of its own, whose settings can be looked at."""

    def __init__(self, *arguments, seconds=BARE_SECONDS):
        self.master, self.slave = pty.openpty()
        self.before = self.settings()
        self.process = subprocess.Popen([DOPPEL, *arguments], stdin=self.slave,
                                        stdout=self.slave, stderr=self.slave,
                                        start_new_session=True)
        self.seconds = seconds
        self.output = b""

    def settings(self):
        return termios.tcgetattr(self.slave)

    def send(self, data):
        os.write(self.master, data)

    def expect(self, wanted):
        """Reads until the bytes appear after what was expected before; returns all before."""
        deadline = time.monotonic() + self.seconds
        while wanted not in self.output:
            ended = self.process.poll()  # before the last of its output is read
            if self._read(0.5):
                continue
            if ended is not None or time.monotonic() > deadline:
                raise AssertionError(f"{wanted!r} did not appear (status {ended}); the output was:\n"
                                     + self.output.decode(errors="replace"))
        before, _, self.output = self.output.partition(wanted)
        return before

    def wait(self):
        """The exit status; what is still printed meanwhile goes to self.output."""
        deadline = time.monotonic() + self.seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError("doppel did not end; the output was:\n"
                                     + self.output.decode(errors="replace"))
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def _read(self, seconds):
        readable, _, _ = select.select([self.master], [], [], seconds)
        if not readable:
            return False
        self.output += os.read(self.master, 65536)
        return True


class TestCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name, content=None):
        path = os.path.join(self.folder.name, name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        return path

    def terminal(self, *arguments, **options):
        terminal = Terminal(*arguments, **options)
        self.addCleanup(terminal.close)
        return terminal

    def linux(self, commands, *arguments, initrd=INITRAMFS, cmdline=""):
        """What the guest printed from its init on, and the counters."""
        result = run("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", initrd,
                     "--cmdline", f'console=ttyS0 {cmdline} doppel.run="{commands}"',
                     "--stats=json", *arguments, seconds=LINUX_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        stats = json.loads(re.search(r"\{\"engine.*\}", result.stderr).group())
        return result.stdout.partition("init is running")[2], stats["counters"]

    def assert_refused(self, option, values):
        for value in values:
            result = run("run", "--engine", ENGINE, "--kernel", KERNEL, f"{option}={value}")
            self.assertEqual(result.returncode, 2, value)
            self.assert_one_line(result.stderr)
            self.assertIn(option, result.stderr)

    def assert_one_line(self, text):
        """An error for a person: one line, ended, with a name in front."""
        self.assertTrue(text.startswith("doppel: "), text)
        self.assertTrue(text.endswith("\n"), text)
        self.assertEqual(text.count("\n"), 1, text)
        self.assertLess(len(text), 400, text)


def kvm_is_missing():
    """Why the tests under KVM cannot run here, or None."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


def main():
    """Status 77 (skipped, for ctest) when the engine is not to be had here."""
    if ENGINE == "kvm" and kvm_is_missing():
        print("SKIPPED, no tests under KVM here:", kvm_is_missing())
        sys.exit(77)
    unittest.main(verbosity=2)
