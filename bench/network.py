"""iperf3 from the guest to this machine, over tap and over user networking, against QEMU and
against this machine's loopback.

Everything runs in a network namespace of its own, where tap devices may be made and no port is
taken; where namespaces are not permitted it runs without, and without the tap rows.
"""
import contextlib
import os
import re
import resource
import shutil
import subprocess
import time

import guests
import transfers

NETWORKS = ("user", "tap")
JOBS = [("guest to host", "")]
PORT = 5201
# The guest's address and this machine's, by network.
USER_GUEST, USER_HOST = "10.0.2.15/24", "10.0.2.2"
TAPS = {"TCG": ("tapq", "192.168.71"), "doppel": ("tapd", "192.168.72")}
RECEIVED = re.compile(r"([0-9.]+)-([0-9.]+) +sec +([0-9.]+) ([KMG]?)Bytes +([0-9.]+) Mbits/sec"
                      r".*receiver")
SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Namespace:
    """Of networks: a process that holds it, and what makes a command run there."""

    def __init__(self):
        self.holder, self.prefix, self.taps = None, [], False
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            return
        self.holder = subprocess.Popen(["unshare", "-rn", "cat"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        # What comes back says that it is there.
        with contextlib.suppress(BrokenPipeError):
            self.holder.stdin.write(b"there\n")
            self.holder.stdin.flush()
        if not self.holder.stdout.readline():
            return
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-U", "--preserve-credentials",
                       "-n", "--"]
        self.taps = self._make("link set lo up") and os.path.exists("/dev/net/tun") and all(
            self._make(f"tuntap add dev {tap} mode tap vnet_hdr")
            and self._make(f"addr add {net}.1/24 dev {tap}") and self._make(f"link set {tap} up")
            for tap, net in TAPS.values())

    def _make(self, command):
        return subprocess.run([*self.prefix, "ip", *command.split()], stderr=subprocess.DEVNULL,
                              check=False).returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.holder is not None:
            self.holder.kill()
            self.holder.communicate()


@contextlib.contextmanager
def server(prefix):
    with subprocess.Popen([*prefix, "iperf3", "-s", "-p", str(PORT)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.3)
            if process.poll() is not None:
                raise guests.GuestError(f"iperf3's server does not start; is port {PORT} taken?")
            yield
        finally:
            process.kill()


def client(program, address, seconds):
    return f"{program} -c {address} -p {PORT} -t {seconds} -i 0 -f m"


def sample_of(lines, cpu):
    for line in lines:
        found = RECEIVED.search(line)
        if found:
            return transfers.Sample(float(found[5]) * 1e6 / 8, float(found[3]) * SIZES[found[4]],
                                    cpu)
    raise guests.GuestError("iperf3 said nothing that can be understood:\n" + "\n".join(lines))


class Native:
    """Over the loopback; its processor time is the sender's alone, as in a guest."""

    def __init__(self, prefix):
        self.prefix = prefix

    def sample(self, job, kind, seconds):
        del job, kind
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*self.prefix, *client("iperf3", "127.0.0.1", seconds).split()],
                              capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return sample_of(done.stdout.splitlines(), used)


class InGuest:
    def __init__(self, shell, addresses):
        self.shell, self.addresses = shell, addresses

    def sample(self, job, kind, seconds):
        del job
        return sample_of(*self.shell.run(client("/bin/iperf3", self.addresses[kind], seconds)))


def set_up(addresses):
    """What the guest runs first: eth0, eth1, ... with these addresses."""
    lines = ["ip link set lo up"]
    for index, address in enumerate(addresses):
        lines += [f"ip addr add {address} dev eth{index}", f"ip link set eth{index} up"]
    return "; ".join(lines) + "; "


def qemu_options(networks):
    options = ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"]
    if "tap" in networks:
        options += ["-netdev", f"tap,id=n1,ifname={TAPS['TCG'][0]},script=no,downscript=no",
                    "-device", "virtio-net-pci,netdev=n1"]
    return options


def doppel_options(networks):
    options = ["--net", "user"]
    if "tap" in networks:
        options += ["--net", f"tap,name={TAPS['doppel'][0]}"]
    return options


def measure(files, engine, options):
    with Namespace() as namespace, contextlib.ExitStack() as stack:
        networks = NETWORKS if namespace.taps else NETWORKS[:1]
        rows = {(kind, job): transfers.Row(f"{kind}, {job[0]}", "MB/s")
                for kind in networks for job in JOBS}

        def guest(who, command):
            net = TAPS[who][1]
            shell = stack.enter_context(transfers.Shell([*namespace.prefix, *command]))
            return InGuest(shell, {"user": USER_HOST, "tap": net + ".1"})

        def cmdline(who):
            own = [USER_GUEST, TAPS[who][1] + ".2/24"][:len(networks)]
            return transfers.Shell.cmdline(set_up(own))

        stack.enter_context(server(namespace.prefix))
        places = {"native": Native(namespace.prefix)}
        if options.tcg:
            places["TCG"] = guest("TCG", guests.qemu_command(
                files.kernel, files.io_initramfs, cmdline("TCG"), qemu_options(networks)))
        places[engine] = guest("doppel", guests.doppel_command(
            options.doppel, engine, files.kernel, files.io_initramfs, cmdline("doppel"),
            doppel_options(networks)))
        transfers.take_turns(rows, places, options)
    note = "" if "tap" in networks else "tap: not measured, tap devices cannot be made here"
    return transfers.Table("network", engine, list(rows.values()), note=note)
