"""A boot and a guest that computes in lock-step: each block when it is new, and every second one
that the executor enters."""
import json
import re

from harness import INITRAMFS, KERNEL, PATIENCE, TestCase, main, run

SECONDS = 1500 * PATIENCE
COMMANDS = ("seq 1 20000 | md5sum; sha256sum /bin/busybox; ls -lR / | gzip | md5sum; dmesg | sort; "
            "echo done")


class LockStepSlow(TestCase):
    def test_every_second_entry(self):
        result = run("run", "--kernel", KERNEL, "--initrd", INITRAMFS, "--stats=json",
                     "--engine", "translate", "--lock-step=2",
                     "--cmdline", f'console=ttyS0 doppel.run="{COMMANDS}"', seconds=SECONDS)
        self.assertNotIn("Lock-step:", result.stderr, result.stderr[:6000])
        self.assertEqual(result.returncode, 0, result.stderr[-3000:])
        self.assertIn("\ndone", result.stdout.replace("\r", ""))
        stats = json.loads(re.search(r"^\{\"engine.*\}$", result.stderr, re.M).group())
        self.assertGreater(stats["counters"]["lock_step.blocks"], 100_000)
        self.assertEqual(stats["counters"]["lock_step.abandoned"], 0)


if __name__ == "__main__":
    main()
