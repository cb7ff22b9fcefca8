"""32-bit Linux: kernels without and with PAE, and 32-bit programs under a 64-bit kernel."""
import hashlib
import json
import os
import re

from harness import ENGINE, GUESTS, KERNEL, LINUX_SECONDS, TestCase, main, run

FOLDER = os.path.join(GUESTS, "linux32")
INITRAMFS = os.path.join(FOLDER, "initramfs.gz")
BUSYBOX = os.path.join(FOLDER, "busybox")
COMMANDS = ("uname -m; sha256sum /bin/busybox; seq 1 20000 | md5sum; "
            "gzip -c /bin/busybox | gunzip | sha1sum; "
            "awk 'BEGIN { for (i = 1; i < 2000; ++i) s += i / 7; print s }'; "
            "for i in 1 2 3 4 5 6 7 8; do sh -c 'echo child $0' $i; done | sort -r | head -n 1")


def expected():
    with open(BUSYBOX, "rb") as file:
        busybox = file.read()
    numbers = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    return [hashlib.sha256(busybox).hexdigest(), hashlib.md5(numbers).hexdigest(),
            hashlib.sha1(busybox).hexdigest(), "285571", "child 8"]


class Linux32(TestCase):
    def check(self, kernel, machine, *options):
        """The counters of a machine that computed what it should have."""
        result = run("run", "--engine", ENGINE, "--kernel", kernel, "--initrd", INITRAMFS,
                     "--stats=json", "--cmdline", f'console=ttyS0 quiet doppel.run="{COMMANDS}"',
                     *options, seconds=LINUX_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        lines = result.stdout.replace("\r", "").splitlines()
        self.assertIn(machine, lines, result.stdout[-2000:])
        for text in expected():
            self.assertIn(text, result.stdout)
        for trouble in ["Oops", "BUG:", "segfault", "general protection"]:
            self.assertNotIn(trouble, result.stdout)
        return json.loads(re.search(r"^\{\"engine.*\}$", result.stderr, re.M).group())["counters"]

    def check_translated(self, counters, *names):
        if ENGINE != "translate":
            return
        for name in names:
            self.assertGreater(counters[name], 1000, name)
        # Real mode, crossings and the like; millions are translated.
        self.assertLess(counters["interpreter.instructions"], 2_000_000)

    def test_kernel(self):
        counters = self.check(os.path.join(FOLDER, "vmlinuz-686"), "i686")
        self.check_translated(counters, "window32.pages", "user_code.blocks",
                              "supervisor_code.blocks")

    def test_kernel_with_pae(self):
        counters = self.check(os.path.join(FOLDER, "vmlinuz-686-pae"), "i686")
        self.check_translated(counters, "window32.pages", "user_code.blocks",
                              "supervisor_code.blocks")

    def test_kernel_with_pae_and_little_memory(self):
        self.check(os.path.join(FOLDER, "vmlinuz-686-pae"), "i686", "--memory", "96M")

    def test_kernel_with_pae_and_memory_above_4_gib(self):
        self.check(os.path.join(FOLDER, "vmlinuz-686-pae"), "i686", "--memory", "5G")

    def test_programs_under_a_64_bit_kernel(self):
        counters = self.check(KERNEL, "x86_64")
        self.check_translated(counters, "user_code.blocks")

    def test_kernel_in_lock_step(self):
        if ENGINE != "translate":
            self.skipTest("checks translated code")
        counters = self.check(os.path.join(FOLDER, "vmlinuz-686-pae"), "i686", "--lock-step=1000")
        self.assertGreater(counters["lock_step.blocks"], 20_000)
        self.assertGreater(counters["lock_step.user_blocks"], 2000)


if __name__ == "__main__":
    main()
