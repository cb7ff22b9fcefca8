"""The translate engine's worker process: what happens when it or the VMM is gone, what an
idle guest costs, and what the worker is allowed to have."""
import os
import signal
import subprocess
import time
import unittest

from harness import DOPPEL, ENGINE, BARE_SECONDS, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, bare, main

LINUX = ("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS,
         "--cmdline", "console=ttyS0")


def descendants(pid):
    """Every process that `pid` started, by way of others too."""
    result = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in map(int, file.read().split()):
                result += [child, *descendants(child)]
    return result


def is_worker(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip() == "doppel-worker"


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ticks(pid):
    """Processor time used, in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker(TestCase):
    def start(self, *arguments):
        """doppel, and the processes it started, once the guest has said something."""
        process = subprocess.Popen([DOPPEL, *arguments], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for stream in (process.stdin, process.stdout, process.stderr):
            self.addCleanup(stream.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def start_bare(self, *arguments):
        process = self.start("run", "--engine", ENGINE, "--kernel", bare("console"), *arguments)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def assert_gone(self, pids):
        deadline = time.monotonic() + 10
        while any(map(alive, pids)):
            self.assertLess(time.monotonic(), deadline, "processes are left behind")
            time.sleep(0.02)

    def test_worker_killed(self):
        for number, name in [(signal.SIGKILL, "SIGKILL"), (signal.SIGSYS, "sandbox")]:
            process = self.start_bare()
            workers = descendants(process.pid)
            os.kill(workers[0], number)
            self.assert_gone(workers[:1])
            _, errors = process.communicate(b"x", timeout=BARE_SECONDS)
            text = errors.decode()
            self.assertEqual(process.returncode, 3, text)
            self.assert_one_line(text)
            self.assertIn("worker process died", text)
            self.assertIn(name, text)
            self.assert_gone(workers)

    def test_any_worker_killed(self):
        process = self.start_bare("--cpus", "3")
        pids = descendants(process.pid)
        workers = list(filter(is_worker, pids))
        self.assertEqual(len(workers), 3)
        os.kill(workers[1], signal.SIGKILL)
        # Its processor does not run: found out within a second.
        self.assertEqual(process.wait(timeout=BARE_SECONDS), 3)
        self.assertIn("worker process died (SIGKILL)", process.stderr.read().decode())
        self.assert_gone(pids)

    def test_worker_says_where_it_crashed(self):
        process = self.start_bare()
        worker = descendants(process.pid)[0]
        os.kill(worker, signal.SIGSEGV)
        self.assert_gone([worker])
        _, errors = process.communicate(b"x", timeout=BARE_SECONDS)
        self.assertEqual(process.returncode, 3)
        self.assertRegex(errors.decode(), "SIGSEGV.*SIGSEGV at 0x")

    def test_vmm_killed(self):
        process = self.start_bare()
        workers = descendants(process.pid)
        process.kill()
        process.wait()
        self.assert_gone(workers)

    def test_signals_end_it_cleanly(self):
        process = self.start_bare()
        workers = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=BARE_SECONDS), 128 + signal.SIGTERM)
        self.assert_gone(workers)

    @unittest.skipUnless(os.environ.get("SLOW"), "takes half a minute; in make check-slow")
    def test_all_processes_stopped_for_long(self):
        """As a frozen container: whoever goes on first must not think that the others hang."""
        process = self.start_bare()
        workers = descendants(process.pid)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        # Something that the worker has yet to answer.
        asking = subprocess.Popen([DOPPEL, "stats", str(process.pid)], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        self.addCleanup(asking.wait)
        time.sleep(1)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(25)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.5)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        process.stdin.write(b"x")
        process.stdin.flush()
        self.assertEqual(process.stdout.read(1), b"x")
        process.stdin.close()
        self.assertEqual(process.wait(timeout=BARE_SECONDS), 0)

    def test_worker_is_confined(self):
        process = self.start_bare()
        worker = descendants(process.pid)[0]
        with open(f"/proc/{worker}/status") as file:
            status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        self.assertEqual(status["Seccomp"].strip(), "2")
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        for name in os.listdir(f"/proc/{worker}/fd"):
            target = os.readlink(f"/proc/{worker}/fd/{name}")
            self.assertTrue(name == "2" or target == "/dev/null" or target.startswith("/memfd:doppel-")
                            or target.startswith("pipe:") or target == "anon_inode:[pidfd]"
                            or (7 <= int(name) < 71 and target == "anon_inode:[eventfd]"), target)
        with open(f"/proc/{worker}/environ", "rb") as file:
            self.assertEqual(file.read(), b"")

    def test_idle_guest(self):
        for cpus in ["1", "4"]:
            with self.subTest(cpus=cpus):
                self.idles(cpus)

    def idles(self, cpus):
        terminal = self.terminal(*LINUX, "--cpus", cpus, seconds=LINUX_SECONDS)
        terminal.expect(b"doppel# ")
        pids = [terminal.process.pid, *descendants(terminal.process.pid)]
        time.sleep(2)
        before = sum(map(ticks, pids))
        time.sleep(5)
        used = (sum(map(ticks, pids)) - before) / 5
        self.assertLess(used, 0.03)
        print(f"an idle guest of {cpus} uses {100 * used:.1f} % of a processor")
        terminal.send(b"exit\r")
        self.assertEqual(terminal.wait(), 0)


if __name__ == "__main__":
    main()
