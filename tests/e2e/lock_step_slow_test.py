"""Every run of every block in lock-step: user programs and the kernel under them, from the
moment that the kernel starts them until the machine is off. What comes before has too many
loops that wait for the time, which does not stand still meanwhile."""
import json
import re

from harness import INITRAMFS, KERNEL, PATIENCE, TestCase, main, run

# The interpreter's share of the boot, in instructions.
BEFORE = 150_000_000
SECONDS = 3000 * PATIENCE


class LockStepSlow(TestCase):
    def test_each_run_of_each_block(self):
        result = run("run", "--kernel", KERNEL, "--initrd", INITRAMFS, "--stats=json",
                     "--engine", "interpret,translate", "--switch-at", str(BEFORE), "--lock-step",
                     "--cmdline", "console=ttyS0 doppel.run=\"seq 1 2000 | md5sum; dmesg | "
                     "md5sum >/dev/null; echo done\"", seconds=SECONDS)
        self.assertNotIn("Lock-step:", result.stderr, result.stderr[:6000])
        self.assertEqual(result.returncode, 0, result.stderr[-3000:])
        self.assertIn("\ndone", result.stdout.replace("\r", ""))
        stats = json.loads(re.search(r"^\{\"engine.*\}$", result.stderr, re.M).group())
        self.assertGreater(stats["counters"]["engine2.lock_step.blocks"], 1_000_000)
        self.assertEqual(stats["counters"]["engine2.lock_step.abandoned"], 0)


if __name__ == "__main__":
    main()
