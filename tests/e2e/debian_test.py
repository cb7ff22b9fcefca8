"""Debian's own programs in a guest: what the self-test prints there must be what it prints on
this machine, in the same tree. PIECES names some pieces of guests/debian/selftest, all else."""
import os
import subprocess

from harness import DOPPEL, ENGINE, GUESTS, KERNEL, PATIENCE, TestCase, main

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.join(GUESTS, "debian", "root")
INITRAMFS = os.path.join(GUESTS, "debian", "initramfs.zst")
SOURCES = os.path.join(HERE, "..", "..", "guests", "debian")
PIECES = (os.environ.get("PIECES") or " ".join(
    sorted(os.listdir(os.path.join(SOURCES, "selftest", "pieces"))))).split()
PIECE_SECONDS = 900 * PATIENCE


def of_piece(piece, text):
    return [line for line in text.replace("\r", "").split("\n")
            if line.startswith((piece + "| ", piece + "= "))]


class Debian(TestCase):
    maxDiff = 4000

    def piece(self, piece):
        here = subprocess.run([os.path.join(SOURCES, "run_here.sh"), TREE, piece],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
                              timeout=PIECE_SECONDS, text=True, errors="replace").stdout
        expected = of_piece(piece, here)
        self.assertEqual(expected[-1:], [f"{piece}= 0"], "\n".join(expected))
        # A file, so that a guest that hangs still leaves what it said.
        path = self.path("console.log")
        try:
            with open(path, "w", encoding="ascii") as console:
                status = subprocess.run(
                    [DOPPEL, "run", "--engine", ENGINE, "--memory", "2G", "--kernel", KERNEL,
                     "--initrd", INITRAMFS, "--cmdline",
                     f"console=ttyS0 quiet doppel.pieces={piece}"],
                    stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                    timeout=PIECE_SECONDS).returncode
        except subprocess.TimeoutExpired:
            status = f"no end in {PIECE_SECONDS:.0f} s"
        with open(path, encoding="utf-8", errors="replace") as console:
            said = console.read()
        self.assertEqual(of_piece(piece, said), expected, f"({status})\n" + said[-3000:])
        self.assertEqual(status, 0, said[-3000:])


def add(piece):
    setattr(Debian, "test_" + piece, lambda self: self.piece(piece))


for name in PIECES:
    add(name)

if __name__ == "__main__":
    main()
