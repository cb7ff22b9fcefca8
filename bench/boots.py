#!/usr/bin/env python3
"""Boots a Linux guest many times in a row and says what went wrong, how long each took, and
whether doppel grows.

Usage: boots.py DOPPEL GUESTS [--engine ENGINE] [--count N] [--in-one-process]

Each boot is its own process, which boots to init, runs a command, and powers off; or, with
--in-one-process, one process whose guest reboots over and over: there, memory that is not given
back adds up.
"""
import argparse
import statistics
import sys
import time

import guests

BOOT_LIMIT = 300


def boot_once(make_command):
    """(seconds to init, seconds to the end, resident KiB at init)."""
    with guests.Guest(make_command(guests.commands("echo it $((40 + 2)) works"))) as guest:
        to_init = resident = None
        works = False
        for when, line in guest.lines(BOOT_LIMIT):
            if guests.BANNER in line:
                to_init = when
                resident = guests.resident_kib(guest.process.pid)
            works = works or line == "it 42 works"
        status = guest.exit_status()
        if status or to_init is None or not works:
            raise guest.error(f"exit status {status}, "
                              f"{'no init' if to_init is None else 'init'}, "
                              f"its command {'ran' if works else 'did not run'}")
        return to_init, time.monotonic() - guest.started, resident


def separate_boots(make_command, count):
    for _ in range(count):
        try:
            yield boot_once(make_command)
        except guests.GuestError as error:
            yield error


def reboots(make_command, count):
    """The same of one process: seconds from reset to init, and to the next init."""
    try:
        with guests.Guest(make_command(guests.commands("reboot -f"))) as guest:
            seen, last = 0, 0
            for when, line in guest.lines(BOOT_LIMIT * count, BOOT_LIMIT):
                if guests.BANNER not in line:
                    continue
                yield when - last, when - last, guests.resident_kib(guest.process.pid)
                seen, last = seen + 1, when
                if seen == count:
                    return
            raise guest.error(f"ended after {seen} boots, exit status {guest.exit_status()}")
    except guests.GuestError as error:
        yield error


def growth(values):
    """How much more the last tenth is than the second; a first one may be warming up."""
    part = max(1, len(values) // 10)
    early = values[part:2 * part] or values
    return statistics.mean(values[-part:]) - statistics.mean(early)


def summary(title, values, unit):
    return (f"{title:<18} min {min(values):.1f}  median {statistics.median(values):.1f}  "
            f"max {max(values):.1f} {unit}; late against early {growth(values):+.1f} {unit}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("doppel")
    parser.add_argument("guests")
    parser.add_argument("--engine", default="translate")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--in-one-process", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="a line for each boot")
    options = parser.parse_args()
    files = guests.Files(options.guests)

    def make_command(more):
        return guests.doppel_command(options.doppel, options.engine, files.kernel,
                                     files.initramfs, guests.QUIET + more)

    boots = reboots if options.in_one_process else separate_boots
    good, failures = [], []
    for number, outcome in enumerate(boots(make_command, options.count), 1):
        if isinstance(outcome, guests.GuestError):
            failures.append(number)
            print(f"boot {number}: {outcome}", flush=True)
            continue
        good.append(outcome)
        if options.verbose:
            print(f"boot {number}: init {outcome[0]:.2f} s, all {outcome[1]:.2f} s, "
                  f"{outcome[2] / 1024:.1f} MiB", flush=True)

    print(f"{len(good)} boots on {options.engine} went well, {len(failures)} failed")
    if good:
        print(summary("to init", [boot[0] for boot in good], "s"))
        if not options.in_one_process:
            print(summary("to the end", [boot[1] for boot in good], "s"))
        print(summary("resident at init", [boot[2] / 1024 for boot in good], "MiB"))
    return 1 if failures or len(good) < options.count else 0


if __name__ == "__main__":
    sys.exit(main())
