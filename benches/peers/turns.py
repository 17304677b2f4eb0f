"""What the peer scripts share: a Rust example that answers commands, a clock for PyTorch's turn, and how both are compared."""

import statistics
import subprocess
import time
from dataclasses import dataclass


class Refrain:
    """The Rust example, one command at a time."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"refrain gave no answer to `{command}`")
        return answer

    def run(self, repetitions):
        return [float(word) for word in self.ask(f"run {repetitions}").split()]


def timed(function, repetitions):
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


@dataclass
class Comparison:
    """Medians over rounds. Of several ways the peer has, the fastest; without any, `theirs` and the ratios are NaN."""

    ours: float
    theirs: float
    ratios: list

    def ratio(self):
        """The peer's seconds over refrain's: the median, and between which values the middle half of the rounds lies."""
        if not self.ratios:
            return "–"
        lower, middle, upper = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return f"{middle:.2f} ({lower:.2f}–{upper:.2f})"


def in_turn(refrain, ways, repetitions, rounds):
    """Runs refrain and each of the peer's ways `rounds` times in turn; a round counts as the median of its repetitions."""
    ours, theirs = [], [[] for _ in ways]
    for _ in range(rounds):
        # The peer's threads spin for a while after their work: not in refrain's turn.
        time.sleep(0.02)
        ours.append(statistics.median(refrain.run(repetitions)))
        for seconds, way in zip(theirs, ways):
            seconds.append(statistics.median(timed(way, repetitions)))
    fastest = min(theirs, key=statistics.median, default=[])
    return Comparison(
        statistics.median(ours),
        statistics.median(fastest) if fastest else float("nan"),
        [peer / own for own, peer in zip(ours, fastest)],
    )


def ceiling(refrain, word):
    """What the processor's units can do at most; `none` where it has none for the type."""
    answer = refrain.ask(f"ceiling {word}")
    return answer if answer == "none" else f"{float(answer):.0f}"
