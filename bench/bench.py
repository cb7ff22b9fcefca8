#!/usr/bin/env python3
"""The speed table: the same programs natively, under QEMU's emulator and under doppel.

Usage: bench.py DOPPEL GUESTS [OPTIONS], see --help. GUESTS is make's folder of guests.

Every program runs for a bounded time and reports its fastest repetition (bench/programs/), twice
in each place, and the better counts; natively once before the guests and once after. What
programs compute is compared too. Boot to init is wall time from the start of the process to
init's first line, with the small initramfs; the median of several.

Disks, networks and work have tables of their own: storage.py, network.py, work.py.
"""
import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

import guests
import network
import results
import storage
import transfers
import work

GUEST_LIMIT = 1800
# Longer than any program takes for its first repetition on the slowest engine.
SILENCE_LIMIT = 300


@dataclasses.dataclass
class Place:
    """Somewhere the suite ran."""
    name: str
    run: results.Run = dataclasses.field(default_factory=results.Run)
    independent: results.Run = dataclasses.field(default_factory=results.Run)
    narrow: results.Run = dataclasses.field(default_factory=results.Run)
    boot: float | None = None
    stats: dict | None = None
    problems: list = dataclasses.field(default_factory=list)


def suite_commands(folder, chosen, budget, loops):
    """The fixed binary with all that is chosen, then the position-independent one and the one of
    32-bit code with the compute programs, more briefly: they are here to be run at all, and for
    the mean."""
    commands = [f"{folder}/suite --loops {loops} --budget {budget} --only {','.join(chosen)}"]
    compute = [name for name, group in chosen.items() if group in results.COMPUTE]
    for other in ("suite-pie", "suite-32") if compute else ():
        commands.append(f"{folder}/{other} --loops {loops} --budget {budget / 3:.3f} "
                        f"--only {','.join(compute)}")
    return commands


def keep(place, runs, commands, loops):
    """Sorts `runs` into the three binaries' best."""
    place.run, place.independent, place.narrow = (
        results.best(runs[first:first + loops]) for first in (0, loops, 2 * loops))
    if sum(run.complete for run in runs) < len(commands) * loops:
        place.problems.append("the suite did not come to its end")


def run_native(files, chosen, options):
    place = Place("native")
    reader = results.Reader()
    native_commands = suite_commands(files.programs, chosen, options.budget, 1)
    for command in native_commands:
        done = subprocess.run(command.split(), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
        for line in done.stdout.splitlines():
            reader.line(time.monotonic(), line)
        if done.returncode:
            place.problems.append(f"{command}: exit status {done.returncode}")
    keep(place, reader.runs, native_commands, 1)
    return place


def run_guest(place, command, verbose):
    """Runs the suite in a guest until it powers off; what it printed."""
    reader = results.Reader()
    try:
        with guests.Guest(command) as guest:
            for when, line in guest.lines(GUEST_LIMIT, SILENCE_LIMIT):
                if reader.line(when, line) and verbose:
                    print(f"  {place.name} {when:7.1f} s  {line}", flush=True)
            status = guest.exit_status()
            if status:
                place.problems.append(str(guest.error(f"exit status {status}")))
            elif not reader.runs or not reader.runs[-1].complete:
                place.problems.append(str(guest.error("powered off early")))
            said = guest.error_text().splitlines()
            if said and said[-1].startswith("{"):
                place.stats = json.loads(said[-1])
    except guests.GuestError as error:
        place.problems.append(str(error))
    return reader.runs


def check_clock(place):
    """Times of a guest are worth as much as its clock."""
    for run in (place.run, place.independent, place.narrow):
        if run.host_seconds > 1 and abs(run.own_seconds / run.host_seconds - 1) > 0.05:
            place.problems.append(f"its clock says {run.own_seconds:.2f} s, "
                                  f"ours {run.host_seconds:.2f} s")


def measure_boot(place, command, runs):
    try:
        place.boot = statistics.median(guests.boot_seconds(command) for _ in range(runs))
    except guests.GuestError as error:
        place.problems.append("boot: " + str(error))


def measure_transfers(files, options):
    """Tables of disks and networks for each engine, and what went wrong."""
    tables, problems = [], []
    for engine in options.engines:
        for name, tool in options.transfers.items():
            print(f"{engine}, {name}: ", end="\n" if options.verbose else "", flush=True)
            start = time.monotonic()
            try:
                tables.append(tool.measure(files, engine, options))
            except (guests.GuestError, subprocess.SubprocessError, OSError) as error:
                problems.append(f"{engine}, {name}: {error}")
            print(f"{time.monotonic() - start:.0f} s", flush=True)
    return tables, problems


def measure_guest(name, make_command, files, chosen, options, stats=()):
    """Boots, then the suite. `make_command` is of kernel, initramfs, command line, options."""
    place = Place(name)
    print(f"{name}: ", end="", flush=True)
    start = time.monotonic()
    if options.boots:
        measure_boot(place, make_command(files.kernel, files.initramfs, guests.BOOT, ()),
                     options.boots)
    if chosen:
        lines = suite_commands("/bench", chosen, options.budget, options.loops)
        cmdline = guests.QUIET + guests.commands("; ".join(lines))
        if options.verbose:
            print(flush=True)
        runs = run_guest(place, make_command(files.kernel, files.bench_initramfs, cmdline, stats),
                         options.verbose)
        keep(place, runs, lines, options.loops)
        check_clock(place)
    print(f"{time.monotonic() - start:.0f} s{', with problems' if place.problems else ''}",
          flush=True)
    return place


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def time_text(nanoseconds):
    if nanoseconds is None:
        return "-"
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds:.2f} ns"


def boot_text(place):
    return "-" if place.boot is None else f"{place.boot:.2f} s"


def print_table(groups, native, tcg, engines):
    head = f"{'program':<16}{'native':>11}{'TCG':>11}{'/native':>9}"
    for engine in engines:
        head += f" |{engine.name:>11}{'/native':>9}{'TCG/':>8}"
    print("\n" + head)
    for name in groups:
        base, emulated = native.run.time(name), tcg.run.time(name)
        row = (f"{name:<16}{time_text(base):>11}{time_text(emulated):>11}"
               f"{number(results.ratio(emulated, base)):>9}")
        for engine in engines:
            own = engine.run.time(name)
            row += (f" |{time_text(own):>11}{number(results.ratio(own, base)):>9}"
                    f"{number(results.ratio(emulated, own)):>8}")
        print(row)
    print_mean("compute, mean", groups, "run", native, tcg, engines)
    print_mean("same, as PIE", groups, "independent", native, tcg, engines)
    print_mean("same, 32-bit", groups, "narrow", native, tcg, engines)
    row = f"{'boot to init':<16}{'':>11}{boot_text(tcg):>11}{'':>9}"
    for engine in engines:
        row += (f" |{boot_text(engine):>11}{'':>9}"
                f"{number(results.ratio(tcg.boot, engine.boot)):>8}")
    print(row)


def print_mean(title, groups, which, native, tcg, engines):
    """Geometric means over the compute programs that ran in both places of a ratio."""
    base, emulated = getattr(native, which), getattr(tcg, which)
    mean = results.geometric_mean(results.compute_ratios(groups, base, emulated).values())
    row = f"{title:<16}{'':>11}{'':>11}{number(mean):>9}"
    for engine in engines:
        own = getattr(engine, which)
        ratios = results.compute_ratios(groups, base, own)
        gains = results.compute_ratios(groups, own, emulated)
        row += (f" |{'':>11}{number(results.geometric_mean(ratios.values())):>9}"
                f"{number(results.geometric_mean(gains.values())):>8}")
    print(row)


def print_notes(places):
    for place in places:
        for name, result in place.run.results.items():
            if result.note:
                print(f"{place.name}: {name} {result.note}")
        for problem in place.problems:
            print(f"{place.name}: {problem}")


def print_stats(engine):
    print(f"\nCounters of {engine.name} (the suite's run, boot included):")
    for name, value in (engine.stats or {}).items():
        if name != "counters":
            print(f"  {name:<44}{value}")
    for name, value in (engine.stats or {}).get("counters", {}).items():
        if value:
            print(f"  {name:<44}{value}")


def as_json(groups, places, tables, judged):
    return {
        "programs": groups,
        "places": {place.name: {
            "boot_seconds": place.boot,
            "nanoseconds": {name: place.run.time(name) for name in groups},
            "nanoseconds_pie": {name: value.nanoseconds
                                for name, value in place.independent.results.items()},
            "notes": {name: value.note for name, value in place.run.results.items() if value.note},
            "stats": place.stats, "problems": place.problems} for place in places},
        "transfers": [table.as_json() for table in tables],
        "bars": {name: [{**dataclasses.asdict(bar), "state": bar.state} for bar in required]
                 for name, required in judged.items()},
    }


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("doppel")
    parser.add_argument("guests")
    parser.add_argument("--engines", default="translate", help="comma-separated; or none")
    parser.add_argument("--only", help="programs or groups, comma-separated; boot, "
                        "storage, network or work")
    parser.add_argument("--quick", action="store_true", help="one boot, short repetitions")
    parser.add_argument("--no-tcg", action="store_true", help="without QEMU")
    parser.add_argument("--json", metavar="FILE", help="write everything there as well")
    parser.add_argument("--require", action="store_true", help="fail when a bar is missed")
    parser.add_argument("--verbose", action="store_true", help="progress, and engines' counters")
    options = parser.parse_args()
    options.budget = 0.04 if options.quick else 0.3
    options.loops = 1 if options.quick else 2
    options.boots = 1 if options.quick else 3
    options.rounds, options.seconds = (1, 2) if options.quick else (3, 3)
    options.disk_mib = 128 if options.quick else 512
    options.folder = options.guests  # a file system with O_DIRECT, which /tmp may not be
    options.engines = [engine for engine in options.engines.split(",") if engine != "none"]
    options.tcg = not options.no_tcg and guests.qemu_command("", "", "") is not None
    options.transfers = {"storage": storage, "network": network, "work": work}
    return options


def choose(files, options):
    """Programs to run, with their groups, in the suite's order."""
    listed = subprocess.run([files.program("suite"), "--list"], capture_output=True, text=True,
                            check=True).stdout.splitlines()
    groups = dict(line.split() for line in listed)
    if not options.only:
        return groups
    wanted = options.only.split(",")
    known = [*groups, *dict.fromkeys(groups.values()), "boot", *options.transfers]
    unknown = set(wanted) - set(known)
    if unknown:
        sys.exit(f"bench.py: --only: no program or group {', '.join(sorted(unknown))}; "
                 f"there are {', '.join(known)}")
    if "boot" not in wanted:
        options.boots = 0
    options.transfers = {name: tool for name, tool in options.transfers.items() if name in wanted}
    return {name: group for name, group in groups.items() if name in wanted or group in wanted}


def measure_all(files, chosen, options):
    native = run_native(files, chosen, options) if chosen else Place("native")
    tcg = Place("TCG")
    if not chosen and not options.boots:
        return native, tcg, [Place(engine) for engine in options.engines]
    if options.tcg:
        tcg = measure_guest("TCG", lambda kernel, initramfs, cmdline, _:
                            guests.qemu_command(kernel, initramfs, cmdline),
                            files, chosen, options)
    engines = [measure_guest(engine, lambda kernel, initramfs, cmdline, extra, engine=engine:
                             guests.doppel_command(options.doppel, engine, kernel, initramfs,
                                                   cmdline, extra),
                             files, chosen, options, ("--stats=json",))
               for engine in options.engines]
    if chosen:
        again = run_native(files, chosen, options)
        native.run = results.best([native.run, again.run])
        native.independent = results.best([native.independent, again.independent])
    for place in (tcg, *engines):
        place.problems += results.differences(native.run, place.run)
        place.problems += results.differences(native.independent, place.independent)
    return native, tcg, engines


def main():
    options = parse_arguments()
    files = guests.Files(options.guests)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"This machine is busy (load {load:.1f}): the times below are too long.")
    chosen = choose(files, options)
    native, tcg, engines = measure_all(files, chosen, options)
    tables, problems = measure_transfers(files, options)
    places = [native, tcg, *engines]
    judged = {engine.name: results.bars(chosen, native.run, tcg.run, engine.run,
                                        (engine.boot, tcg.boot)) for engine in engines}
    for table in tables:
        judged[table.engine] += table.bars()
    if chosen or options.boots:
        print_table(chosen, native, tcg, engines)
    for table in tables:
        table.show()
    print_notes(places)
    for problem in problems:
        print(problem)
    for name, required in judged.items():
        print(f"\nRequired of translate; here {name}:")
        for bar in required:
            if not options.only or bar.measured is not None:
                print("  " + str(bar))
    if options.verbose:
        for engine in engines:
            print_stats(engine)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(as_json(chosen, places, tables, judged), file, indent=1)
    missed = any(bar.state == "FAIL" for required in judged.values() for bar in required)
    failed = problems or any(place.problems for place in places)
    return 1 if failed or (options.require and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
