"""Devices of other processes: disks of qemu-storage-daemon, folders over virtiofsd, networks of
passt and of a hub, and what the guest sees when those processes die."""
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from harness import (DOPPEL, ENGINE, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, main, run,
                     serve_both_ways)

LINUX = ("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS)
VIRTIOFSD = shutil.which("virtiofsd", path=os.environ.get("PATH", "") +
                         ":/usr/lib/qemu:/usr/libexec")
# Each step is on the disk before the next one begins; all of them are read again at the end.
WRITE_LOAD = """
i=0
while [ $i -lt 64 ]; do
    dd if=/tmp/data of=/dev/vda bs=64k count=1 skip=$i seek=$i conv=fsync 2>/tmp/err || cat /tmp/err
    i=$((i+1)); echo step $i
done
echo 3 >/proc/sys/vm/drop_caches
md5sum /tmp/data /dev/vda
"""


def cmdline(commands):
    script = "; ".join(line.strip() for line in commands.split("\n") if line.strip())
    script = re.sub(r"(\bdo|\bthen|\belse|&);", r"\1", script)
    return f'console=ttyS0 quiet doppel.run="{script}"'


def wait_for(what, seconds=LINUX_SECONDS):
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to pass")
        time.sleep(0.02)


def parent_of(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
            return None if state == "Z" else int(parent)
    except (OSError, ValueError):
        return None


def children(process):
    return [int(name) for name in os.listdir("/proc")
            if name.isdigit() and parent_of(name) == process]


class Running:
    """doppel with its output line by line, and its counters at the end."""

    def __init__(self, test, commands, *options):
        self.process = subprocess.Popen(
            [DOPPEL, *LINUX, "--cmdline", cmdline(commands), "--stats=json", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace")
        self.test, self.output, self.errors = test, [], []
        self.readers = [threading.Thread(target=self.read, args=pair, daemon=True) for pair in
                        ((self.process.stdout, self.output), (self.process.stderr, self.errors))]
        for reader in self.readers:
            reader.start()
        test.addCleanup(self.close)

    def read(self, stream, lines):
        with stream:
            for line in stream:
                lines.append(line)

    def wait_for(self, text):
        def came():
            if self.process.poll() is not None and text not in "".join(self.output):
                raise AssertionError("".join(self.output[-30:] + self.errors[-30:]))
            return text in "".join(self.output)
        wait_for(came)

    def end(self):
        try:
            self.process.wait(LINUX_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError("".join(self.output[-30:] + self.errors[-30:])) from None
        for reader in self.readers:
            reader.join()
        self.test.assertEqual(self.process.returncode, 0, "".join(self.errors))
        counters = json.loads(re.search(r"\{\"engine.*\}", "".join(self.errors)).group())
        return "".join(self.output), counters["counters"]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@unittest.skipUnless(shutil.which("qemu-storage-daemon"), "no qemu-storage-daemon")
class Disk(TestCase):
    def storage(self, file, image_format, queues=1):
        """Starts a daemon, and returns what kills it and starts another one."""
        path = self.path("disk.socket")
        daemon = []

        def start():
            daemon[:] = [subprocess.Popen(
                ["qemu-storage-daemon", "--blockdev", f"driver=file,filename={file},node-name=file",
                 "--blockdev", f"driver={image_format},file=file,node-name=disk", "--export",
                 f"vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={path},"
                 f"writable=on,num-queues={queues}"])]
            wait_for(lambda: os.path.exists(path), 60)

        def stop(number=signal.SIGKILL):
            daemon[0].send_signal(number)
            daemon[0].wait()

        def restart():
            stop()
            os.unlink(path)
            start()
        start()
        self.addCleanup(lambda: stop(signal.SIGKILL) if daemon[0].poll() is None else None)
        return path, restart, stop

    def test_reads_and_writes(self):
        content = os.urandom(3 << 20)
        file = self.path("disk.raw", content)
        path, _, stop = self.storage(file, "raw", queues=2)
        output, counters = Running(
            self, """
            md5sum /dev/vda
            ls -d /sys/block/vda/mq/*
            cat /sys/block/vda/queue/write_cache
            dd if=/dev/zero of=/dev/vda bs=4k count=3 seek=5 conv=fsync 2>/dev/null
            """, "--disk", f"vhost-user:{path},queues=2").end()
        stop(signal.SIGTERM)
        self.assertIn(hashlib.md5(content).hexdigest(), output)
        self.assertIn("write back", output)
        with open(file, "rb") as written:
            self.assertEqual(written.read(),
                             content[:5 << 12] + bytes(3 << 12) + content[8 << 12:])
        self.assertEqual(counters["disk0.broken"], 0)
        self.assertEqual(counters["disk0.backend_misbehaved"], 0)
        self.assertEqual(counters["disk0.reconnects"], 0)

    def kills(self, file, image_format, count):
        path, restart, stop = self.storage(file, image_format)
        guest = Running(self, "dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null\n" +
                        WRITE_LOAD, "--disk", f"vhost-user:{path}")
        # At any moment of a step: the requests of some are under way.
        chance = random.Random(image_format)
        for step in range(count):
            guest.wait_for(f"step {3 + step * 60 // count}\n")
            time.sleep(chance.random() * 0.01)
            restart()
            wait_for(lambda: sum("is back" in line for line in guest.errors) == step + 1)
        output, counters = guest.end()
        stop(signal.SIGTERM)
        sums = dict(reversed(line.split()) for line in output.splitlines()
                    if re.match(r"[0-9a-f]{32}  /", line))
        self.assertEqual(sums["/tmp/data"], sums["/dev/vda"], output)
        self.assertEqual(counters["disk0.reconnects"], count)
        self.assertNotIn("I/O error", output)
        return sums["/tmp/data"]

    def test_killed_under_load(self):
        file = self.path("disk.raw", bytes(4 << 20))
        digest = self.kills(file, "raw", 8)
        with open(file, "rb") as written:
            self.assertEqual(hashlib.md5(written.read()).hexdigest(), digest)

    def test_killed_under_load_with_an_image(self):
        # Where clusters have their places, what qemu-storage-daemon has written is in the file.
        file = self.path("disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata",
                        file, "4M"], check=True)
        digest = self.kills(file, "qcow2", 5)
        subprocess.run(["qemu-img", "check", "-q", file], check=True)
        raw = self.path("raw")
        subprocess.run(["qemu-img", "convert", "-O", "raw", file, raw], check=True)
        with open(raw, "rb") as written:
            self.assertEqual(hashlib.md5(written.read()).hexdigest(), digest)

    def test_the_guest_waits(self):
        content = os.urandom(1 << 20)
        path, restart, stop = self.storage(self.path("disk.raw", content), "raw")
        guest = Running(self, "echo begin; sleep 1; md5sum /dev/vda", "--disk",
                        f"vhost-user:{path}")
        guest.wait_for("begin")
        stop()
        time.sleep(4)
        self.assertIsNone(guest.process.poll())
        self.assertNotIn("/dev/vda", "".join(guest.output))
        restart()
        output, counters = guest.end()
        self.assertIn(hashlib.md5(content).hexdigest(), output)
        self.assertEqual(counters["disk0.reconnects"], 1)
        lines = [line for line in guest.errors if "back end" in line]
        self.assertEqual(len(lines), 2, guest.errors)
        self.assertIn("is gone", lines[0])
        self.assertIn("is back", lines[1])


@unittest.skipUnless(VIRTIOFSD, "no virtiofsd")
@unittest.skipUnless(os.geteuid() == 0, "virtiofsd of Debian 12 needs root")
class Share(TestCase):
    def folder_with_files(self):
        folder = self.path("shared")
        os.mkdir(folder)
        content = os.urandom(5 << 20)
        with open(os.path.join(folder, "file"), "wb") as file:
            file.write(content)
        return folder, hashlib.md5(content).hexdigest()

    def test_read_and_write(self):
        folder, digest = self.folder_with_files()
        output, counters = Running(
            self, """
            mkdir /m
            mount -t virtiofs host /m
            md5sum /m/file
            mkdir /m/new
            dd if=/dev/urandom of=/m/new/data bs=100k count=30 2>/dev/null
            md5sum /m/new/data
            rm /m/file
            umount /m
            """, "--share", f"{folder},tag=host").end()
        self.assertIn(digest, output)
        self.assertEqual(os.listdir(folder), ["new"])
        with open(os.path.join(folder, "new/data"), "rb") as file:
            written = file.read()
        self.assertEqual(len(written), 3000 << 10)
        self.assertIn(hashlib.md5(written).hexdigest(), output)
        self.assertEqual(counters["fs0.broken"], 0)

    def test_read_only(self):
        folder, digest = self.folder_with_files()
        output, _ = Running(
            self, """
            mkdir /m
            mount -t virtiofs host /m
            md5sum /m/file
            rm /m/file
            echo x >/m/file
            mkdir /m/new
            """, "--share", f"{folder},tag=host,readonly,cache=none").end()
        self.assertEqual(output.count("Read-only file system"), 3, output)
        self.assertIn(digest, output)
        self.assertEqual(os.listdir(folder), ["file"])

    def test_two_shares_and_their_end(self):
        folders = [self.path(name) for name in ("one", "two")]
        for folder in folders:
            os.mkdir(folder)
        guest = Running(self, """
            mkdir /1 /2
            mount -t virtiofs first /1
            mount -t virtiofs second /2
            echo 1 >/1/file
            echo 2 >/2/file
            echo written
            sleep 1000
            """, "--share", f"{folders[0]},tag=first", "--share", f"{folders[1]},tag=second")
        guest.wait_for("written\n")
        for number, folder in enumerate(folders):
            with open(os.path.join(folder, "file"), encoding="ascii") as file:
                self.assertEqual(file.read(), f"{number + 1}\n")
        daemons = [child for child in children(guest.process.pid)
                   if os.path.realpath(f"/proc/{child}/exe") == os.path.realpath(VIRTIOFSD)]
        self.assertEqual(len(daemons), 2)
        guest.process.kill()
        guest.process.wait()
        wait_for(lambda: all(parent_of(daemon) is None for daemon in daemons), 30)

    def test_killed_virtiofsd(self):
        folder, digest = self.folder_with_files()
        terminal = self.terminal(*LINUX, "--cmdline", "console=ttyS0 quiet", "--share",
                                 f"{folder},tag=host,cache=none", seconds=LINUX_SECONDS)
        terminal.expect(b"doppel# ")

        def command(text):
            terminal.send(text.encode() + b"; echo end=$?\n")
            terminal.expect(b"end=$?")  # the echo of what is typed
            output = terminal.expect(b"end=").decode()
            return output, int(terminal.expect(b"doppel# ").split()[0])
        self.assertEqual(command("mkdir /m; mount -t virtiofs host /m")[1], 0)
        self.assertIn(digest, command("md5sum /m/file")[0])
        for _ in range(2):
            # A loop that uses it all the time: nothing of it hangs.
            terminal.send(b"while cat /m/file >/dev/null; do :; done; echo end=$?\n")
            terminal.expect(b"end=$?")
            time.sleep(1)
            daemons = [child for child in children(terminal.process.pid)
                       if "virtiofsd" in os.path.realpath(f"/proc/{child}/exe")]
            self.assertEqual(len(daemons), 1)
            os.kill(daemons[0], signal.SIGKILL)
            self.assertIn(b"not connected", terminal.expect(b"end="))
            terminal.expect(b"doppel# ")
            output, status = command("ls /m")
            self.assertNotEqual(status, 0)
            self.assertRegex(output, "not connected")
            self.assertEqual(command("umount /m")[1], 0)
            self.assertEqual(command("mount -t virtiofs host /m")[1], 0)
            self.assertIn(digest, command("md5sum /m/file")[0])
        terminal.send(b"exit\n")
        self.assertEqual(terminal.wait(), 0)


def low_port():
    """A server below port 1024. Debian 12's passt crashes when it finds a server to be of its own
    host; without any rights, it cannot find that out of these."""
    for port in range(1023, 600, -1):
        try:
            return socket.create_server(("127.0.0.1", port)), port
        except OSError:
            continue
    raise unittest.SkipTest("no free port below 1024, or no right to one")


@unittest.skipUnless(shutil.which("passt"), "no passt")
class Passt(TestCase):
    def test_address_and_tcp(self):
        with open("/proc/net/route", encoding="ascii") as routes:
            if not any(line.split()[1] == "00000000" for line in list(routes)[1:]):
                self.skipTest("passt needs a default route on the host")
        os.chmod(self.folder.name, 0o777)
        path = self.path("passt")
        passt = subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                                  "--bounding-set=-all", "--inh-caps=-all",
                                  "passt", "--foreground", "--socket", path],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(passt.wait)
        self.addCleanup(passt.kill)
        wait_for(lambda: os.path.exists(path), 60)
        data = os.urandom(1 << 20)
        server, port = low_port()
        self.addCleanup(server.close)
        thread, got = serve_both_ways(server, data)
        # The router's address is the host's own, as passt shows it.
        output, counters = Running(self, f"""
            udhcpc -i eth0 -q -n >/dev/null 2>&1
            ip addr show eth0
            router=$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')
            mkfifo /tmp/open
            sleep 1000 >/tmp/open &
            nc $router {port} </tmp/open >/tmp/data
            md5sum /tmp/data
            nc $router {port} </tmp/data
            """, "--net", f"stream:{path}").end()
        thread.join(LINUX_SECONDS)
        self.assertRegex(output, r"inet \d+\.\d+\.\d+\.\d+/\d+")
        self.assertIn(hashlib.md5(data).hexdigest(), output)
        self.assertEqual(got, [data])
        self.assertEqual(counters["net0.stream.broken"], 0)


class Network(TestCase):
    """Two machines, and a hub that is started again while they talk."""

    def hub(self):
        hub = []
        paths = [self.path(name) for name in ("left", "right")]

        def stop():
            if hub:
                hub[0].kill()
                hub.pop().wait()
                for path in paths:
                    os.unlink(path)

        def start():
            stop()
            hub.append(subprocess.Popen(
                [sys.executable, "-B", os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                    "vhost_user_hub.py"), *paths]))
            wait_for(lambda: all(map(os.path.exists, paths)), 60)
        start()
        self.addCleanup(stop)
        return paths, start

    def test_two_machines(self):
        (left, right), restart = self.hub()
        receiver = Running(self, """
            ip addr add 10.1.1.2/24 dev eth0
            ip link set eth0 up
            mkfifo /tmp/open
            sleep 1000 >/tmp/open &
            nc -l -p 9 </tmp/open >/tmp/data
            md5sum /tmp/data
            sleep 5
            """, "--net", f"vhost-user:{right},mtu=1400")  # its goodbye arrives
        sender = Running(self, """
            ip addr add 10.1.1.1/24 dev eth0
            ip link set eth0 up
            dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null
            md5sum /tmp/data
            until ping -c 1 -w 1 10.1.1.2 >/dev/null
            do sleep 1
            done
            echo pinged
            until nc 10.1.1.2 9 </tmp/data
            do sleep 1
            done
            """, "--net", f"vhost-user:{left}")
        sender.wait_for("pinged\n")
        time.sleep(0.05)
        restart()
        sent, sent_counters = sender.end()
        received, counters = receiver.end()
        digest = re.search(r"([0-9a-f]{32})  /tmp/data", sent).group(1)
        self.assertIn(digest, received)
        for of_one in (sent_counters, counters):
            self.assertEqual(of_one["net0.reconnects"], 1)
            self.assertEqual(of_one["net0.broken"], 0)
            self.assertEqual(of_one["net0.backend_misbehaved"], 0)


class Usage(TestCase):
    def check(self, options, *wanted, status=2):
        result = run("run", "--engine", "interpret", "--kernel", KERNEL, *options)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assert_one_line(result.stderr)
        for text in (options[0], *wanted):
            self.assertIn(text, result.stderr)

    def test_errors(self):
        nobody = self.path("nobody")
        for option in ("--disk", "--net"):
            self.check((option, f"vhost-user:{nobody}"), "start the back end first")
        self.check(("--fs", f"vhost-user:{nobody},tag=x"), "start the back end first")
        self.check(("--fs", f"vhost-user:{nobody}"), "tag=")
        self.check(("--fs", nobody + ",tag=x"), "vhost-user:SOCKET")
        self.check(("--disk", f"vhost-user:{nobody},readonly"), "queues")
        self.check(("--net", f"vhost-user:{nobody},pcap=x"), "pcap=")
        self.check(("--share", f"{nobody},tag=x"), "No such file")
        self.check(("--share", f"{self.path('file', b'')},tag=x"), "not a folder")
        self.check(("--share", f"{self.folder.name},tag=x,cache=much"), "none, auto or always")

    def test_a_back_end_that_is_none(self):
        path = self.path("socket")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()

            def serve(answer):
                client, _ = server.accept()
                with client:
                    client.recv(12)
                    if answer:
                        client.sendall(answer)
                        client.recv(1000)
            for answer, wanted in ((b"\xff" * 20, "no message"), (b"", "closed"),
                                   (b"\2\0\0\0\5\0\0\0\0\0\0\0", "nobody asked")):
                thread = threading.Thread(target=serve, args=(answer,), daemon=True)
                thread.start()
                self.check(("--disk", f"vhost-user:{path}"), wanted)
                thread.join()


if __name__ == "__main__":
    main()
