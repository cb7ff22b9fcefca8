"""Disks at a virtio SCSI host, under Linux."""
import hashlib
import os
import re
import shutil
import subprocess
import unittest

from harness import ENGINE, KERNEL, MORE_INITRAMFS, TestCase, main, run

LINUX = ("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", MORE_INITRAMFS)
# Linux looks for disks in the background.
WAIT = "while [ ! -e /dev/{} ]; do sleep 0.1; done; "


class Scsi(TestCase):
    def linux(self, commands, *arguments, **options):
        return super().linux(commands, *arguments, initrd=MORE_INITRAMFS, **options)

    def test_disks(self):
        content = os.urandom((3 << 20) + 512)
        first, second = self.path("first", content), self.path("second", bytes(1 << 20))
        os.chmod(second, 0o444)
        output, counters = self.linux(
            WAIT.format("sda") + WAIT.format("sdb") +
            "md5sum /dev/sda; cat /sys/block/sda/device/vendor /sys/block/sda/device/wwid; "
            "cat /sys/block/sda/queue/rotational /sys/block/sdb/ro; "
            "dd if=/dev/urandom of=/dev/sda bs=64k count=20 seek=3 conv=fsync; "
            "dd if=/dev/zero of=/dev/sdb count=1; md5sum /dev/sda",
            "--scsi-disk", first + ",serial=one,without=packed", "--scsi-disk", second + ",readonly")
        found = re.findall(r"([0-9a-f]{32})  /dev/sda", output)
        with open(first, "rb") as file:
            written = file.read()
        self.assertNotEqual(content, written)
        self.assertEqual(found, [hashlib.md5(content).hexdigest(),
                                 hashlib.md5(written).hexdigest()], output)
        self.assertRegex(output, r"doppel\s+t10\.doppel\s+one\s+0\s+1\s")
        self.assertRegex(output, r"dd: .*/dev/sdb.*: (Operation not permitted|Read-only)")
        self.assertGreaterEqual(counters["scsi.disk0.flush.requests"], 1)
        self.assertEqual(counters["scsi.disk0.errors"], 0)
        self.assertEqual(counters["scsi.disk1.write.requests"], 0)
        self.assertEqual(counters["scsi.broken"], 0)

    @unittest.skipUnless(shutil.which("mke2fs"), "no mke2fs")
    def test_file_system(self):
        path = self.path("ext4")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", path, "32M"], check=True,
                       stdout=subprocess.DEVNULL)
        output, counters = self.linux(
            WAIT.format("sda") +
            "mkdir /m; mount -o discard /dev/sda /m; dd if=/dev/urandom of=/m/file bs=64k "
            "count=100; md5sum /m/file; cp /m/file /m/other; sync; rm /m/other; umount /m; "
            "mount /dev/sda /m; md5sum /m/file; fstrim /m; umount /m",
            "--scsi-disk", path + ",transport=mmio")
        digests = re.findall(r"([0-9a-f]{32})  /m/file", output)
        self.assertEqual(len(digests), 2, output)
        self.assertEqual(digests[0], digests[1])
        self.assertGreaterEqual(counters["scsi.disk0.discard.requests"], 1)

    def test_unusable_options(self):
        disk = self.path("disk", bytes(1 << 20))
        for arguments in [["/nowhere/at/all"], [disk + ",queues=2"], [disk + ",colour=red"],
                          [disk, disk + ",transport=mmio"]]:
            options = [part for argument in arguments for part in ("--scsi-disk", argument)]
            result = run(*LINUX, *options)
            self.assertEqual(result.returncode, 2, arguments)
            self.assert_one_line(result.stderr)
            self.assertIn("--scsi-disk", result.stderr)


if __name__ == "__main__":
    main()
