"""What the peer scripts share: a Rust example that answers commands, a clock for PyTorch's turn, and how both are
compared."""

import statistics
import subprocess
import time


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


def in_turn(runs, repetitions, rounds):
    """Seconds of each of `runs`, which take a number of repetitions and give their seconds, round by round in turn. A round
    counts as the median of its repetitions."""
    series = [[] for _ in runs]
    for _ in range(rounds):
        for run, seconds in zip(runs, series):
            # Threads of whoever came before spin for a while after their work: not in the next one's turn.
            time.sleep(0.02)
            seconds.append(statistics.median(run(repetitions)))
    return series


def fastest(series):
    """Of several ways, the one that takes the shortest in the median."""
    return min(series, key=statistics.median)


def ratio(ours, theirs):
    """Their seconds over ours, round by round: the median, and between which values the middle half of the rounds lies."""
    lower, middle, upper = statistics.quantiles([b / a for a, b in zip(ours, theirs)], n=4, method="inclusive")
    return f"{middle:.2f} ({lower:.2f}–{upper:.2f})"


def ceiling(refrain, word):
    """What the processor's units can do at most; `none` where it has none for the type."""
    answer = refrain.ask(f"ceiling {word}")
    return answer if answer == "none" else f"{float(answer):.0f}"
