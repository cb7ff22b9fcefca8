"""A guest that drives devices at random (guests/bare/c/fuzz.c), on machines with all devices: doppel
must come to the guest's own end, with images that are whole. For FUZZ_SECONDS, and once with each
machine at least; FUZZ_SEED begins with what a failure printed."""
import itertools
import json
import os
import random
import re
import socket
import subprocess
import threading
import time

from harness import ENGINE, PASSED, TestCase, bare, main, run

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
STEPS = int(os.environ.get("FUZZ_STEPS", "10000"))
ONE_RUN_SECONDS = 240

# A device a line; {} is the test's folder. Images: see images() below.
DEVICES = [
    ("--rng", "on"),
    ("--balloon", "16M"),
    ("--virtio-console", "socket:{}/hvc"),
    ("--disk", "{}/raw,format=raw,queues=4"),
    ("--disk", "{}/image.qcow2"),
    ("--disk", "{}/small.qcow2,cache=none,iops=2000"),
    ("--disk", "{}/read,format=raw,readonly,io=threads"),
    ("--net", "user,restrict=on"),
    ("--net", "stream:{}/link,server=on"),
    ("--net", "stream:{}/link"),
    ("--vsock", "{}/vsock"),
    ("--disk", "vhost-user:{}/storage,queues=2"),
]
PORTS = [("--port", "first=socket:{}/port"), ("--port", "second=file:{}/second")]
# What is said of each device.
MACHINES = {
    "pci": "",
    "mmio": ",transport=mmio",
    "split": ",without=packed",
    "plain": ",without=packed+event-idx+indirect",
    "modern": ",legacy=off",
    "platform": ",access-platform=on",
}  # by the seed, in turn
# Counters that show that the guest's requests get through to what is behind the devices.
REACHED = ["rng.bytes", "balloon.released_pages", "balloon.reported_pages", "console.output_bytes",
           "console.input_bytes", "disk0.read.bytes", "disk0.write.bytes", "disk0.flush.requests",
           "disk1.write.bytes", "disk1.discard.bytes", "disk2.write_zeroes.bytes",
           "disk3.read.bytes", "net0.sent.frames", "net0.received.frames", "net1.sent.frames",
            "net2.received.frames", "vsock.streams", "vsock.to_host_bytes", "disk4.requests"]


class Peer:
    """The other end of a Unix socket: sends nonsense and reads what comes."""

    def __init__(self, path, greeting=b"", listens=False):
        self.path, self.greeting, self.listens = path, greeting, listens
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with socket.socket(socket.AF_UNIX) as server:
            if self.listens:
                server.bind(self.path)
                server.listen()
                server.settimeout(0.05)
            while not self.ended.wait(0 if self.listens else 0.05):
                try:
                    peer = server.accept()[0] if self.listens else socket.socket(socket.AF_UNIX)
                    with peer:
                        self.talk(peer)
                except OSError:
                    pass

    def talk(self, peer):
        if not self.listens:
            peer.connect(self.path)
        peer.settimeout(0.01)
        peer.send(self.greeting)
        while not self.ended.is_set() and not one_in(50):
            peer.send(os.urandom(random.randrange(1, 300)))
            try:
                if not peer.recv(4096):
                    break
            except TimeoutError:
                pass

    def end(self):
        self.ended.set()
        self.thread.join()


def one_in(times):
    return random.randrange(times) == 0


class GuestFuzz(TestCase):
    def images(self):
        for path, size in [("image.qcow2", "64M"), ("small.qcow2", "8M")]:
            options = ["--cluster-size", "512"] if path == "small.qcow2" else []
            made = run("image", "create", *options, self.path(path), size)
            self.assertEqual(made.returncode, 0, made.stderr)
        self.path("raw", os.urandom(8 << 20))
        self.path("read", os.urandom(8 << 20))

    def storage(self):
        """The other process of the last disk. It may end a connection that it does not like, and
        must not end itself for what a guest says."""
        self.path("storage.raw", os.urandom(8 << 20))
        daemon = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev",
             f"driver=file,filename={self.path('storage.raw')},node-name=disk", "--export",
             "vhost-user-blk,id=export,node-name=disk,addr.type=unix,num-queues=2,writable=on,"
             f"addr.path={self.path('storage')}"], stderr=subprocess.DEVNULL)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        while not os.path.exists(self.path("storage")):
            time.sleep(0.05)
        return daemon

    def fuzz(self, seed):
        """One machine from its start to its end; its counters."""
        machine = list(MACHINES)[seed % len(MACHINES)]
        folder = self.folder.name
        for name in ("hvc", "port", "link", "vsock", "vsock_1024"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        arguments = []
        for option, value in DEVICES:
            if (option, machine) != ("--balloon", "platform"):
                arguments += [option, value.format(folder) + MACHINES[machine]]
        for option, value in PORTS:
            arguments += [option, value.format(folder)]
        peers = [Peer(self.path("hvc")), Peer(self.path("port")),
                 Peer(self.path("vsock"), b"CONNECT 1000\n"),
                 Peer(self.path("vsock_1024"), listens=True)]
        try:
            result = run("run", "--engine", ENGINE, "--kernel", bare("fuzz"), "--memory", "1G",
                         "--debug-exit", "0xf4", "--cmdline", f"seed={seed} steps={STEPS}",
                         "--stats=json", *arguments, seconds=ONE_RUN_SECONDS)
        finally:
            for peer in peers:
                peer.end()
        said = (f"machine '{machine}'; again with FUZZ_SEED={seed}\n" + result.stdout[-2000:] +
                result.stderr[-20000:])
        self.assertEqual(result.returncode, PASSED, said)
        self.assertIn("PASSED", result.stdout, said)
        self.assertNotRegex(result.stderr, "Sanitizer|runtime error", said)
        for image in ("image.qcow2", "small.qcow2"):
            checked = run("image", "check", self.path(image))
            self.assertEqual(checked.returncode, 0, said + checked.stdout + checked.stderr)
        return json.loads(re.search(r"\{\"engine.*\}", result.stderr).group())["counters"]

    def test_all_devices(self):
        self.images()
        daemon = self.storage()
        reached = dict.fromkeys(REACHED, 0)
        end = time.monotonic() + SECONDS
        for count in itertools.count():
            if count >= len(MACHINES) and time.monotonic() >= end:
                break
            counters = self.fuzz(SEED + count)
            self.assertIsNone(daemon.poll(), f"FUZZ_SEED={SEED + count}")
            for name in REACHED:
                reached[name] += counters.get(name, 0)
        print(f"{count} runs of {STEPS} steps, from FUZZ_SEED={SEED}")
        self.assertEqual([name for name in REACHED if reached[name] == 0], [])


if __name__ == "__main__":
    main()
