"""Files as memory of the guest: /dev/pmem0 and /dev/pmem1, and programs that run from there."""
import hashlib
import os
import re
import shutil
import subprocess
import unittest

from harness import MORE_INITRAMFS, TestCase, main


def digest(path):
    with open(path, "rb") as file:
        return hashlib.md5(file.read()).hexdigest()


class Pmem(TestCase):
    def linux(self, commands, *arguments, **options):
        return super().linux(commands, *arguments, initrd=MORE_INITRAMFS, **options)

    def test_reads_writes_and_flushes(self):
        first, second = self.path("first", os.urandom(6 << 20)), self.path("second")
        before = digest(first)
        output, counters = self.linux(
            "md5sum /dev/pmem0; dd if=/dev/urandom of=/dev/pmem0 bs=64k count=40 seek=7 "
            "conv=fsync,notrunc; md5sum /dev/pmem0; dd if=/dev/pmem0 of=/dev/pmem1 bs=1M "
            "conv=fsync; wc -c /dev/pmem1",
            "--pmem", first, "--pmem", second + ",size=8M", "--memory", "256M")
        found = re.findall(r"([0-9a-f]{32})  /dev/pmem0", output)
        self.assertEqual(found, [before, digest(first)], output)
        self.assertNotEqual(before, found[1])
        self.assertIn(f"{8 << 20} /dev/pmem1", output)
        with open(first, "rb") as a, open(second, "rb") as b:
            self.assertEqual(a.read(), b.read(6 << 20))
        for device in ["pmem0", "pmem1"]:
            self.assertGreaterEqual(counters[f"{device}.flush.requests"], 1)
            self.assertEqual(counters[f"{device}.broken"], 0)

    @unittest.skipUnless(shutil.which("mke2fs"), "no mke2fs")
    def test_programs_run_from_there(self):
        path = self.path("ext4")
        subprocess.run(["mke2fs", "-q", "-b", "4096", "-t", "ext4", path, "32M"],
                       check=True, stdout=subprocess.DEVNULL)
        output, _ = self.linux(
            "mkdir /m; mount -o dax=always /dev/pmem0 /m; mount | grep /m; cp /bin/busybox /m; "
            "/m/busybox md5sum /m/busybox; /m/busybox md5sum /bin/busybox; umount /m", "--pmem", path)
        self.assertRegex(output, r"/dev/pmem0 on /m .*dax=always")
        found = re.findall(r"([0-9a-f]{32})  /", output)
        self.assertEqual(len(found), 2, output)
        self.assertEqual(found[0], found[1])
        subprocess.run(["e2fsck", "-fn", path], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def test_readonly(self):
        path = self.path("file", os.urandom(2 << 20))
        os.chmod(path, 0o444)
        before = digest(path)
        output, _ = self.linux("md5sum /dev/pmem0; dd if=/dev/zero of=/dev/pmem0 bs=4k count=2; "
                               "echo 3 >/proc/sys/vm/drop_caches; md5sum /dev/pmem0",
                               "--pmem", path + ",readonly")
        self.assertEqual(re.findall(r"([0-9a-f]{32})  /dev/pmem0", output), [before] * 2, output)
        self.assertEqual(digest(path), before)

    def test_unusable_options(self):
        odd = self.path("odd", b"x" * 4096)
        self.assert_refused("--pmem", ["", "/nowhere/at/all", odd, odd + ",size=2M", odd + ",size=x",
                      odd + ",colour=red", self.folder.name, self.path("new") + ",size=3M"])


if __name__ == "__main__":
    main()
