"""What the peer scripts share: a Rust example that answers commands, and a clock for PyTorch's turn."""

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


def ceiling(refrain, word):
    """What the processor's units can do at most; `none` where it has none for the type."""
    answer = refrain.ask(f"ceiling {word}")
    return answer if answer == "none" else f"{float(answer):.0f}"
