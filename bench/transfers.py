"""Rows of the tables of disks, networks and work: how fast, and for how much processor time, in each
place.

Guests stay up and take one row after the other over their console, so that the places take turns
within seconds of each other and what else this machine does falls on all of them.
"""
import dataclasses
import os
import re
import statistics
import subprocess
import time

import guests
import results

READY = "bench: ready"
STATUS = re.compile(r"^bench: status ([0-9]+)$")
# Without the console's echo of what is typed, its answers are the only lines.
SERVE = ("stty -echo; {prepare}echo " + READY + "; while IFS= read -r line; do eval $line; "
         "echo bench: status $?; done")
BOOT_LIMIT = 120
COMMAND_LIMIT = 120
TICKS = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30


@dataclasses.dataclass
class Sample:
    rate: float  # operations or bytes a second
    moved: float  # bytes
    cpu: float | None = None  # seconds of all processes of that place


@dataclasses.dataclass
class Row:
    name: str
    # "/s", "MB/s"; "s" for what is done once: then the rate is one by the seconds; "x": a ratio.
    unit: str
    samples: dict = dataclasses.field(default_factory=dict)  # by place

    def add(self, place, sample):
        self.samples.setdefault(place, []).append(sample)

    def rate(self, place):
        found = self.samples.get(place)
        return statistics.median(sample.rate for sample in found) if found else None

    def cpu_per_gib(self, place):
        found = [sample for sample in self.samples.get(place, ())
                 if sample.cpu is not None and sample.moved > 0]
        moved = sum(sample.moved for sample in found)
        return sum(sample.cpu for sample in found) / (moved / GIB) if moved else None

    def ratio(self, place, other):
        return results.ratio(self.rate(place), self.rate(other))


def cpu_seconds(root):
    """Of a process, its threads and all its descendants, ended ones included."""
    total = 0
    for process in guests.process_tree(root):
        try:
            with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # utime, stime, and those of waited-for children
    return total / TICKS


class Shell(guests.Guest):
    """A guest that takes commands over its console."""

    def __init__(self, command):
        super().__init__(command, stdin=subprocess.PIPE)
        self._wait(lambda line: line == READY, BOOT_LIMIT)

    @staticmethod
    def cmdline(prepare=""):
        """What the kernel is to be told. prepare: commands to run first, each ending with ;"""
        return guests.QUIET + guests.commands(SERVE.format(prepare=prepare))

    def run(self, text, limit=COMMAND_LIMIT):
        """(lines, seconds of processor time of the guest's processes on this machine)."""
        before = cpu_seconds(self.process.pid)
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        lines = self._wait(STATUS.match, limit)
        used = cpu_seconds(self.process.pid) - before
        status = int(STATUS.match(lines.pop())[1])
        if status:
            raise self.error(f"'{text}' ended with {status}")
        return lines, used

    def _wait(self, is_last, seconds):
        lines = []
        for _, line in self.lines(time.monotonic() - self.started + seconds):
            lines.append(line)
            if is_last(line):
                return lines
        raise self.error("the guest ended")


def take_turns(rows, places, options):
    """Samples of every row from every place, options.rounds times. Rows are keyed by what
    sample() is told."""
    for turn in range(options.rounds):
        for (kind, job), row in rows.items():
            for place, runner in places.items():
                row.add(place, runner.sample(job, kind, options.seconds))
                if options.verbose:
                    print(f"  {turn + 1}: {row.name}, {place}: {row.samples[place][-1]}",
                          flush=True)


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def rate_text(row, place):
    rate = row.rate(place)
    if rate is None:
        return "-"
    if row.unit == "x":
        return f"{rate:.2f} x"
    if row.unit == "s":
        return f"{1 / rate:.2f} s"
    return f"{rate / 1e6:.0f} MB/s" if row.unit == "MB/s" else f"{rate:.0f} /s"


@dataclasses.dataclass
class Table:
    title: str
    engine: str  # the place that is judged
    rows: list
    of_host: float | None = None  # the part of this machine's own rate that such rows need
    of_host_rows: tuple = ()
    least: tuple = ()  # (row, its own rate at least); such rows are not compared with TCG's
    note: str = ""

    def show(self):
        """This machine, TCG, the engine: rates, their ratios, processor seconds per GiB moved."""
        engine = self.engine
        print(f"\n{self.title:<32}{'this host':>11}{'TCG':>11} |{engine:>11}{'/host':>7}{'TCG x':>7}"
              f" | CPU s/GiB: host{'TCG':>8}{engine:>11}")
        for row in self.rows:
            print(f"{row.name:<32}{rate_text(row, 'native'):>11}{rate_text(row, 'TCG'):>11} |"
                  f"{rate_text(row, engine):>11}{number(row.ratio(engine, 'native')):>7}"
                  f"{number(row.ratio(engine, 'TCG')):>7} |"
                  f"{number(row.cpu_per_gib('native')):>16}{number(row.cpu_per_gib('TCG')):>8}"
                  f"{number(row.cpu_per_gib(engine)):>11}")
        if self.note:
            print(self.note)

    def bars(self):
        own = [row for row, _ in self.least]
        required = [results.Bar(f"{row.name}, times TCG, at least 2",
                                row.ratio(self.engine, "TCG"), 2, False)
                    for row in self.rows if row not in own]
        required += [results.Bar(f"{row.name}, at least {limit}", row.rate(self.engine), limit, False)
                     for row, limit in self.least]
        return required + [results.Bar(f"{row.name}, of this host's, at least {self.of_host}",
                                       row.ratio(self.engine, "native"), self.of_host, False)
                           for row in self.rows if row in self.of_host_rows]

    def as_json(self):
        return {"title": self.title, "engine": self.engine, "note": self.note, "rows": [
            {"name": row.name, "unit": row.unit,
             "places": {place: {"rate": row.rate(place),
                                "cpu_seconds_per_gib": row.cpu_per_gib(place),
                                "samples": [dataclasses.asdict(sample) for sample in samples]}
                        for place, samples in row.samples.items()}} for row in self.rows]}
