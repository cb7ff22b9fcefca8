"""The Debian kernel from its banner to a shell and back off, under the interpreter."""
import json
import re
import subprocess
import time

from harness import (DOPPEL, ENGINE, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, main, run)

LINUX = ("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS)


class Linux(TestCase):
    def test_shell_on_a_terminal(self):
        terminal = self.terminal(*LINUX, "--cmdline", "console=ttyS0", "--stats=json",
                                 seconds=LINUX_SECONDS)
        terminal.expect(b"Linux version 6.")
        terminal.expect(b"doppel: init is running")
        terminal.expect(b"doppel# ")
        terminal.send(b"echo $((6 * 7)) apples\r")
        terminal.expect(b"\n42 apples")
        terminal.expect(b"doppel# ")
        # Control characters reach the guest's terminal: the signal ends the sleep.
        terminal.send(b"sleep 1000\r")
        terminal.expect(b"sleep 1000\r\n")
        time.sleep(1)  # until then the shell's line editor would take the key as a character
        terminal.send(b"\x03")
        terminal.expect(b"doppel# ")
        terminal.send(b"cat /proc/interrupts | grep -c ttyS0\r")
        terminal.expect(b"\n1\r")
        terminal.expect(b"doppel# ")
        terminal.send(b"test $(date +%s) -gt 1700000000 && echo the year is $(date +%Y)\r")
        terminal.expect(b"\nthe year is 20")
        terminal.expect(b"doppel# ")
        terminal.send(b"exit\r")
        terminal.expect(b"doppel: powering off")
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(terminal.settings(), terminal.before)
        stats = json.loads(re.search(rb"\{\"engine.*\}", terminal.output).group())
        self.assertEqual(stats["engine"], ENGINE)
        self.assertGreater(stats["wall_seconds"], 0)

    def test_end_of_input_into_a_pipe(self):
        result = run(*LINUX, "--cmdline", "console=ttyS0", seconds=LINUX_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        for text in ["Linux version 6.", "doppel: init is running", "doppel: powering off"]:
            self.assertIn(text, result.stdout)

    def test_two_processors(self):
        result = run(*LINUX, "--cpus", "2", "--cmdline",
                     'console=ttyS0 doppel.run="nproc"',
                     seconds=LINUX_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertIn("Total of 2 processors activated", result.stdout)
        self.assertRegex(result.stdout, r"(?m)^2\r?$")
        for trouble in ["detected stalls", "soft lockup", "clocksource watchdog", "TSC unstable"]:
            self.assertNotIn(trouble, result.stdout)

    def test_four_processors_at_work(self):
        work = ("for i in 1 2 3 4 5 6 7 8; do (find /bin /etc | sort | md5sum >/tmp/$i) & done; wait; "
                "cat /tmp/[1-8] | uniq -c")
        result = run(*LINUX, "--cpus", "4", "--cmdline", f'console=ttyS0 doppel.run="{work}"',
                     seconds=LINUX_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertRegex(result.stdout, r"(?m)^ +8 [0-9a-f]{32}  -\r?$")
        for trouble in ["detected stalls", "soft lockup", "BUG:", "segfault"]:
            self.assertNotIn(trouble, result.stdout)
        for aid in ["PV spinlocks enabled", "setup PV IPIs", "setup PV sched yield"]:
            self.assertIn(f"kvm-guest: {aid}", result.stdout)

    def test_more_processors_than_the_host_has_and_one_lock(self):
        # All write to one pipe, byte by byte, and change one directory.
        work = ("mkdir /tmp/d; (for k in 1 2 3 4 5 6 7 8; do dd if=/dev/zero bs=1 count=4000 & "
                "(i=0; while [ $i -lt 200 ]; do : >/tmp/d/$k.$i; i=$((i+1)); done) & done; wait) "
                "2>/dev/null | wc -c; ls /tmp/d | wc -l")
        result = run(*LINUX, "--cpus", "8", "--stats=json", "--cmdline",
                     f'console=ttyS0 doppel.run="{work}"', seconds=LINUX_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertRegex(result.stdout, r"(?m)^32000\r?$")
        self.assertRegex(result.stdout, r"(?m)^1600\r?$")
        for trouble in ["detected stalls", "soft lockup", "BUG:", "segfault"]:
            self.assertNotIn(trouble, result.stdout)
        counters = json.loads(result.stderr.splitlines()[-1])["counters"]
        self.assertGreater(counters["hypercalls.kicked_halts"], 0)
        self.assertLessEqual(counters["hypercalls.kicked_halts"], counters["hypercalls.kicks"])

    def test_reboot_in_place(self):
        process = subprocess.Popen([DOPPEL, *LINUX, "--cmdline",
                                    'console=ttyS0 doppel.run="reboot -f"'],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        banners = 0
        for line in process.stdout:
            banners += line.count(b"Linux version 6.")
            if banners == 2:
                return
        self.fail("the machine did not start a second time")


if __name__ == "__main__":
    main()
