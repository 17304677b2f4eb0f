#!/usr/bin/env python3
"""Convolutions, attentions and norms beside PyTorch's, in turn on the same threads.

    cargo build --release -p refrain-ops --example convolution_attention
    python benches/peers/convolution_attention.py target/release/examples/convolution_attention \
        --output benches/peers/results/convolution_attention.md

A round is the median of some repetitions of each, a figure the median of the rounds, a ratio PyTorch's time over refrain's
round by round (above 1: refrain is faster). PyTorch in bf16 starts from bf16 tensors; refrain starts from f32 and writes f32,
rounding on the way. PyTorch's convolution is the better of the plain layout and channels-last.
"""

import argparse
import datetime
import functools
import os
import statistics

# Threads of the peer that spin while refrain has its turn would slow it down.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("RAYON_NUM_THREADS", str(os.cpu_count())))

import torch  # noqa: E402
import torch.nn.functional as functional  # noqa: E402

from turns import Refrain, ceiling, fastest, in_turn, ratio, timed  # noqa: E402

# name, batch, channels in and out, size, kernel, stride, enlarged by two first
CONVOLUTIONS = [
    ("built-in decoder 96 at 16", 1, 96, 96, 16, 3, 1, 0),
    ("built-in decoder 64 at 32", 1, 64, 64, 32, 3, 1, 0),
    ("built-in decoder 32 at 64", 1, 32, 32, 64, 3, 1, 0),
    ("built-in decoder 16 at 128", 1, 16, 16, 128, 3, 1, 0),
    ("built-in decoder enlarge 64 at 32", 1, 64, 64, 32, 3, 1, 1),
    ("SD 1.5 320 at 64", 2, 320, 320, 64, 3, 1, 0),
    ("SD 1.5 640 at 32", 2, 640, 640, 32, 3, 1, 0),
    ("SD 1.5 1280 at 16", 2, 1280, 1280, 16, 3, 1, 0),
    ("SD 1.5 1280 at 8", 2, 1280, 1280, 8, 3, 1, 0),
    ("SD 1.5 2560 to 1280 at 8", 2, 2560, 1280, 8, 3, 1, 0),
    ("SD 1.5 shrink 320 at 64", 2, 320, 320, 64, 3, 2, 0),
    ("SD 1.5 enlarge 640 at 32", 2, 640, 640, 32, 3, 1, 1),
    ("SD 1.5 shortcut 960 to 320 at 64", 2, 960, 320, 64, 1, 1, 0),
]
# name, batch, heads, head width, queries, keys
ATTENTIONS = [
    ("built-in self", 2, 4, 64, 64, 64),
    ("built-in cross", 2, 4, 64, 64, 20),
    ("DiT-XL/2 self", 2, 16, 72, 256, 256),
    ("SD 1.5 self at 64", 2, 8, 40, 4096, 4096),
    ("SD 1.5 self at 32", 2, 8, 80, 1024, 1024),
    ("SD 1.5 self at 16", 2, 8, 160, 256, 256),
    ("SD 1.5 cross at 64", 2, 8, 40, 4096, 77),
]
# name, command, bytes read and written
OTHERS = [
    ("built-in decoder group norm + SiLU, 64 at 32", "group_norm 1 64 32 8", 2 * 4 * 64 * 32**2),
    ("SD 1.5 group norm + SiLU, 320 at 64", "group_norm 2 320 64 32", 2 * 4 * 2 * 320 * 64**2),
    ("DiT-XL/2 layer norm + modulate", "layer_norm 2 256 1152", 2 * 4 * 2 * 256 * 1152),
    ("DiT-XL/2 GELU", "gelu 512 4608", 2 * 4 * 512 * 4608),
]


def convolution(case, dtype):
    _, batch, inputs, outputs, size, kernel, stride, enlarged = case
    ways = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(outputs, inputs, kernel, kernel).to(dtype).to(memory_format=layout)
        bias = torch.randn(outputs).to(dtype)
        data = torch.randn(batch, inputs, size, size).to(dtype).to(memory_format=layout)

        def way(data=data, weight=weight, bias=bias):
            grown = functional.interpolate(data, scale_factor=2.0, mode="nearest") if enlarged else data
            return functional.conv2d(grown, weight, bias, stride, kernel // 2)

        ways.append(way)
    word = "bf16" if dtype == torch.bfloat16 else "f32"
    command = f"convolution {batch} {inputs} {outputs} {size} {kernel} {stride} {enlarged} {word}"
    pixels = (size // stride) ** 2 * (4 if enlarged else 1)
    return command, ways, 2 * batch * inputs * outputs * kernel**2 * pixels


def attention(case, dtype):
    _, batch, heads, width, queries, keys = case
    query = torch.randn(batch, queries, heads * width).to(dtype)
    key, value = torch.randn(2, batch, keys, heads * width).to(dtype)

    def way():
        parts = [tensor.view(batch, -1, heads, width).transpose(1, 2) for tensor in (query, key, value)]
        return functional.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(batch, queries, heads * width)

    word = "bf16" if dtype == torch.bfloat16 else "f32"
    command = f"attention {batch} {heads} {width} {queries} {keys} {word}"
    return command, [way], 4 * batch * heads * width * queries * keys


def other(command, dtype):
    name, *numbers = command.split()
    numbers = [int(number) for number in numbers]
    if name == "group_norm":
        batch, channels, size, groups = numbers
        data, weight = torch.randn(batch, channels, size, size).to(dtype), torch.randn(channels).to(dtype)
        return [lambda: functional.silu(functional.group_norm(data, groups, weight, weight))]
    if name == "layer_norm":
        batch, rows, columns = numbers
        data, shift = torch.randn(batch, rows, columns).to(dtype), torch.randn(batch, 1, columns).to(dtype)
        return [lambda: functional.layer_norm(data, (columns,)) * (1 + shift) + shift]
    data = torch.randn(*numbers).to(dtype)
    return [lambda: functional.gelu(data, approximate="tanh")]


def compare(refrain, command, ways, guess, rounds):
    """Seconds of refrain and of PyTorch's fastest way (`None` without any), round by round in turn."""
    refrain.ask(command)
    runs = [refrain.run, *(functools.partial(timed, way) for way in ways)]
    ours, *theirs = in_turn(runs, max(1, min(50, int(0.05 / guess))), rounds)
    return ours, fastest(theirs) if theirs else None


def rate(work, seconds):
    """Thousand millions a second in the median."""
    return work / statistics.median(seconds) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example `convolution_attention`, built in release mode")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-peer-bf16", action="store_true",
                        help="leave PyTorch's bf16 out: without bf16 units its convolutions take minutes each")
    parser.add_argument("--machine", default="", help="words for the table's head, such as `2-core AMD Zen 4, AVX512-BF16`")
    parser.add_argument("--output", help="file for the table; standard output if not given")
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    refrain = Refrain(arguments.program)
    head = "| refrain bf16 | PyTorch bf16 | ratio | refrain f32 | PyTorch f32 | ratio |\n|---|---|---|---|---|---|---|"
    lines = [
        "# Convolution, attention and norms beside PyTorch",
        "",
        f"{datetime.date.today()}, {arguments.machine or 'machine not named'}, {torch.get_num_threads()} threads, "
        f"PyTorch {torch.__version__}; medians of {arguments.rounds} rounds in turn (`benches/peers/convolution_attention.py`). "
        "A ratio above 1 says that refrain is faster; in brackets, where the middle half of the rounds lies.",
        f"Multipliers at most: f32 {ceiling(refrain, 'f32')}, bf16 {ceiling(refrain, 'bf16')} GFLOP/s.",
    ]
    for title, cases, build in (("convolution", CONVOLUTIONS, convolution), ("attention", ATTENTIONS, attention)):
        lines += ["", f"| {title}, GFLOP/s {head}"]
        for case in cases:
            cells = []
            for dtype in (torch.bfloat16, torch.float32):
                command, ways, flops = build(case, dtype)
                if dtype == torch.bfloat16 and arguments.no_peer_bf16:
                    ways = []
                ours, theirs = compare(refrain, command, ways, flops / 2e11, arguments.rounds)
                peer = [f"{rate(flops, theirs):.3g}", ratio(ours, theirs)] if theirs else ["–", "–"]
                cells += [f"{rate(flops, ours):.0f}", *peer]
            lines.append(f"| {case[0]} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    lines += ["", "| norms and activations, GB/s | refrain f32 | PyTorch f32 | ratio | PyTorch bf16, µs | refrain, µs |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, command, size in OTHERS:
        guess = size / 1e10
        ours, theirs = compare(refrain, command, other(command, torch.float32), guess, arguments.rounds)
        _, half = compare(refrain, command, other(command, torch.bfloat16), guess, arguments.rounds)
        cells = [f"{rate(size, ours):.1f}", f"{rate(size, theirs):.1f}", ratio(ours, theirs)]
        cells += [f"{statistics.median(seconds) * 1e6:.0f}" for seconds in (half, ours)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    table = "\n".join(lines) + "\n"
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(table)
    else:
        print(table)


if __name__ == "__main__":
    main()
