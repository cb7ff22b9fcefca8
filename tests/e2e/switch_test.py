"""Engines that check each other: a guest that changes engine while it runs does not notice, and
translated code in lock-step with the interpreter does what the interpreter does."""
import json
import os
import re
import signal
import subprocess
import time

from harness import (DOPPEL, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, main, run)

LINUX = ("run", "--kernel", KERNEL, "--initrd", INITRAMFS, "--stats=json")
COMPUTE = ("seq 1 40000 | md5sum; sha256sum /bin/busybox; "
           "awk 'BEGIN{s=0;for(i=1;i<100000;i++)s+=i/3;print s}'; "
           "seq 1 20000 | sort -r | tail -n 2; for i in 1 2 3 4 5; do sleep 0.2; done; "
           "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i; "
           "dd if=/dev/zero bs=64k count=50 2>/dev/null | gzip | md5sum; "
           "echo it is over; dmesg")
COMPLAINTS = re.compile(r"unstable|stall|lockup|BUG|Oops|WARNING|backwards|skew|lost ticks", re.I)
# Words of a healthy boot that look like a complaint.
HARMLESS = re.compile(r"report a bug|Command line|command line", re.I)


def stats_of(text):
    return json.loads(re.search(r"^\{\"engine.*\}$", text, re.M).group())


class Switch(TestCase):
    def test_at_an_instruction(self):
        # The setup of the kernel, its decompression, its own code, user programs.
        for count in (1, 1000, 5_000_000, 60_000_000, 150_000_000):
            with self.subTest(count=count):
                result = run(*LINUX, "--engine", "interpret,translate", "--switch-at", str(count),
                             "--cmdline", "console=ttyS0", seconds=LINUX_SECONDS)
                self.assertEqual(result.returncode, 0, result.stderr[-2000:])
                for text in ["Linux version 6.", "doppel: init is running", "powering off"]:
                    self.assertIn(text, result.stdout)
                stats = stats_of(result.stderr)
                self.assertEqual(stats["engine"], "interpret,translate")
                self.assertEqual(stats["counters"]["hand_over.switches"], 1)
                self.assertEqual(stats["counters"]["engine1.interpreter.instructions"], count)
                self.assertGreater(stats["counters"]["engine2.translate.entries_user"], 0)

    def compute(self, engines, pause):
        """What the guest printed, what its kernel said, the statistics."""
        errors = self.path("errors")
        with open(errors, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [DOPPEL, *LINUX, "--engine", engines, "--cmdline",
                 f'console=ttyS0 quiet doppel.run="{COMPUTE}"'],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        os.set_blocking(process.stdout.fileno(), False)
        output = b""
        deadline = time.monotonic() + LINUX_SECONDS
        while process.poll() is None:
            self.assertLess(time.monotonic(), deadline, output[-3000:])
            time.sleep(pause or 0.1)
            output += process.stdout.read() or b""
            if pause:
                process.send_signal(signal.SIGUSR2)
        output += process.stdout.read() or b""
        with open(errors, encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(process.returncode, 0, text[-3000:])
        output = output.decode(errors="replace").replace("\r", "")
        printed, _, kernel = output.partition("it is over\n")
        return printed.partition("init is running\n")[2], kernel, stats_of(text)

    def test_back_and_forth_while_it_computes(self):
        expected, _, _ = self.compute("interpret", None)
        self.assertEqual(expected.count("\n"), 8, expected)
        printed, kernel, stats = self.compute("interpret,translate", 0.1)
        self.assertEqual(printed, expected)
        self.assertIn("Linux version", kernel)
        complaints = [line for line in kernel.split("\n")
                      if COMPLAINTS.search(line) and not HARMLESS.search(line)]
        self.assertEqual(complaints, [])
        self.assertGreater(stats["counters"]["hand_over.switches"], 10)

    def test_two_of_a_kind(self):
        for engine in ("interpret", "translate"):
            printed, _, stats = self.compute(f"{engine},{engine},{engine}", 0.05)
            self.assertIn("\n20000\n", printed)
            self.assertGreater(stats["counters"]["hand_over.switches"], 10)

    def test_kvm_is_refused(self):
        result = run(*LINUX, "--engine", "interpret,kvm")
        self.assertEqual(result.returncode, 2)
        self.assert_one_line(result.stderr)
        self.assertIn("--engine: kvm takes no turns", result.stderr)


class LockStep(TestCase):
    def test_each_block_of_a_boot(self):
        result = run(*LINUX, "--engine", "translate", "--cmdline", "console=ttyS0",
                     "--lock-step=100", seconds=LINUX_SECONDS)
        self.assertNotIn("Lock-step:", result.stderr, result.stderr[:6000])
        counters = stats_of(result.stderr)["counters"]
        # A block that is left on a way that nobody compares would be a hole.
        self.assertEqual(counters["lock_step.abandoned"], 0)
        self.assertIn("doppel: init is running", result.stdout)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertGreater(counters["lock_step.blocks"], 20_000)
        self.assertGreater(counters["lock_step.user_blocks"], 1_000)
        self.assertGreater(counters["lock_step.writes"], 50_000)
        self.assertLess(counters["lock_step.partly"], counters["lock_step.blocks"] // 50)

    def test_beside_a_busy_disk(self):
        # The device writes to its rings while blocks that read them are checked.
        path = self.path("disk")
        with open(path, "wb") as file:
            file.truncate(32 << 20)
        read = "dd if=/dev/vda of=/dev/null iflag=direct 2>/dev/null"
        commands = (f"dd if=/dev/zero of=/dev/vda bs=4k count=2000 oflag=direct 2>/dev/null; "
                    f"{read} bs=4k count=3000 & {read} bs=64k count=500 & wait; echo all done")
        result = run(*LINUX, "--engine", "translate", "--disk", path, "--lock-step=50",
                     "--cmdline", f'console=ttyS0 doppel.run="{commands}"', seconds=LINUX_SECONDS)
        self.assertNotIn("Lock-step:", result.stderr, result.stderr[:6000])
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertIn("\nall done", result.stdout.replace("\r", ""))
        counters = stats_of(result.stderr)["counters"]
        self.assertGreater(counters["disk0.read.requests"], 3400)
        self.assertEqual(counters["disk0.broken"], 0)
        self.assertEqual(counters["lock_step.abandoned"], 0)


if __name__ == "__main__":
    main()
