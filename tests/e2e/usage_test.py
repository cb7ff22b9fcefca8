"""Bad input: one line that names the option, the right status, never a crash. Help."""
import os
import resource
import struct
import subprocess

from harness import DOPPEL, KERNEL, PASSED, TestCase, bare, main, run


def elf32_without_note():
    header = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    return header + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 0, 0, 0, 0)


class BadInput(TestCase):
    def refused(self, *arguments, mentions, status=2, **options):
        result = run(*arguments, seconds=30, **options)
        with self.subTest(arguments=str(arguments)[-160:]):
            self.assertEqual(result.returncode, status, result.stderr)
            self.assert_one_line(result.stderr)
            for word in mentions:
                self.assertIn(word, result.stderr)
            self.assertFalse(result.stdout)

    def test_command_line(self):
        guest = bare("console")
        kernel = ("run", "--kernel", guest)
        for arguments, mentions in [
            ((), ["doppel run"]),
            (("walk",), ["walk"]),
            (("--frobnicate",), ["--frobnicate"]),
            (("run",), ["--kernel"]),
            (("run", "--kernel", ""), ["--kernel"]),
            (("run", "--kernel"), ["--kernel"]),
            (("run", "--kernel="), ["--kernel"]),
            ((*kernel, "--frobnicate"), ["--frobnicate", "help"]),
            ((*kernel, "--frob\nnicate"), ["--frob?nicate"]),
            ((*kernel, "stray"), ["stray"]),
            ((*kernel, "--kernel", guest), ["--kernel"]),
            ((*kernel, "--memory", "0"), ["--memory"]),
            ((*kernel, "--memory", "-1"), ["--memory", "-1"]),
            ((*kernel, "--memory", "lots"), ["--memory", "lots"]),
            ((*kernel, "--memory", ""), ["--memory"]),
            ((*kernel, "--memory", "4K"), ["--memory"]),
            ((*kernel, "--memory", "999999999G"), ["--memory"]),
            ((*kernel, "--memory", "18446744073709551616"), ["--memory"]),
            ((*kernel, "--memory", "--stats"), ["--memory", "--stats"]),
            ((*kernel, "--cpus", "0"), ["--cpus"]),
            ((*kernel, "--cpus", "65"), ["--cpus", "64"]),
            ((*kernel, "--cpus", "many"), ["--cpus", "many"]),
            ((*kernel, "--engine", "warp"), ["--engine", "warp", "interpret"]),
            ((*kernel, "--console", "moon"), ["--console", "moon"]),
            ((*kernel, "--console", "file:"), ["--console"]),
            ((*kernel, "--console", "file:/nowhere/at/all"), ["--console", "/nowhere/at/all"]),
            ((*kernel, "--console", "socket:/nowhere/at/all"), ["--console", "/nowhere/at/all"]),
            ((*kernel, "--console", "socket:" + "x" * 300), ["--console"]),
            ((*kernel, "--debug-exit", "0x10000"), ["--debug-exit", "0x10000"]),
            ((*kernel, "--debug-exit", "door"), ["--debug-exit", "door"]),
            ((*kernel, "--stats=xml"), ["--stats", "xml"]),
            (("help", "walk"), ["walk"]),
            (("doctor", "now"), ["now"]),
            (("version", "now"), ["now"]),
        ]:
            self.refused(*arguments, mentions=mentions)

    def test_kernels(self):
        with open(KERNEL, "rb") as file:
            linux = file.read()
        for name, content in [
            ("empty", b""),
            ("one", b"\x7f"),
            ("zeros", bytes(100000)),
            ("text", b"#!/bin/sh\necho not a kernel\n"),
            ("elf32", elf32_without_note()),
            ("elf-header", b"\x7fELF\x02\x01\x01" + bytes(9)),
            ("linux-head", linux[:0x210]),
            ("linux-setup", linux[:0x4000]),
            ("linux-half", linux[:len(linux) // 2]),
        ]:
            path = self.path(name, content)
            self.refused("run", "--engine", "interpret", "--kernel", path,
                         mentions=["--kernel", path])
        self.refused("run", "--kernel", "/nowhere", mentions=["--kernel", "/nowhere"])
        self.refused("run", "--kernel", "/", mentions=["--kernel"])

    def test_initrds(self):
        linux = ("run", "--engine", "interpret", "--kernel", KERNEL)
        self.refused(*linux, "--initrd", "/nowhere", mentions=["--initrd", "/nowhere"])
        self.refused(*linux, "--initrd", "/", mentions=["--initrd"])
        large = self.path("large")
        with open(large, "wb") as file:
            file.truncate(200 << 20)
        self.refused(*linux, "--memory", "128M", "--initrd", large, mentions=["--initrd", "--memory"])

    def test_long_command_line(self):
        self.refused("run", "--engine", "interpret", "--kernel", KERNEL, "--cmdline",
                     "x" * 100000, mentions=["--cmdline"])

    def test_closed_stdout(self):
        closed = {"preexec_fn": lambda: os.close(1), "stdout": None}
        for arguments in [("--help",), ("run", "--help"), ("--version",), ("doctor",)]:
            self.refused(*arguments, mentions=["tandard output"], **closed)
        self.refused("run", "--kernel", bare("console"), mentions=["--console", "tandard output"],
                     **closed)

    def test_full_stdout(self):
        with open("/dev/full", "wb") as full:
            for arguments in [("--help",), ("--version",)]:
                self.refused(*arguments, mentions=["tandard output", "No space"], stdout=full)

    def test_everything_closed(self):
        def close_all():
            for descriptor in range(3):
                os.close(descriptor)
        status = subprocess.run([DOPPEL, "--help"], preexec_fn=close_all, check=False, timeout=30)
        self.assertEqual(status.returncode, 2)


class Help(TestCase):
    def test_reads_well(self):
        for arguments in [("--help",), ("-h",), ("help",), ("run", "--help"), ("help", "run"),
                          ("stats", "--help"), ("help", "stats"), ("doctor", "--help"),
                          ("help", "doctor"), ("doctor",)]:
            with self.subTest(arguments=arguments):
                result = run(*arguments, seconds=30)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(result.stderr, "")
                for line in result.stdout.splitlines():
                    self.assertLessEqual(len(line), 80, line)
                    self.assertEqual(line, line.rstrip())

    def test_run_help_has_every_option(self):
        text = run("run", "--help", seconds=30).stdout
        for option in ["--engine", "--memory", "--cpus", "--kernel", "--initrd", "--cmdline",
                       "--console", "--debug-exit", "--stats", "Examples"]:
            self.assertIn(option, text)

    def test_version(self):
        self.assertRegex(run("--version", seconds=30).stdout, r"^doppel \d+\.\d+\.\d+\n$")

    def test_doctor(self):
        text = run("doctor", seconds=30).stdout
        for word in ["KVM", "PKU", "FSGSBASE", "userfaultfd", "io_uring", "map count",
                     "uge pages", "kvm", "translate", "interpret"]:
            self.assertIn(word, text)
        self.assertRegex(text, r"\n  auto +means (kvm|translate|interpret) here\n$")


class Auto(TestCase):
    """What auto means, by the engines' own lines of doctor; run says the same, in one line."""

    def setUp(self):
        text = run("doctor", seconds=30).stdout.partition("Engines\n")[2]
        lines = [line for line in text.splitlines() if line[2] != " "]  # without those that go on
        self.engines = dict(line.split(maxsplit=1) for line in lines)

    def test_is_the_fastest_that_works(self):
        if self.engines["kvm"] == "works":
            expected = "kvm"
        elif self.engines["translate"] == "works":
            expected = "translate"
        else:
            expected = "interpret"
        self.assertEqual(self.engines["auto"], f"means {expected} here")

    def test_run_says_which_and_why(self):
        result = run("run", "--kernel", bare("ports"), "--debug-exit", "0xf4")
        self.assertEqual(result.returncode, PASSED, result.stdout + result.stderr)
        self.assert_one_line(result.stderr)
        chosen = self.engines["auto"].split()[1]
        self.assertTrue(result.stderr.startswith(f"doppel: engine {chosen}: "), result.stderr)
        if chosen != "kvm":
            self.assertIn("/dev/kvm", result.stderr)
        if chosen == "interpret":
            self.assertIn("translate does not work here", result.stderr)

    def test_without_what_translate_needs(self):
        def small_stack():
            resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
        if self.engines["kvm"] == "works":
            self.skipTest("kvm comes first")
        result = run("run", "--kernel", bare("ports"), "--debug-exit", "0xf4",
                     preexec_fn=small_stack)
        self.assertEqual(result.returncode, PASSED, result.stdout + result.stderr)
        self.assert_one_line(result.stderr)
        self.assertTrue(result.stderr.startswith("doppel: engine interpret: "), result.stderr)
        self.assertIn("translate does not work here", result.stderr)


if __name__ == "__main__":
    main()
