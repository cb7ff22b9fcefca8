"""Network cards of the Linux guest: user networking, streams between machines, tap."""
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

from harness import (DOPPEL, ENGINE, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, main,
                     receive_all, run, serve_both_ways)

UP = "udhcpc -i eth0 -q -n >/dev/null 2>&1"
INSIDE = "DOPPEL_NET_TEST_INSIDE"  # set in the namespaces that a test has made


def linux(commands, *options):
    return ["run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS, "--cmdline",
            f'console=ttyS0 quiet doppel.run="{commands}"', *options]


def boot(commands, *options):
    result = run(*linux(commands, *options), seconds=LINUX_SECONDS)
    if result.returncode != 0:
        raise AssertionError(f"status {result.returncode}: {result.stdout[-2000:]}"
                             f"{result.stderr[-2000:]}")
    return result.stdout


def listener(kind=socket.SOCK_STREAM):
    server = socket.socket(socket.AF_INET, kind)
    server.bind(("127.0.0.1", 0))
    server.settimeout(LINUX_SECONDS)
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server, server.getsockname()[1]


class User(TestCase):
    def test_dhcp_router_and_the_card(self):
        output = boot(f"{UP}; ip addr show eth0; ip route; ping -c 2 10.0.2.2; "
                      "ping -c 1 -s 1400 10.0.2.2",
                      "--net", "user,mac=52:54:00:aa:bb:cc,mtu=1400")
        self.assertIn("inet 10.0.2.15/24", output)
        self.assertIn("default via 10.0.2.2", output)
        self.assertIn("link/ether 52:54:00:aa:bb:cc", output)
        self.assertIn("mtu 1400", output)
        self.assertIn("2 packets received, 0% packet loss", output)
        self.assertIn("1 packets received, 0% packet loss", output)

    def transfer(self, *options):
        server, port = listener()
        self.addCleanup(server.close)
        wanted = os.urandom(1 << 20)
        got = []

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.settimeout(LINUX_SECONDS)
                connection.sendall(wanted)
                connection.shutdown(socket.SHUT_WR)
                got.append(receive_all(connection))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        # What comes in goes back out on a connection of its own.
        output = boot(f"{UP}; nc 10.0.2.2 {port} </dev/null >/tmp/data; wc -c /tmp/data; "
                      f"md5sum /tmp/data; {UP}", *options)
        thread.join(LINUX_SECONDS)
        self.assertIn(hashlib.md5(wanted).hexdigest(), output)

    def test_host_to_guest_bytes(self):
        self.transfer("--net", "user")

    def test_host_to_guest_bytes_without_anything_optional(self):
        # No checksums, no large segments, no mergeable buffers, old rings.
        self.transfer("--net", "user,without=0+1+11+15+indirect+event-idx+packed")

    def test_host_to_guest_bytes_over_mmio(self):
        self.transfer("--net", "user,transport=mmio")

    def test_guest_to_host_bytes_through_a_capture(self):
        server, port = listener()
        self.addCleanup(server.close)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        got = []

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.settimeout(LINUX_SECONDS)
                # nc writes a KiB at a time: they become large segments where they have to wait.
                time.sleep(0.5)
                got.append(receive_all(connection))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        capture = self.path("net.pcap")
        output = boot(f"{UP}; dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null; "
                      f"md5sum /tmp/data; nc 10.0.2.2 {port} </tmp/data",
                      "--net", f"user,pcap={capture}")
        thread.join(LINUX_SECONDS)
        self.assertEqual(len(got[0]), 4 << 20)
        self.assertIn(hashlib.md5(got[0]).hexdigest(), output)
        with open(capture, "rb") as file:
            data = file.read()
        self.assertEqual(struct.unpack_from("<I", data)[0], 0xa1b23c4d)
        at, sizes = 24, []
        while at < len(data):
            size = struct.unpack_from("<I", data, at + 8)[0]
            sizes.append(size)
            at += 16 + size
        self.assertEqual(at, len(data))
        self.assertGreater(sum(sizes), 4 << 20)
        self.assertGreater(max(sizes), 1514, "the guest sent no large segments")

    def test_forwarded_ports(self):
        tcp, tcp_port = listener()
        udp, udp_port = listener(socket.SOCK_DGRAM)
        tcp.close()
        udp.close()
        capture = self.path("net.pcap")
        process = subprocess.Popen(
            [DOPPEL, *linux(f"{UP}; echo ready; echo hello host | nc -l -p 22",
                            "--net", f"user,hostfwd=tcp:127.0.0.1:{tcp_port}-:22,"
                            f"hostfwd=udp:127.0.0.1:{udp_port}-:7,pcap={capture}")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        for line in process.stdout:
            if line.startswith(b"ready"):
                break
        deadline = time.monotonic() + LINUX_SECONDS
        # Nothing in that guest answers; the datagram's way there is what counts.
        arrived = struct.pack(">H", 7) + struct.pack(">H", 8 + 10)
        seen = b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            while b"a datagram" not in seen and time.monotonic() < deadline:
                client.sendto(b"a datagram", ("127.0.0.1", udp_port))
                time.sleep(0.1)
                with open(capture, "rb") as file:
                    seen = file.read()
        self.assertEqual(seen[seen.index(b"a datagram") - 6:][:4], arrived)
        text = b""
        while not text and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", tcp_port), timeout=10) as client:
                    text = client.recv(100)
            except OSError:
                time.sleep(0.2)
        self.assertEqual(text, b"hello host\n")
        self.assertEqual(process.wait(LINUX_SECONDS), 0)

    def test_restricted_guests_stay_inside(self):
        server, port = listener()
        self.addCleanup(server.close)
        server.settimeout(0.1)
        output = boot(f"{UP}; nc -w 3 10.0.2.2 {port} </dev/null || echo no way",
                      "--net", "user,restrict=on")
        self.assertIn("no way", output)
        with self.assertRaises(OSError):
            server.accept()

    def test_a_rate_holds(self):
        server, port = listener()
        self.addCleanup(server.close)
        times = []

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.settimeout(LINUX_SECONDS)
                connection.recv(1, socket.MSG_PEEK)
                begin = time.monotonic()
                self.assertEqual(len(receive_all(connection)), 1 << 20)
                times.append(time.monotonic() - begin)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        boot(f"{UP}; dd if=/dev/zero of=/tmp/data bs=64k count=16; nc 10.0.2.2 {port} </tmp/data",
             "--net", "user,bps=256K,bps_burst=64K")
        thread.join(LINUX_SECONDS)
        self.assertGreater(times[0], 3.2)  # 1 MiB less a burst and a segment, at 256 KiB a second


class Stream(TestCase):
    def test_a_peer_that_speaks_the_protocol(self):
        path = self.path("link")
        process = subprocess.Popen(
            [DOPPEL, *linux("ip addr add 10.1.1.1/24 dev eth0; ip link set eth0 up; "
                            "ping -c 1 -w 60 10.1.1.2", "--net", f"stream:{path},server=on")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        deadline = time.monotonic() + LINUX_SECONDS
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as bad:  # nonsense first: only this link ends
            bad.connect(path)
            bad.sendall(b"\xff" * 100)
            bad.settimeout(LINUX_SECONDS)
            self.assertEqual(bad.recv(100), b"")
        peer = socket.socket(socket.AF_UNIX)
        self.addCleanup(peer.close)
        peer.connect(path)
        peer.settimeout(LINUX_SECONDS)
        stream = peer.makefile("rwb")
        mac = bytes.fromhex("525400000002")
        pinged = False
        while not pinged:
            frame = stream.read(struct.unpack(">I", stream.read(4))[0])
            answer = None
            if frame[12:14] == b"\x08\x06" and frame[38:42] == bytes([10, 1, 1, 2]):
                answer = (frame[6:12] + mac + frame[12:20] + b"\0\2" + mac + frame[38:42]
                          + frame[22:32])
            elif frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8:
                total = (frame[36] << 8 | frame[37]) + 0x0800  # type 8 becomes 0
                total = (total & 0xffff) + (total >> 16)
                answer = (frame[6:12] + mac + frame[12:26] + frame[30:34] + frame[26:30]
                          + b"\0\0" + total.to_bytes(2, "big") + frame[38:])
                pinged = True
            if answer:
                stream.write(struct.pack(">I", len(answer)) + answer)
                stream.flush()
        self.assertIn(b"1 packets received, 0% packet loss", process.stdout.read())

    def test_two_guests(self):
        path = self.path("link")
        second = subprocess.Popen(
            [DOPPEL, *linux("ip addr add 10.1.1.2/24 dev eth0; ip link set eth0 up; "
                            # Input without an end, or nc says goodbye at once.
                            "mkfifo /tmp/open; sleep 1000 >/tmp/open & "
                            "nc -l -p 9 </tmp/open >/tmp/data; md5sum /tmp/data",
                            "--net", f"stream:{path},reconnect=1")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(second.wait)
        self.addCleanup(second.kill)
        self.addCleanup(second.stdout.close)
        output = boot("ip addr add 10.1.1.1/24 dev eth0; ip link set eth0 up; "
                      "dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null; "
                      "md5sum /tmp/data; "
                      "until ping -c 1 -w 1 10.1.1.2 >/dev/null; do :; done; echo pinged; "
                      "until nc 10.1.1.2 9 </tmp/data; do sleep 1; done",
                      "--net", f"stream:{path},server=on")
        self.assertIn("pinged", output)
        sums = re.findall(r"\b[0-9a-f]{32}\b", output)
        self.assertIn(sums[0].encode(), second.stdout.read())


class Inside(TestCase):
    """In a user and network namespace of its own, where the test may do everything."""

    def enter(self):
        if os.environ.get(INSIDE):
            return True
        if shutil.which("unshare") is None or shutil.which("ip") is None:
            self.skipTest("no unshare or ip here")
        probe = subprocess.run(["unshare", "-rnm", "true"], capture_output=True, check=False)
        if probe.returncode != 0:
            self.skipTest("namespaces are not permitted here")
        result = subprocess.run(
            ["unshare", "-rnm", sys.executable, "-B", os.path.abspath(__file__), self.id()
             .replace("__main__.", "")],
            env={**os.environ, INSIDE: "1"}, capture_output=True, text=True, check=False)
        if "skipped=1" in result.stderr:
            self.skipTest("not permitted in a namespace here")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return False

    def test_names(self):
        if not self.enter():
            return
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        resolv = self.path("resolv.conf", b"nameserver 127.0.0.1\n")
        real = os.path.realpath("/etc/resolv.conf")
        bound = subprocess.run(["mount", "--bind", resolv, real], check=False)
        if bound.returncode != 0:
            self.skipTest("mount --bind is not permitted here")
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        server.bind(("127.0.0.1", 53))

        def serve():
            while True:
                try:
                    query, client = server.recvfrom(512)
                except OSError:
                    return
                end = query.index(b"\0", 12) + 5
                wants_a = query[end - 4:end - 2] == b"\0\1"
                answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([192, 0, 2, 7])
                server.sendto(query[:2] + b"\x81\x80\0\1" + (b"\0\1" if wants_a else b"\0\0")
                              + b"\0\0\0\0" + query[12:end] + (answer if wants_a else b""),
                              client)
        threading.Thread(target=serve, daemon=True).start()
        output = boot(f"{UP}; cat /etc/resolv.conf; nslookup machine.example",
                      "--net", "user")
        self.assertIn("nameserver 10.0.2.3", output)
        self.assertIn("192.0.2.7", output)

    def test_tap(self):
        if not self.enter():
            return
        try:
            os.close(os.open("/dev/net/tun", os.O_RDWR))
        except OSError:
            self.skipTest("/dev/net/tun cannot be opened here")
        for command in ("tuntap add dev tap7 mode tap vnet_hdr multi_queue",
                        "addr add 192.168.7.1/24 dev tap7", "link set tap7 mtu 4000 up"):
            if subprocess.run(["ip", *command.split()], check=False).returncode != 0:
                self.skipTest("tap devices cannot be made here")
        data = os.urandom(2 << 20)
        server = socket.create_server(("192.168.7.1", 0))
        self.addCleanup(server.close)
        thread, got = serve_both_ways(server, data)
        port = server.getsockname()[1]
        output = boot("ip addr add 192.168.7.2/24 dev eth0; ip link set eth0 up; "
                      f"ping -c 1 192.168.7.1; nc 192.168.7.1 {port} </dev/null >/tmp/data; "
                      f"md5sum /tmp/data; nc 192.168.7.1 {port} </tmp/data; ip link show eth0",
                      "--net", "tap,name=tap7,queues=2")
        thread.join(LINUX_SECONDS)
        self.assertIn("1 packets received", output)
        self.assertIn("mtu 4000", output)
        self.assertIn(hashlib.md5(data).hexdigest(), output)
        self.assertEqual(got, [data])


class Usage(TestCase):
    def check(self, option, wanted, status=2):
        result = run("run", "--engine", "interpret", "--kernel", KERNEL, "--net", option)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assert_one_line(result.stderr)
        self.assertIn("--net", result.stderr)
        self.assertIn(wanted, result.stderr)

    def test_errors(self):
        self.check("bridge", "user, tap, stream:PATH or vhost-user:PATH")
        self.check("user,hostfwd=2222:22", "tcp:127.0.0.1:2222-:22")
        self.check(f"stream:{self.path('nobody')}", "start the other end first")
        self.check(f"user,pcap={self.path('no/folder')}", "No such file")
        taken, port = listener()
        self.addCleanup(taken.close)
        self.check(f"user,hostfwd=tcp:127.0.0.1:{port}-:22", "choose a port that is free")


if __name__ == "__main__":
    main()
