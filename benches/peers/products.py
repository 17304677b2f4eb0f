#!/usr/bin/env python3
"""Matrix products beside PyTorch's (oneDNN), in turn on the same threads.

    cargo build --release -p refrain-ops --example products
    python benches/peers/products.py target/release/examples/products --output benches/peers/results/products.md

A round is the median of some repetitions of each, a figure the median of the rounds, a ratio refrain's rate over PyTorch's
round by round. PyTorch in bf16 is the better of `linear` and oneDNN's own packed-weight product; it starts from bf16
activations, refrain from f32 (it rounds them on the way and writes f32). --onednn names the program made of `onednn.c`: oneDNN
alone, through its C interface.
"""

import argparse
import datetime
import functools
import os
import statistics

os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("RAYON_NUM_THREADS", str(os.cpu_count())))

import torch  # noqa: E402

from turns import Refrain, ceiling, fastest, in_turn, ratio, timed  # noqa: E402

LAYERS = [
    ("DiT-XL/2 qkv", 512, 1152, 3456),
    ("DiT-XL/2 projection", 512, 1152, 1152),
    ("DiT-XL/2 feed-forward in", 512, 1152, 4608),
    ("DiT-XL/2 feed-forward out", 512, 4608, 1152),
    ("DiT-XL/2 modulation", 2, 1152, 6912),
    ("SD 1.5 64x64 qkv", 8192, 320, 960),
    ("SD 1.5 64x64 query", 8192, 320, 320),
    ("SD 1.5 64x64 feed-forward in", 8192, 320, 2560),
    ("SD 1.5 64x64 feed-forward out", 8192, 1280, 320),
    ("SD 1.5 32x32 query", 2048, 640, 640),
    ("SD 1.5 32x32 feed-forward in", 2048, 640, 5120),
    ("SD 1.5 32x32 feed-forward out", 2048, 2560, 640),
    ("SD 1.5 16x16 query", 512, 1280, 1280),
    ("SD 1.5 16x16 feed-forward in", 512, 1280, 10240),
    ("SD 1.5 16x16 feed-forward out", 512, 5120, 1280),
    ("SD 1.5 8x8 query", 128, 1280, 1280),
    ("SD 1.5 text keys", 154, 768, 1280),
    ("built-in qkv", 128, 256, 768),
    ("built-in projection", 128, 256, 256),
    ("built-in feed-forward in", 128, 256, 1024),
    ("built-in feed-forward out", 128, 1024, 256),
]


def torch_products(rows, inputs, outputs, dtype):
    """PyTorch's ways to the same product."""
    data, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    bias = torch.zeros(outputs, dtype=dtype)
    ways = [lambda: torch.nn.functional.linear(data, weight, bias)]
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        way = lambda: torch.ops.mkldnn._linear_pointwise(data, packed, bias, "none", [], "")  # noqa: E731
        way()
        ways.append(way)
    except (AttributeError, RuntimeError):
        pass
    return ways


def compare(refrain, onednn, layer, dtype, rounds, peer=True):
    """Seconds of refrain, of PyTorch's fastest way (`None` if not wanted) and of oneDNN (`None` where it cannot), round by
    round in turn."""
    _, rows, inputs, outputs = layer
    repetitions = max(2, min(100, int(1e10 / flops(layer))))
    command = f"layer {rows} {inputs} {outputs} {'bf16' if dtype == torch.bfloat16 else 'f32'}"
    refrain.ask(command)
    alone = onednn is not None and onednn.ask(command) == "ready"
    ways = [functools.partial(timed, way) for way in torch_products(rows, inputs, outputs, dtype)] if peer else []
    ours, *others = in_turn([refrain.run, *ways, *([onednn.run] if alone else [])], repetitions, rounds)
    return ours, fastest(others[:len(ways)]) if peer else None, others[-1] if alone else None


def flops(layer):
    _, rows, inputs, outputs = layer
    return 2 * rows * inputs * outputs


def rate(layer, seconds):
    """GFLOP/s in the median."""
    return flops(layer) / statistics.median(seconds) / 1e9


def int8(refrain, layer, rounds):
    """Rate of refrain's 8-bit product, which has no peer here."""
    _, rows, inputs, outputs = layer
    refrain.ask(f"layer {rows} {inputs} {outputs} int8")
    return rate(layer, refrain.run(rounds * max(2, min(100, int(1e10 / flops(layer))))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example `products`, built in release mode")
    parser.add_argument("--onednn", help="the program made of onednn.c")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-peer-bf16", action="store_true", help="leave PyTorch's bf16 out: it is slow without bf16 units")
    parser.add_argument("--machine", default="", help="words for the table's head, such as `2-core AMD Zen 4, AVX512-BF16`")
    parser.add_argument("--output", help="file for the table; standard output if not given")
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    refrain = Refrain(arguments.program)
    onednn = Refrain(arguments.onednn) if arguments.onednn else None
    lines = [
        "# Matrix products beside PyTorch",
        "",
        f"{datetime.date.today()}, {arguments.machine or 'machine not named'}, {torch.get_num_threads()} threads, "
        f"PyTorch {torch.__version__}. GFLOP/s, medians of {arguments.rounds} rounds in turn (`benches/peers/products.py`); "
        "in brackets, where the middle half of the rounds lies.",
        f"Multipliers at most: f32 {ceiling(refrain, 'f32')}, bf16 {ceiling(refrain, 'bf16')}.",
        "",
        "| layer | rows x inputs x outputs | refrain bf16 | PyTorch bf16 | ratio | oneDNN bf16 "
        "| refrain f32 | PyTorch f32 | ratio | oneDNN f32 | refrain int8 |",
        "|" + "---|" * 11,
    ]
    for layer in LAYERS:
        cells = []
        for dtype in (torch.bfloat16, torch.float32):
            peer = dtype == torch.float32 or not arguments.no_peer_bf16
            ours, theirs, alone = compare(refrain, onednn, layer, dtype, arguments.rounds, peer)
            rates = [f"{rate(layer, seconds):.0f}" if seconds else "–" for seconds in (ours, theirs, alone)]
            cells += [rates[0], rates[1], ratio(ours, theirs) if theirs else "–", rates[2]]
        cells.append(f"{int8(refrain, layer, arguments.rounds):.0f}")
        name, rows, inputs, outputs = layer
        lines.append(f"| {name} | {rows}x{inputs}x{outputs} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    table = "\n".join(lines) + "\n"
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(table)
    else:
        print(table)


if __name__ == "__main__":
    main()
