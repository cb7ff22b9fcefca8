"""What a guest was told is on its disk is there, whatever happens to doppel: a guest writes and
flushes (guests/bare/c/writer.c), doppel is killed at random instants, and the disk has every block
that was flushed, each sector whole. DOPPEL_KILLS of each kind of disk, else a few."""
import os
import random
import shutil
import struct
import subprocess
import tempfile
import threading
import time

from harness import DOPPEL, ENGINE, PATIENCE, TestCase, bare, main, run

KILLS = int(os.environ.get("DOPPEL_KILLS", "5"))
SEED = int(os.environ.get("DOPPEL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
DISK, BLOCK, SECTOR = 16 << 20, 4096, 512
KILLS_OF_ONE_IMAGE = 20  # then it has all its clusters, and a new one is more interesting
START_SECONDS = 60 * PATIENCE
MOST_AHEAD = 1000
MASK = 0xffffffff


def mix(a, b, c):
    x = (a * 0x9e3779b1 ^ b * 0x85ebca6b ^ c * 0xc2b2ae35) & MASK
    x = (x ^ x >> 16) * 0x7feb352d & MASK
    x = (x ^ x >> 15) * 0x846ca68b & MASK
    return x ^ x >> 16


def transaction(seed, number):
    """Its writes in the guest's order: (place, are they zeros)."""
    for i in range(1 + mix(seed, number, 0) % 8):
        choice = mix(seed, number, i + 1)
        yield choice % (DISK // BLOCK), choice >> 29 == 0


def sector_of(number, place, zeros, sector):
    if zeros:
        return bytes(SECTOR)
    return struct.pack("<4I", number, place, sector, mix(number, place, sector)) * (SECTOR // 16)


def writes_to(seed, flushed):
    """For each place, the writes that it may show: those of the last transaction that was flushed,
    in any order, and all after it; nothing in front: what was there before, too. The guest may be
    ahead of what arrived from its console."""
    places = {}
    for number in range(1, flushed + MOST_AHEAD):
        by_place = {}
        for place, zeros in transaction(seed, number):
            by_place.setdefault(place, []).append((number, zeros))
        for place, writes in by_place.items():
            places[place] = writes if number <= flushed else places.get(place, [None]) + writes
    return places


class Durability(TestCase):
    def setUp(self):
        super().setUp()
        # Where a flush takes no time there are more of them.
        if os.access("/dev/shm", os.W_OK):
            self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
            self.addCleanup(self.folder.cleanup)
        self.random = random.Random(SEED)

    def killed(self, disk, seed, through):
        """The number of the last transaction that the guest said was flushed."""
        process = subprocess.Popen(
            [DOPPEL, "run", "--engine", ENGINE, "--kernel", bare("writer"), "--memory", "64M",
             "--debug-exit", "0xf4", "--cmdline", f"seed={seed} through={through}", "--disk", disk],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        limit = threading.Timer(START_SECONDS, process.kill)
        limit.start()
        said = process.stdout.readline()
        self.assertEqual(said, b"flushed 1\n", process.stderr.read() if not said else said)
        limit.cancel()
        time.sleep(self.random.random() ** 2 * 0.4)
        process.kill()
        said += process.stdout.read()
        process.communicate()
        return int(said[:said.rindex(b"\n")].split()[-1])

    def read(self, path):
        """The disk's content, by `doppel image`, which also looks at the tables."""
        raw = self.path("content")
        # A killed process's io_uring may keep the file open for a moment.
        deadline = time.monotonic() + 30 * PATIENCE
        while (result := run("image", "convert", "-f", self.kind, "-O", "raw", path,
                             raw)).returncode != 0 and "Cannot lock" in result.stderr:
            self.assertLess(time.monotonic(), deadline, result.stderr)
        self.assertEqual(result.returncode, 0, result.stderr)
        if self.kind == "qcow2":
            checked = run("image", "check", path)
            self.assertIn(checked.returncode, (0, 5), checked.stdout + checked.stderr)
        if self.kind == "qcow2" and shutil.which("qemu-img"):
            # 3: leaked clusters and nothing else.
            self.assertIn(subprocess.run(["qemu-img", "check", "-q", path], check=False,
                                         stdout=subprocess.DEVNULL).returncode, (0, 3))
        with open(raw, "rb") as file:
            return file.read()

    def compare(self, writes, before, after, what):
        for at in range(0, DISK, SECTOR):
            place, sector = at // BLOCK, at % BLOCK // SECTOR
            there = after[at:at + SECTOR]
            candidates = writes.get(place, [None])
            if not any(there == (before[at:at + SECTOR] if write is None else
                                 sector_of(write[0], place, write[1], sector))
                       for write in candidates):
                numbers = [write and write[0] for write in candidates]
                self.fail(f"{what}: block {place}, sector {sector} is none of {numbers}, but "
                          f"{struct.unpack('<4I', there[:16])}")

    def kill_and_look(self, kind, options):
        self.kind = kind
        path = self.path("disk")
        total = 0
        for kill in range(KILLS):
            if kill % KILLS_OF_ONE_IMAGE == 0:
                cluster = self.random.choice(["4K", "64K"])
                made = run("image", "create", "--force", "-f", kind,
                           *(["--cluster-size", cluster] if kind == "qcow2" else []), path, "16M")
                self.assertEqual(made.returncode, 0, made.stderr)
                before = bytes(DISK)
            seed, through = self.random.getrandbits(31), int(kill % 4 == 3)
            flushed = self.killed(f"{path},format={kind}{options}", seed, through)
            after = self.read(path)
            self.compare(writes_to(seed, flushed), before, after,
                         f"kill {kill}, seed {seed}, {flushed} flushed, DOPPEL_SEED={SEED}")
            before = after
            total += flushed
        print(f"{KILLS} kills, {total} transactions that were flushed, DOPPEL_SEED={SEED}")

    def test_raw(self):
        self.kill_and_look("raw", "")

    def test_raw_on_threads(self):
        self.kill_and_look("raw", ",io=threads")

    def test_qcow2(self):
        self.kill_and_look("qcow2", "")


if __name__ == "__main__":
    main()
