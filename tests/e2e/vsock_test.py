"""Sockets between the guest and the host: both directions, half close, nobody there."""
import hashlib
import os
import socket
import subprocess
import threading
import time

from harness import (DOPPEL, ENGINE, KERNEL, LINUX_SECONDS, MORE_INITRAMFS, TestCase, main,
                     receive_all)

LINUX = ("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", MORE_INITRAMFS)
CONTENT = os.urandom(3 << 20)


class Vsock(TestCase):
    def setUp(self):
        super().setUp()
        self.socket = self.path("v")

    def start(self, commands, *arguments):
        process = subprocess.Popen(
            [DOPPEL, *LINUX, "--vsock", self.socket, "--cmdline",
             f'console=ttyS0 doppel.run="{commands}"', *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def client(self):
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(LINUX_SECONDS)
        client.connect(self.socket)
        return client

    def guest(self, port):
        """A client of the guest's port, once there is something."""
        deadline = time.monotonic() + LINUX_SECONDS
        while True:
            self.assertLess(time.monotonic(), deadline)
            answer = b""
            try:
                client = self.client()
                # In two pieces, with the stream's first bytes behind it.
                client.sendall(b"CONN")
                client.sendall(b"ECT %d\nfirst" % port)
                answer = client.recv(3)
            except OSError:
                pass  # neither the socket nor the guest's program need be there yet
            if answer:
                while not answer.endswith(b"\n"):
                    answer += client.recv(1)
                self.assertRegex(answer, rb"^OK [0-9]+\n$")
                return client
            time.sleep(0.1)

    def test_from_host_to_guest(self):
        process = self.start("vsock echo 1234 2; sleep 1")
        client = self.guest(1234)
        received = []
        reader = threading.Thread(target=lambda: received.append(receive_all(client)))
        reader.start()
        client.sendall(CONTENT)
        client.shutdown(socket.SHUT_WR)
        reader.join(LINUX_SECONDS)
        self.assertEqual(hashlib.md5(b"first" + CONTENT).digest(),
                         hashlib.md5(received[0]).digest())
        for line in [b"CONNECT 99\n", b"GET / HTTP/1.1\n", b"x" * 100, b"CONNECT 4294967295\n"]:
            nobody = self.client()
            nobody.sendall(line)
            try:
                self.assertEqual(nobody.recv(100), b"", line)
            except ConnectionResetError:
                pass  # some of what was sent was not read
        second = self.guest(1234)
        second.shutdown(socket.SHUT_WR)
        self.assertEqual(receive_all(second), b"first")
        output = process.communicate(timeout=LINUX_SECONDS)[0]
        self.assertEqual(process.returncode, 0, output[-2000:])
        self.assertFalse(os.path.exists(self.socket))

    def test_from_guest_to_host(self):
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.socket + "_77")
        listener.listen(1)
        listener.settimeout(LINUX_SECONDS)
        process = self.start("vsock cat 2 78 </dev/null; dd if=/dev/urandom of=/tmp/f bs=64k "
                             "count=40; md5sum </tmp/f; vsock cat 2 77 </tmp/f | md5sum",
                             "--stats")
        client = listener.accept()[0]
        self.addCleanup(client.close)
        client.settimeout(LINUX_SECONDS)
        time.sleep(2)  # the guest fills what there is, and waits
        received = receive_all(client)
        client.sendall(received)
        client.close()
        output = process.communicate(timeout=LINUX_SECONDS)[0].decode(errors="replace")
        self.assertEqual(process.returncode, 0, output[-2000:])
        self.assertIn("vsock: connect: Connection reset by peer", output)
        self.assertEqual(output.count(hashlib.md5(received).hexdigest()), 2, output[-3000:])
        self.assertEqual(len(received), 40 << 16)
        self.assertRegex(output, r"vsock.refused +1\n")
        self.assertRegex(output, r"vsock.broken +0\n")

    def test_unusable_options(self):
        self.path("file", b"x")
        self.assert_refused("--vsock", ["", f"{self.socket},cid=2", f"{self.socket},cid=x", f"{self.socket},port=1",
                      self.path("file"), "/nowhere/at/all", "x" * 200])


if __name__ == "__main__":
    main()
