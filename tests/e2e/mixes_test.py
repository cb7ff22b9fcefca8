"""Machines with different mixes of devices, each booted once with Linux, where every device must do
its work. MIXES=all: all of them, else a few."""
import hashlib
import json
import os
import re
import socket
import threading

from harness import ENGINE, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase, main, run

ALL = os.environ.get("MIXES") == "all"
LEGACY = "virtio_pci.force_legacy=1"
OLD_RINGS = ",without=packed+event-idx+indirect"
EVERYTHING = ["raw", "qcow2", "read", "user", "balloon", "console", "port", "rng"]


def each(keys, devices=tuple(EVERYTHING)):
    return [device + ("" if device == "port" else keys) for device in devices]


# Name: devices, words of the kernel's command line, memory. Of a device: what it is, and its keys.
MIXES = {
    "everything": (EVERYTHING, "", "512M"),
    "everything over MMIO": (each(",transport=mmio"), "", "512M"),
    "everything for legacy drivers": (EVERYTHING, LEGACY, "512M"),
    "split rings": (each(",without=packed"), "", "512M"),
    "old rings": (each(OLD_RINGS), "", "512M"),
    "old rings over MMIO": (each(OLD_RINGS + ",transport=mmio"), "", "512M"),
    "modern alone": (each(",legacy=off"), "", "512M"),
    "the platform's addresses": (each(",access-platform=on", ["raw", "qcow2", "read", "user",
                                                              "console", "port", "rng"]), "", "512M"),
    "lines for interrupts": (EVERYTHING, "pci=nomsi", "512M"),
    "lines for legacy drivers": (EVERYTHING, LEGACY + " pci=nomsi", "512M"),
    "memory beyond 4 GiB": (EVERYTHING, "", "5G"),
    "memory beyond 4 GiB, over MMIO": (each(",transport=mmio"), "", "5G"),
    "little memory": (["raw", "user", "rng"], "", "192M"),
    "nothing": (["rng off"], "", "256M"),
    "entropy alone": (["rng"], "", "256M"),
    "disks over both transports": (["raw", "raw,transport=mmio", "qcow2", "qcow2,transport=mmio"], "",
                                   "256M"),
    "sixteen disks": (["raw", "qcow2"] * 8, "", "512M"),
    "six cards": ([f"user,net=10.0.{i}.0/24" for i in range(2, 8)], "", "512M"),
    "cards over both transports": (["user", "user,transport=mmio,net=10.0.3.0/24"], "", "256M"),
    "disks with queues": (["raw,queues=4", "qcow2,queues=2", "raw,queues=4,transport=mmio"], "",
                          "256M"),
    "disks past the host's cache": (["raw,cache=none", "qcow2,cache=none"], "", "256M"),
    "disks on threads, with limits": (["raw,io=threads,iops=500", "qcow2,bps=8M", "read,io=threads"],
                                      "", "256M"),
    "an overlay and its like": (["overlay", "overlay,transport=mmio", "qcow2,cache=unsafe"], "",
                                "256M"),
    "slow cards and their captures": (["user,pps=2000,mtu=1280,pcap={}/0.pcap",
                                       "user,bps=2M,net=10.0.3.0/24,pcap={}/1.pcap"], "", "256M"),
}
QUICK = ["everything", "everything over MMIO", "everything for legacy drivers",
         "disks over both transports"]


class Server:
    """Sends the same bytes to whoever connects."""

    def __init__(self):
        self.data = os.urandom(200_000)
        self.digest = hashlib.md5(self.data).hexdigest()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.data)


class Disk:
    SIZE = 384 << 10

    def __init__(self, test, number, kind, keys):
        self.kind = kind
        self.mmio = "transport=mmio" in keys
        self.content = os.urandom(self.SIZE)
        self.path = test.path(f"disk{number}", self.content)
        self.format = "raw"
        if kind in ("qcow2", "overlay"):
            self.format = "qcow2"
            test.doppel("image", "convert", "-f", "raw", "-O", "qcow2", self.path, self.path + ".q")
            self.path += ".q"
        if kind == "overlay":
            test.doppel("image", "create", "-f", "qcow2", "-b", self.path, self.path + ".o")
            self.path += ".o"
        self.keys = keys + (",readonly" if kind == "read" else "")
        self.arguments = ["--disk", f"{self.path},format={self.format}{self.keys}"]

    def now(self, test):
        """What is on it after the guest ended."""
        raw = self.path + ".now"
        test.doppel("image", "convert", "-f", self.format, "-O", "raw", self.path, raw)
        with open(raw, "rb") as file:
            return file.read()


class Mixes(TestCase):
    def doppel(self, *arguments):
        result = run(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)

    def boot(self, arguments, commands, cmdline, memory):
        result = run("run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS,
                     "--memory", memory, "--cmdline",
                     f'console=ttyS0 quiet {cmdline} doppel.run="{commands}"', "--stats=json",
                     *arguments, seconds=LINUX_SECONDS)
        said = result.stdout[-6000:] + result.stderr[-2000:]
        self.assertEqual(result.returncode, 0, said)
        stats = json.loads(re.search(r"\{\"engine.*\}", result.stderr).group())
        broken = {name: value for name, value in stats["counters"].items()
                  if name.endswith(".broken") and value != 0}
        self.assertEqual(broken, {}, said)
        return result.stdout.partition("init is running")[2], stats["counters"]

    def run_mix(self, devices, cmdline, memory):
        server = Server()
        self.addCleanup(server.socket.close)
        arguments, disks, networks = [], [], []
        others = {"balloon": ["--balloon", "32M"],
                  "console": ["--virtio-console", f"file:{self.path('hvc')}"],
                  "port": ["--port", f"org.test=file:{self.path('port')}"],
                  "rng off": ["--rng", "off"]}
        for device in devices:
            kind, comma, keys = device.partition(",")
            keys = (comma + keys).format(self.folder.name)
            if kind in ("raw", "qcow2", "read", "overlay"):
                disks.append(Disk(self, len(disks), kind, keys))
                arguments += disks[-1].arguments
            elif kind == "user":
                networks.append(re.search(r"net=(10\.0\.\d+\.)", keys + ",net=10.0.2.").group(1) + "2")
                arguments += ["--net", "user" + keys]
            elif kind == "rng":
                arguments += ["--rng", "on" + keys]
            else:
                arguments += others[kind][:-1] + [others[kind][-1] + keys]
        # Linux's names: its drivers come in this order.
        disks.sort(key=lambda disk: disk.mmio)
        names = [f"vd{chr(ord('a') + i)}" for i in range(len(disks))]
        writable = " ".join(name for name, disk in zip(names, disks) if disk.kind != "read")
        output, counters = self.boot(arguments, "".join([
            "cd /tmp; ls /sys/block; md5sum /dev/vd?; " if disks else "",
            f"for d in {writable}; do head -c 131072 /dev/urandom >$d; "
            "dd if=$d of=/dev/$d bs=64k conv=fsync,notrunc 2>/dev/null; md5sum $d; done; "
            if writable else "",
            "for n in $(ls /sys/class/net | grep eth); do udhcpc -i $n -q -n >/dev/null 2>&1; done; "
            if networks else "",
            "".join(f"nc {host} {server.port} </dev/null >net; md5sum net; " for host in networks),
            "head -c 500 /dev/hwrng | wc -c; " if "rng off" not in devices else "",
            "sleep 2; " if any(device.startswith("balloon") for device in devices) else "",
            "echo by hvc >/dev/hvc0; " if "--virtio-console" in arguments else "",
            "echo by port >$(ls /dev/vport*p1); sleep 1; " if "--port" in arguments else "",
        ]), cmdline, memory)

        self.check_disks(dict(zip(names, disks)), output)
        self.assertEqual(output.count(f"{server.digest}  net"), len(networks), output)
        if "rng off" not in devices:
            self.assertRegex(output, r"(?m)^500\r?$")
            self.assertGreaterEqual(counters["rng.bytes"], 500)
        if "--balloon" in arguments:
            self.assertGreaterEqual(counters["balloon.released_pages"], (32 << 20) >> 12)
        for option, name, wanted in [("--virtio-console", "hvc", b"by hvc"),
                                     ("--port", "port", b"by port")]:
            if option in arguments:
                with open(self.path(name), "rb") as file:
                    self.assertIn(wanted, file.read())

    def check_disks(self, disks, output):
        found = dict(re.findall(r"([0-9a-f]{32})  /dev/(vd\w+)", output))
        self.assertEqual({name: digest for digest, name in found.items()},
                         {name: hashlib.md5(disk.content).hexdigest()
                          for name, disk in disks.items()}, output)
        for name, disk in disks.items():
            now = disk.now(self)
            if disk.kind == "read":
                self.assertEqual(now, disk.content)
                continue
            written = re.search(rf"([0-9a-f]{{32}})  {name}\r?\n", output).group(1)
            self.assertEqual(hashlib.md5(now[:131072]).hexdigest(), written)
            self.assertEqual(now[131072:], disk.content[131072:])


def add(name, mix):
    method = "test_" + re.sub(r"\W+", "_", name)
    setattr(Mixes, method, lambda self: self.run_mix(*mix))


for mix_name, what in MIXES.items():
    if ALL or mix_name in QUICK:
        add(mix_name, what)

if __name__ == "__main__":
    main()
