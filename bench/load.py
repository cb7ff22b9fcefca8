#!/usr/bin/env python3
"""Keeps a Linux guest busy with mixed work for some minutes and checks everything it says.

Usage: load.py DOPPEL GUESTS [--engine ENGINE] [--minutes N]

The work is bench/programs/load.sh: processes, pipes, signals, files and floating point, all at
once, in rounds. Each piece of a round has one right result, which this machine itself computes
first with the same binaries; any other result from the guest, and a round that takes longer than
--round-limit, is a failure. Reports how doppel's memory and the rounds' times develop.
"""
import argparse
import collections
import os
import re
import subprocess
import sys

import guests

PIECE = re.compile(r"^load: ([a-z_]+) ([0-9a-f]{32})$")
ROUND = re.compile(r"^load: round ([0-9]+)$")
BOOT_LIMIT = 300


def expected_results(files):
    """What each piece computes, by one round on this machine."""
    done = subprocess.run([files.busybox, "sh", files.program("load"), "1"],
                          env={**os.environ, "BUSYBOX": os.path.abspath(files.busybox)},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    found = dict(match.groups() for match in map(PIECE.match, done.stdout.splitlines()) if match)
    if not found:
        sys.exit(f"load.py: load.sh does not work here: {done.stdout}{done.stderr}")
    return found


class Watch:
    """Follows the guest's lines."""

    def __init__(self, expected, minutes):
        self.expected = expected
        self.report_every = max(10.0, minutes * 60 / 20)
        self.rounds = []  # when each ended
        self.resident = []
        self.wrong = collections.Counter()
        self.ended = False
        self._seen = set()
        self._reported = 0.0

    def line(self, when, text, process):
        piece, finished = PIECE.match(text), ROUND.match(text)
        if piece:
            self._check(len(self.rounds) + 1, *piece.groups())
        elif finished:
            self._finish_round(when, int(finished[1]), process)
        elif text == "load: end":
            self.ended = True
        elif "Segmentation fault" in text or "traps:" in text or "BUG:" in text:
            self._fail(len(self.rounds) + 1, text)

    def _check(self, number, name, result):
        self._seen.add(name)
        if result != self.expected.get(name):
            self._fail(number, f"{name}: {result}, here {self.expected.get(name)}")

    def _finish_round(self, when, number, process):
        missing = set(self.expected) - self._seen
        if missing:
            self._fail(number, f"no result of {', '.join(sorted(missing))}")
        self._seen.clear()
        self.rounds.append(when)
        if when - self._reported >= self.report_every:
            self._reported = when
            self.resident.append(guests.resident_kib(process) / 1024)
            print(f"{when:7.0f} s  {number} rounds, {self.resident[-1]:.1f} MiB", flush=True)

    def _fail(self, number, text):
        self.wrong[text] += 1
        print(f"round {number}: {text}", flush=True)


def report(watch, engine):
    print(f"{len(watch.rounds)} rounds on {engine}, {sum(watch.wrong.values())} wrong results")
    if len(watch.rounds) > 1:
        took = [after - before for before, after in zip(watch.rounds, watch.rounds[1:])]
        print(f"a round: min {min(took):.2f} s, max {max(took):.2f} s, last {took[-1]:.2f} s")
    if watch.resident:
        print(f"resident: first {watch.resident[0]:.1f} MiB, last {watch.resident[-1]:.1f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("doppel")
    parser.add_argument("guests")
    parser.add_argument("--engine", default="translate")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--round-limit", type=float, default=300, help="seconds")
    options = parser.parse_args()
    files = guests.Files(options.guests)
    watch = Watch(expected_results(files), options.minutes)
    seconds = int(options.minutes * 60)
    command = guests.doppel_command(options.doppel, options.engine, files.kernel,
                                    files.bench_initramfs,
                                    guests.QUIET + guests.commands(f"/bench/load {seconds}"))
    failed = False
    try:
        with guests.Guest(command) as guest:
            for when, line in guest.lines(BOOT_LIMIT + 2 * seconds + options.round_limit,
                                          max(BOOT_LIMIT, options.round_limit)):
                watch.line(when, line, guest.process.pid)
            status = guest.exit_status()
            if status or not watch.ended:
                raise guest.error(f"the guest ended early, exit status {status}")
    except guests.GuestError as error:
        failed = True
        print(f"load.py: {error}")
    report(watch, options.engine)
    return 1 if failed or watch.wrong or not watch.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
