"""What the suite printed, and what it means: ratios, means, and the bars that are required."""
import dataclasses
import math
import re

COMPUTE = ("integer", "float", "memory")
LINE = re.compile(r"^([a-z0-9-]+) (?:([0-9.]+) ns/op ([0-9a-f]{16})|(skipped|wrong) (.*))$")
MARK = re.compile(r"suite: (begin|end) ([0-9.]+)$")


@dataclasses.dataclass
class Result:
    nanoseconds: float | None = None  # per operation
    computed: str | None = None
    note: str | None = None  # why there is no time


@dataclasses.dataclass
class Run:
    """One run of the suite's programs somewhere."""
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    own_seconds: float = 0  # by the clock of where it ran
    host_seconds: float = 0  # by ours
    complete: bool = False

    def time(self, name):
        result = self.results.get(name)
        return result and result.nanoseconds


class Reader:
    """Makes a Run of the lines between the suite's marks."""

    def __init__(self):
        self.runs = []
        self._open = None

    def line(self, when, text):
        """Takes a line that came at a time of ours; whether it belonged to the suite."""
        mark = MARK.search(text)
        if mark and mark[1] == "begin":
            self.runs.append(Run())
            self._open = (when, float(mark[2]))
        elif mark and self._open:
            run = self.runs[-1]
            run.host_seconds = when - self._open[0]
            run.own_seconds = float(mark[2]) - self._open[1]
            run.complete = True
            self._open = None
        elif self._open:
            found = LINE.match(text)
            if not found:
                return False
            name, value, computed, state, reason = found.groups()
            self.runs[-1].results[name] = Result(
                float(value) if value else None, computed, state and f"{state}: {reason}")
        else:
            return False
        return True


def best(runs):
    """One run of several: the fastest time of each program."""
    joined = Run(complete=all(run.complete for run in runs))
    for run in runs:
        joined.own_seconds += run.own_seconds
        joined.host_seconds += run.host_seconds
        for name, result in run.results.items():
            known = joined.results.get(name)
            if known is None or (result.nanoseconds or math.inf) < (known.nanoseconds or math.inf):
                joined.results[name] = result
    return joined


def ratio(numerator, denominator):
    return numerator / denominator if numerator and denominator else None


def geometric_mean(ratios):
    known = [value for value in ratios if value]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def differences(reference, run):
    """Programs that did not compute what they did elsewhere, as lines."""
    found = []
    for name, result in run.results.items():
        expected = reference.results.get(name)
        if result.note and result.note.startswith("wrong"):
            found.append(f"{name}: not the same every time: {result.note}")
        elif (expected and expected.computed and result.computed
              and expected.computed != result.computed):
            found.append(f"{name}: computed {result.computed}, natively {expected.computed}")
    return found


@dataclasses.dataclass
class Bar:
    text: str
    measured: float | None
    limit: float
    at_most: bool  # otherwise at least
    detail: str = ""

    @property
    def state(self):
        if self.measured is None:
            return "not measured"
        good = self.measured <= self.limit if self.at_most else self.measured >= self.limit
        return "pass" if good else "FAIL"

    def __str__(self):
        value = "-" if self.measured is None else f"{self.measured:.2f}"
        return f"{self.state:<13}{self.text:<52}{value:>8}  {self.detail}".rstrip()


def compute_ratios(groups, native, run):
    return {name: ratio(run.time(name), native.time(name))
            for name, group in groups.items() if group in COMPUTE}


def missing_compute(groups, native, run):
    """Compute programs that should have a time and do not; skipped ones should not."""
    return [name for name, group in groups.items()
            if group in COMPUTE and native.time(name) and not run.time(name)
            and "skipped" not in (getattr(run.results.get(name), "note", None) or "")]


def bars(groups, native, tcg, run, boots):
    """What an engine must reach. `boots`: (doppel's, TCG's) seconds, or None for either."""
    ratios = {name: value for name, value in compute_ratios(groups, native, run).items() if value}
    missing = missing_compute(groups, native, run)
    worst = max(ratios, key=ratios.get, default=None)
    slow = [f"{name} {value:.2f}" for name, value in ratios.items() if value > 2.0]
    required = [
        Bar("every compute program, times native, at most 2.0",
            None if missing else ratios.get(worst), 2.0, True,
            "no time: " + ", ".join(missing) if missing else ", ".join(slow) or (worst or "")),
        Bar("compute, geometric mean, times native, at most 1.3",
            None if missing else geometric_mean(ratios.values()), 1.3, True),
        Bar("null-call, times native, at most 4",
            ratio(run.time("null-call"), native.time("null-call")), 4, True),
    ]
    for name in ("page-fault", "fork-exec", "signal", "mmap"):
        required.append(Bar(f"{name}, times faster than TCG, at least 2",
                            ratio(tcg.time(name), run.time(name)), 2, False))
    required.append(Bar("boot to init, times faster than TCG, at least 2",
                        ratio(boots[1], boots[0]), 2, False))
    cold = run.time("cold-code")
    required.append(Bar("cold code, million instructions a second, at least 1",
                        1e3 / cold if cold else None, 1, False))
    return required
