"""The Debian kernel under KVM: past the instructions that some hosts' KVM cannot emulate, to
the shell."""
import json

from harness import ENGINE, INITRAMFS, KERNEL, TestCase, main, run


class Slow(TestCase):
    def test_boots_to_the_shell(self):
        result = run("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS,
                     "--cmdline", 'console=ttyS0 doppel.run="cat /proc/uptime"', "--stats=json",
                     seconds=1500)
        print(result.stderr[-3000:])
        self.assertEqual(result.returncode, 0, result.stdout[-3000:])
        self.assertIn("doppel: init is running", result.stdout)
        stats = json.loads(result.stderr.splitlines()[-1])
        print({name: value for name, value in stats["counters"].items() if "interp" in name})


if __name__ == "__main__":
    main()
