"""--console in all its forms, and the terminal: keys, raw mode, restored however it ends."""
import os
import signal
import socket
import termios
import time

from harness import BARE_SECONDS, ENGINE, PASSED, TestCase, bare, main, run_bare

CONSOLE = ("run", "--engine", ENGINE, "--kernel", bare("console"), "--debug-exit", "0xf4")


class Terminals(TestCase):
    def test_raw_while_running_and_restored(self):
        terminal = self.terminal(*CONSOLE)
        terminal.expect(b"ready")
        local = terminal.settings()[3]
        self.assertFalse(local & (termios.ICANON | termios.ECHO | termios.ISIG))
        terminal.send(b"abc")
        terminal.expect(b"abc")
        terminal.send(b"\x03")  # Ctrl-C goes to the guest
        terminal.expect(b"\x03")
        terminal.send(b"q")
        self.assertEqual(terminal.wait(), PASSED)
        self.assertEqual(terminal.settings(), terminal.before)

    def test_escape_leaves(self):
        terminal = self.terminal(*CONSOLE)
        terminal.expect(b"ready")
        terminal.send(b"\x01x")
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(terminal.settings(), terminal.before)

    def test_escape_lists_keys(self):
        terminal = self.terminal(*CONSOLE)
        terminal.expect(b"ready")
        terminal.send(b"\x01h")
        terminal.expect(b"Ctrl-A x")
        terminal.send(b"\x01\x01")
        terminal.expect(b"\x01")
        terminal.send(b"q")
        self.assertEqual(terminal.wait(), PASSED)

    def test_restored_after_a_signal(self):
        for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV,
                       signal.SIGABRT, signal.SIGBUS]:
            with self.subTest(signal=number.name):
                terminal = self.terminal(*CONSOLE)
                terminal.expect(b"ready")
                terminal.process.send_signal(number)
                status = terminal.wait()
                self.assertIn(status, [-number, 128 + number])
                self.assertEqual(terminal.settings(), terminal.before)

    def test_restored_after_a_triple_fault(self):
        terminal = self.terminal(*CONSOLE)
        terminal.expect(b"ready")
        terminal.send(b"t")
        self.assertEqual(terminal.wait(), 4)
        self.assertEqual(terminal.settings(), terminal.before)

    def test_bad_usage_leaves_the_terminal_alone(self):
        terminal = self.terminal("run", "--kernel", "/nowhere")
        self.assertEqual(terminal.wait(), 2)
        self.assertEqual(terminal.settings(), terminal.before)

    def test_output_to_a_pipe_with_a_terminal_for_input(self):
        terminal = self.terminal("--version")
        terminal.wait()
        os.write(terminal.master, b"hello\x04")
        result = run_bare("console", stdin=terminal.slave)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("ready", result.stdout)
        self.assertEqual(terminal.settings(), terminal.before)


class OtherConsoles(TestCase):
    def test_pipe(self):
        result = run_bare("console", input="hello q", stdin=None)
        self.assertEqual(result.returncode, PASSED, result.stderr)
        self.assertIn("hello ", result.stdout)

    def test_more_input_than_buffers(self):
        text = "0123456789abcdef" * 4096
        result = run_bare("console", input=text + "q", stdin=None)
        self.assertEqual(result.returncode, PASSED, result.stderr)
        self.assertIn(text, result.stdout)

    def test_none(self):
        result = run_bare("ports", "--console", "none")
        self.assertEqual(result.returncode, PASSED, result.stderr)
        self.assertEqual(result.stdout, "")

    def test_none_with_closed_stdout(self):
        result = run_bare("ports", "--console", "none", stdout=None,
                          preexec_fn=lambda: os.close(1))
        self.assertEqual(result.returncode, PASSED, result.stderr)

    def test_file(self):
        path = self.path("console.log")
        result = run_bare("ports", "--console", "file:" + path)
        self.assertEqual(result.returncode, PASSED, result.stderr)
        self.assertEqual(result.stdout, "")
        with open(path, encoding="ascii") as file:
            self.assertIn("PASSED", file.read())

    def test_reader_that_goes_away(self):
        reader, writer = os.pipe()
        os.close(reader)
        result = run_bare("ports", stdout=writer)
        os.close(writer)
        # Which of the two happens first is not determined.
        self.assertIn(result.returncode, [3, PASSED], result.stderr)
        if result.returncode == 3:
            self.assert_one_line(result.stderr)

    def test_socket(self):
        path = self.path("console.sock")
        terminal = self.terminal(*CONSOLE, "--console", "socket:" + path)
        deadline = time.monotonic() + BARE_SECONDS
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(BARE_SECONDS)
        while True:
            try:
                client.connect(path)
                break
            except OSError:
                self.assertLess(time.monotonic(), deadline, "nobody listens")
                time.sleep(0.05)
        client.sendall(b"over here")
        received = b""
        while b"over here" not in received:
            part = client.recv(4096)
            self.assertTrue(part, received)
            received += part
        client.sendall(b"q")
        self.assertEqual(terminal.wait(), PASSED)


if __name__ == "__main__":
    main()
