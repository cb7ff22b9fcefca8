"""doppel image, held against qemu-img: each reads, checks and compares what the other made."""
import json
import os
import random
import shutil
import subprocess
import tempfile
import unittest

from harness import DOPPEL

MIB = 1 << 20


def tool(*arguments, status=0):
    ended = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=120)
    if status is not None and ended.returncode != status:
        raise AssertionError(f"{' '.join(arguments)} ended with {ended.returncode}:\n"
                             f"{ended.stdout}{ended.stderr}")
    return ended


def image(*arguments, status=0):
    return tool(DOPPEL, "image", *arguments, status=status)


def qemu_img(*arguments, status=0):
    return tool("qemu-img", *arguments, status=status)


def qemu_io(path, *commands, form="qcow2"):
    arguments = [part for command in commands for part in ("-c", command)]
    return tool("qemu-io", "-f", form, *arguments, path)


class ImageTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def content(self, name, size=10 * MIB, seed=1):
        """A raw disk with data, text, holes and zeroes."""
        chance = random.Random(seed)
        path = self.path(name)
        with open(path, "wb") as file:
            for at in range(0, size, 256 * 1024):
                kind = chance.randrange(4)
                count = chance.randrange(1, 256 * 1024)
                file.seek(at)
                if kind == 0:
                    file.write(chance.randbytes(count))
                elif kind == 1:
                    file.write(b"all work and no play " * (count // 21))
                elif kind == 2:
                    file.write(bytes(count))
            file.truncate(size)
        return path

    def same(self, a, a_format, b, b_format):
        qemu_img("compare", "-f", a_format, "-F", b_format, a, b)

    def consistent(self, path):
        qemu_img("check", "-f", "qcow2", path)
        found = json.loads(image("check", "--json", path).stdout)
        self.assertEqual((found["corruptions"], found["leaks"]), (0, 0))

    def test_create(self):
        for options in ([], ["--cluster-size", "512"], ["--cluster-size", "2M"], ["--version", "2"],
                        ["--compression", "zstd"]):
            path = self.path("new.qcow2")
            image("create", "--force", *options, path, "100M")
            self.consistent(path)
            info = json.loads(qemu_img("info", "--output=json", path).stdout)
            self.assertEqual(info["virtual-size"], 100 * MIB)
            qemu_io(path, "write -P 7 0 64k", "write -P 8 99M 1M", "read -P 0 64k 64k")
            self.consistent(path)
        self.assertEqual(image("create", path, "1G", status=2).stdout, "")
        image("create", self.path("new.img"), "3G")
        self.assertEqual(os.stat(self.path("new.img")).st_size, 3 << 30)
        self.assertLess(os.stat(self.path("new.img")).st_blocks, 100)

    def test_sizes_of_disks(self):
        path = self.path("size.qcow2")
        for size, cluster in (("0", "64K"), ("512", "64K"), ("8G", "512"), ("64T", "64K"),
                              ("1000K", "1M")):
            image("create", "--force", "--cluster-size", cluster, path, size)
            self.consistent(path)
        image("create", "--force", path, "4E", status=2)
        image("create", "--force", "--cluster-size", "512", path, "1T", status=2)

    def test_convert_both_ways(self):
        raw = self.content("disk.img")
        for options in ([], ["-c"], ["-c", "--compression", "zstd"], ["--cluster-size", "512"],
                        ["-c", "--cluster-size", "4K"], ["-c", "--cluster-size", "2M"]):
            with self.subTest(options):
                converted, back = self.path("disk.qcow2"), self.path("back.img")
                image("convert", *options, raw, converted)
                self.consistent(converted)
                self.same(raw, "raw", converted, "qcow2")
                image("convert", converted, back)
                with open(raw, "rb") as one, open(back, "rb") as other:
                    self.assertTrue(one.read() == other.read())
                self.assertLessEqual(os.stat(back).st_blocks, os.stat(raw).st_blocks + 64)

    def test_reads_what_qemu_img_makes(self):
        raw = self.content("disk.img", size=10 * MIB + 1536, seed=2)
        theirs, back = self.path("theirs.qcow2"), self.path("back.img")
        for options in ([], ["-c"], ["-o", "compat=0.10"], ["-o", "cluster_size=512"],
                        ["-c", "-o", "compression_type=zstd"], ["-o", "refcount_bits=1"],
                        ["-o", "refcount_bits=64"], ["-o", "preallocation=metadata"],
                        ["-o", "lazy_refcounts=on"], ["-c", "-o", "cluster_size=2M"],
                        ["-S", "0"]):
            with self.subTest(options):
                qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, theirs)
                image("check", theirs)
                image("convert", theirs, back)
                self.same(raw, "raw", back, "raw")

    def test_reads_what_qemu_io_writes(self):
        chance = random.Random(5)
        for cluster in (512, 4096, 65536):
            path, back = self.path("io.qcow2"), self.path("io.img")
            qemu_img("create", "-f", "qcow2", "-o", f"cluster_size={cluster}", path, "20001K")
            commands = []
            for _ in range(60):
                at = chance.randrange(0, 20000 * 2) * 512
                length = min(chance.randrange(1, 400) * 512, 20001 * 1024 - at)
                kind = chance.choice([f"write -P {chance.randrange(1, 255)}", "write -z",
                                      "write -z -u", "discard"])
                commands.append(f"{kind} {at} {length}")
            qemu_io(path, *commands)
            image("check", path)
            image("convert", path, back)
            self.same(path, "qcow2", back, "raw")

    def test_backing_files(self):
        base = self.content("base.img", seed=3)
        changed = self.path("changed.img")
        shutil.copy(base, changed)
        with open(changed, "r+b") as file:
            file.seek(3 * MIB)
            file.write(b"changed" * 1000)
            file.seek(7 * MIB)
            file.write(bytes(300000))
        os.mkdir(self.path("below"))
        shutil.move(base, self.path("below/base.img"))
        top = self.path("top.qcow2")
        image("convert", "-b", "below/base.img", "-F", "raw", changed, top)
        self.consistent(top)
        self.same(changed, "raw", top, "qcow2")
        self.assertLess(os.stat(top).st_size, 2 * MIB)
        image("create", "-b", "top.qcow2", self.path("third.qcow2"))
        self.same(changed, "raw", self.path("third.qcow2"), "qcow2")
        info = json.loads(image("info", "--json", self.path("third.qcow2")).stdout)
        self.assertEqual(info["backing-filename-format"], "qcow2")
        self.assertEqual(info["full-backing-filename"], top)
        qemu_io(self.path("third.qcow2"), "write -P 9 1M 100k", "write -z 2M 512k")
        image("convert", self.path("third.qcow2"), self.path("flat.img"))
        self.same(self.path("third.qcow2"), "qcow2", self.path("flat.img"), "raw")

    def test_a_chain_that_qemu_img_makes(self):
        below = None
        for number in range(5):
            path = self.path(f"{number}.qcow2")
            backing = ["-b", os.path.basename(below), "-F", "qcow2"] if below else []
            qemu_img("create", "-f", "qcow2", *backing, path, f"{5 + number}M")
            qemu_io(path, f"write -P {number + 1} {number}M 2M")
            below = path
        image("convert", below, self.path("flat.img"))
        self.same(below, "qcow2", self.path("flat.img"), "raw")

    def test_snapshots(self):
        path = self.path("s.qcow2")
        qemu_img("create", "-f", "qcow2", path, "10M")
        qemu_io(path, "write -P 1 0 1M")
        qemu_img("snapshot", "-c", "first", path)
        qemu_io(path, "write -P 2 512k 1M", "write -P 3 5M 64k")
        qemu_img("snapshot", "-c", "second", path)
        qemu_io(path, "discard 0 2M", "write -P 4 6M 1M")
        image("check", path)
        listed = json.loads(image("info", "--json", path).stdout)["snapshots"]
        self.assertEqual([one["name"] for one in listed], ["first", "second"])
        for name in ("first", "second"):
            ours, theirs = self.path("ours.img"), self.path("theirs.img")
            image("convert", "--snapshot", name, path, ours)
            qemu_img("convert", "-f", "qcow2", "-O", "raw", "-l", name, path, theirs)
            self.same(ours, "raw", theirs, "raw")
        image("convert", "--snapshot", "third", path, self.path("no.img"), status=2)
        image("resize", path, "+1M", status=2)

    def test_resize(self):
        path, back = self.path("r.qcow2"), self.path("r.img")
        for options in ([], ["--cluster-size", "512"]):
            image("create", "--force", *options, path, "10M")
            qemu_io(path, "write -P 1 0 10M")
            image("resize", path, "+90M")
            self.consistent(path)
            qemu_io(path, "read -P 1 0 10M", "read -P 0 10M 90M", "write -P 2 50M 1M")
            self.assertIn("--shrink", image("resize", path, "5M", status=2).stderr)
            image("resize", "--shrink", path, "-95M")
            self.consistent(path)
            image("resize", path, "20M")
            qemu_io(path, "read -P 1 0 5M", "read -P 0 5M 15M")
            self.consistent(path)
        image("create", "-f", "raw", back, "1M")
        image("resize", back, "2M")
        self.assertEqual(os.stat(back).st_size, 2 * MIB)
        # What a longer backing file has behind the old end does not show through.
        short = self.path("short.qcow2")
        image("create", "-b", "r.qcow2", short, "1M")
        image("resize", short, "3M")
        qemu_io(short, "read -P 1 0 1M", "read -P 0 1M 2M")
        self.consistent(short)

    def test_locks_that_qemu_knows(self):
        path = self.path("locked.qcow2")
        image("create", path, "10M")
        with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as writer:
            writer.stdin.write("write 0 512\n")
            writer.stdin.flush()
            while "wrote" not in writer.stdout.readline():
                pass
            self.assertIn("open for writing", image("check", path, status=2).stderr)
            image("resize", path, "20M", status=2)
            image("info", path)
            writer.stdin.write("quit\n")
            writer.stdin.flush()
            writer.wait(30)
        image("check", path)

    def test_repair(self):
        raw = self.content("disk.img", seed=9)
        path = self.path("broken.qcow2")
        image("convert", raw, path)
        with open(path, "r+b") as file:  # one refcount block, all of it
            file.seek(int.from_bytes(read(path, 48, 8), "big"))
            block = int.from_bytes(file.read(8), "big")
            file.seek(block)
            counts = bytearray(file.read(400))
            file.seek(block)
            file.write(bytes(len(counts)))
        self.assertIn("refcount", image("check", path, status=4).stdout)
        image("convert", path, self.path("refused.img"), status=2)
        image("check", "--repair", "leaks", path, status=2)
        image("check", "--repair", "all", path)
        self.consistent(path)
        self.same(raw, "raw", path, "qcow2")
        with open(path, "r+b") as file:  # refcounts that nobody needs
            file.seek(int.from_bytes(read(path, 48, 8), "big"))
            block = int.from_bytes(file.read(8), "big")
            file.seek(block + 60000)
            file.write(b"\0\1" * 100)
        self.assertEqual(json.loads(image("check", "--json", path, status=5).stdout)["leaks"], 100)
        image("check", "--repair", "leaks", path)
        self.consistent(path)

    def test_what_is_not_supported_is_refused(self):
        for options, said in ((["-o", "extended_l2=on"], "subclusters"),
                              (["-o", f"data_file={self.path('data')}"], "external data file")):
            path = self.path("odd.qcow2")
            qemu_img("create", "-f", "qcow2", *options, path, "10M")
            self.assertIn(said, image("check", path, status=2).stderr)
        image("info", self.path("missing"), status=2)
        image("frobnicate", status=2)
        image("convert", self.path("odd.qcow2"), status=2)

    def test_nbd(self):
        raw = self.content("export.img", seed=11)
        copy = self.path("copy.img")
        serve = ["nbdkit", "--exit-with-parent", "-f", "-U", self.path("socket"), "file", raw]
        with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as server:
            uri = f"nbd+unix:///?socket={self.path('socket')}"
            while not os.path.exists(self.path("socket")):
                self.assertIsNone(server.poll())
            image("convert", uri, copy)
            self.same(raw, "raw", copy, "raw")
            other = self.content("other.img", seed=12)
            image("convert", "-O", "raw", other, uri)
            server.terminate()
            server.wait(30)
        self.same(raw, "raw", other, "raw")

    def test_help(self):
        self.assertIn("convert", image("--help").stdout)
        for command in ("create", "info", "check", "convert", "resize"):
            text = image(command, "--help").stdout
            self.assertIn("Example", text)
            self.assertLessEqual(max(map(len, text.splitlines())), 80)


def read(path, at, count):
    with open(path, "rb") as file:
        file.seek(at)
        return file.read(count)


if __name__ == "__main__":
    unittest.main()
