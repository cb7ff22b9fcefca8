"""Virtio devices under Linux: entropy, disks over each transport and ring, ports, the balloon."""
import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
import unittest

from harness import DOPPEL, ENGINE, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, main, run

LINUX = ("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS)
RINGS = "packed+event-idx+indirect"


class Virtio(TestCase):
    def disk(self, name, size):
        content = os.urandom(size)
        return self.path(name, content), hashlib.md5(content).hexdigest()

    def test_entropy(self):
        output, counters = self.linux(
            "cat /sys/class/misc/hw_random/rng_current; head -c 1000 /dev/hwrng | wc -c")
        self.assertIn("virtio_rng.0", output)
        self.assertIn("1000", output)
        self.assertGreaterEqual(counters["rng.bytes"], 1000)
        self.assertEqual(counters["rng.broken"], 0)

    def test_disks_over_every_transport_and_ring(self):
        ways = ["", ",without=packed", f",without={RINGS}", ",transport=mmio",
                f",transport=mmio,without={RINGS}", ",access-platform=on", ",queues=2"]
        disks = [self.disk(f"disk{i}", 300 * 1024 + 512 * i) for i in range(len(ways))]
        arguments = []
        for (path, _), way in zip(disks, ways):
            arguments += ["--disk", path + way]
        output, counters = self.linux("md5sum /dev/vd?", *arguments)
        # PCI comes first; the order in each is that of the command line.
        order = [i for i, way in enumerate(ways) if "mmio" not in way]
        order += [i for i, way in enumerate(ways) if "mmio" in way]
        found = [line.split()[0] for line in output.splitlines() if "/dev/vd" in line]
        self.assertEqual(found, [disks[i][1] for i in order], output)
        for i in range(len(ways)):
            self.assertEqual(counters[f"disk{i}.broken"], 0)

    def test_legacy_drivers(self):
        path, digest = self.disk("disk", 1 << 20)
        for cmdline in ["virtio_pci.force_legacy=1", "virtio_pci.force_legacy=1 pci=nomsi",
                        "pci=nomsi"]:
            output, _ = self.linux("md5sum /dev/vda; head -c 100 /dev/hwrng | wc -c",
                                   "--disk", path, cmdline=cmdline)
            self.assertIn(digest, output, cmdline)

    @unittest.skipUnless(shutil.which("mke2fs"), "no mke2fs")
    def test_file_system(self):
        path = self.path("ext4")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", path, "32M"], check=True)
        output, _ = self.linux(
            "mkdir /m; mount /dev/vda /m; dd if=/dev/urandom of=/m/file bs=64k count=100; "
            "md5sum /m/file; umount /m; mount /dev/vda /m; md5sum /m/file; umount /m",
            "--disk", path)
        digests = re.findall(r"([0-9a-f]{32})  /m/file", output)
        self.assertEqual(len(digests), 2, output)
        self.assertEqual(digests[0], digests[1])
        subprocess.run(["e2fsck", "-fn", path], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def test_ports_and_console(self):
        where, hvc = self.path("port"), self.path("hvc")
        # The port is opened once: Linux refuses a second time.
        commands = ("cat /sys/class/virtio-ports/*/name; exec 3<>$(ls /dev/vport*p1); "
                    "echo greetings >/dev/hvc0; read -r line <&3; echo got:$line >&3; sleep 1")
        process = subprocess.Popen(
            [DOPPEL, *LINUX, "--console", "none", "--port", f"org.test=socket:{where}",
             "--virtio-console", f"file:{hvc}", "--cmdline",
             f'console=ttyS0 doppel.run="{commands}"'], stdin=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        deadline = time.monotonic() + LINUX_SECONDS
        while True:
            try:
                client.connect(where)
                break
            except OSError:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
        client.settimeout(LINUX_SECONDS)
        client.sendall(b"a line\n")
        received = b""
        while b"got:a line" not in received:
            part = client.recv(4096)
            self.assertTrue(part, received)
            received += part
        self.assertEqual(process.wait(LINUX_SECONDS), 0)
        with open(hvc, "rb") as file:
            self.assertIn(b"greetings", file.read())

    def test_balloon(self):
        output, counters = self.linux(
            "sleep 3; cat /proc/meminfo | grep MemFree", "--memory", "512M", "--balloon", "128M")
        free = int(re.search(r"MemFree: *(\d+) kB", output).group(1))
        self.assertLess(free, (512 - 128) * 1024)
        self.assertGreaterEqual(counters["balloon.released_pages"], (128 << 20) // 4096)
        self.assertEqual(counters["balloon.refused_pages"], 0)

    def test_unusable_options(self):
        for arguments in [("--disk", "/nowhere/at/all"), ("--disk", "x,colour=red"),
                          ("--rng", "maybe"), ("--balloon", "lots"), ("--port", "noname"),
                          ("--balloon", "1M,access-platform=on"),
                          ("--disk", "x,without=speed"), ("--virtio-console", "stdio")]:
            result = run(*LINUX, *arguments)
            self.assertIn(result.returncode, (2, 3), arguments)
            self.assert_one_line(result.stderr)
            self.assertIn(arguments[0], result.stderr)


if __name__ == "__main__":
    main()
