"""The Debian kernel under KVM: to the shell in hardware. A software KVM gets as far as the first
program: past the instructions that it cannot emulate, but its SYSCALL stays in ring 3."""
import json

from harness import ENGINE, INITRAMFS, KERNEL, TestCase, main, run

SECONDS = 1500
# The kernel's tests of its own ciphers are two thirds of the instructions of a boot.
ARGUMENTS = ["run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS, "--cmdline",
             'console=ttyS0 cryptomgr.notests doppel.run="cat /proc/uptime"', "--stats=json"]


class Slow(TestCase):
    def setUp(self):
        super().setUp()
        self.hardware = "\n  kvm           works\n" in run("doctor").stdout

    def test_boots_to_the_shell(self):
        if not self.hardware:
            self.skipTest("KVM is software here")
        result = run(*ARGUMENTS, seconds=SECONDS)
        print(result.stderr[-3000:])
        self.assertEqual(result.returncode, 0, result.stdout[-3000:])
        self.assertIn("doppel: init is running", result.stdout)
        stats = json.loads(result.stderr.splitlines()[-1])
        print({name: value for name, value in stats["counters"].items() if "interp" in name})

    def test_boots_to_the_first_program(self):
        if self.hardware:
            self.skipTest("the other test goes further")
        self.terminal(*ARGUMENTS, seconds=SECONDS).expect(b"Run /init as init process")


if __name__ == "__main__":
    main()
