#!/usr/bin/env python3
"""The speed table: doppel against QEMU's emulator, same kernel and initramfs, same run.

Usage: bench.py DOPPEL KERNEL INITRAMFS [--engines interpret,kvm] [--runs N]

Boot to init: wall time from starting the process to init's first line on the console; the
process is killed then. Instructions per second: from --stats of a boot that powers off.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

BANNER = b"doppel: init is running"
BOOT = "console=ttyS0"
LIMIT_SECONDS = 900


def boot_seconds(command):
    """From start until the banner; None when the process ended or the limit came first."""
    start = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, start_new_session=True) as process:
        seen = b""
        elapsed = None
        while time.monotonic() - start < LIMIT_SECONDS:
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                break
            seen = (seen + part)[-len(BANNER) - 65536:]
            if BANNER in seen:
                elapsed = time.monotonic() - start
                break
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return elapsed


def instruction_rate(command):
    """(instructions, seconds) of a whole boot and poweroff, or None where not counted."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS, check=False)
    if result.returncode != 0:
        print(result.stderr, file=sys.stderr)
        return None
    stats = json.loads(result.stderr.splitlines()[-1])
    if stats["instructions"] is None:
        return None
    return stats["instructions"], stats["wall_seconds"]


def median(command, runs):
    times = [boot_seconds(command) for _ in range(runs)]
    return None if None in times else statistics.median(times)


def seconds_text(seconds):
    return "did not boot" if seconds is None else f"{seconds:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("doppel")
    parser.add_argument("kernel")
    parser.add_argument("initramfs")
    parser.add_argument("--engines", default="interpret")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    guest = ["--kernel", arguments.kernel, "--initrd", arguments.initramfs]

    qemu = shutil.which("qemu-system-x86_64")
    rows = []
    reference = None
    if qemu:
        reference = median([qemu, "-accel", "tcg", "-machine", "q35", "-m", "512", "-nographic",
                            "-no-reboot", "-nodefaults", "-serial", "stdio",
                            "-kernel", arguments.kernel, "-initrd", arguments.initramfs,
                            "-append", BOOT], arguments.runs)
        rows.append(("qemu tcg", reference, None))
    else:
        print("qemu-system-x86_64 is not installed: no comparison", file=sys.stderr)
    for engine in arguments.engines.split(","):
        command = [arguments.doppel, "run", "--engine", engine, *guest]
        boot = median([*command, "--cmdline", BOOT], arguments.runs)
        rate = None
        if boot is not None:
            rate = instruction_rate([*command, "--cmdline", BOOT + ' doppel.run="true"',
                                     "--stats=json"])
        rows.append((f"doppel {engine}", boot, rate))

    print(f"\n{'engine':<18}{'boot to init':>14}{'ratio':>8}{'instructions':>16}{'million/s':>12}")
    for name, boot, rate in rows:
        ratio = f"{boot / reference:.2f}" if boot and reference else "-"
        count, speed = "-", "-"
        if rate:
            count, speed = f"{rate[0] / 1e6:.0f} M", f"{rate[0] / rate[1] / 1e6:.1f}"
        print(f"{name:<18}{seconds_text(boot):>14}{ratio:>8}{count:>16}{speed:>12}")
    print("\nratio: wall time against QEMU's emulator, same kernel and initramfs; "
          "million/s: over a\nwhole boot and poweroff, idle time included")
    return 0 if all(boot is not None for _, boot, _ in rows) else 1


sys.exit(main())
