#!/usr/bin/env python3
"""DiT-XL/2 at full size, from training a router to pictures with it, in f32 and bf16: seconds, memory and what the router spared.

    cargo build --release --workspace --bins
    python benches/peers/full_size.py --scratch FOLDER --output benches/peers/results/full_size.md

The weights are random (`pipelines.py`), so the router's choice means nothing; its path is that of any model. HarmoniCa's method
(`--method harmonica`) with a few optimiser steps, by operations; a plan that is there already is not trained again. The memory of a run is read while it goes: its own pages, those
of mapped files, and whether the checkpoint is among the mapped files (Linux: /proc)."""

import argparse
import datetime
import glob
import math
import os
import resource
import subprocess
import time

import numpy as np
from PIL import Image

import pipelines


def watched(command, checkpoint):
    """Seconds by the clock and of the processors, the most memory of its own and of mapped pages in bytes, and whether `checkpoint` was mapped."""
    began, own, pages, mapped = time.perf_counter(), 0, 0, False
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
                sizes = {line.split()[0]: int(line.split()[1]) for line in file if line.startswith(("RssAnon", "RssFile"))}
            with open(f"/proc/{process.pid}/maps", encoding="utf-8") as file:
                mapped = mapped or checkpoint in file.read()
        except (OSError, IndexError):
            continue
        own, pages = max(own, 1024 * sizes.get("RssAnon:", 0)), max(pages, 1024 * sizes.get("RssFile:", 0))
        time.sleep(0.1)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, busy, own, pages, mapped


def psnr(first, second):
    first, second = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (first, second))
    error = np.square(first - second).mean()
    return math.inf if error == 0 else 10 * math.log10(255 ** 2 / error)


def described(decibels):
    return "equal" if math.isinf(decibels) else f"{decibels:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", default="target/release/refrain")
    parser.add_argument("--scratch", required=True, help="folder for the random weights and the pictures")
    parser.add_argument("--types", default="f32,bf16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=8, help="optimiser steps of the router")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--machine", default="machine not named", help="words for the table's head")
    parser.add_argument("--output", help="file for the table, which is appended to; standard output alone if not given")
    arguments = parser.parse_args()

    folder = pipelines.write(f"{arguments.scratch}/dit", pipelines.dit_xl_2)
    checkpoint = os.path.realpath(glob.glob(f"{folder}/transformer/*.safetensors")[0])
    plan = f"{arguments.scratch}/dit-xl-2.plan.safetensors"
    common = ["-m", folder, "--steps", str(arguments.steps), "--cfg-scale", "4", "--threads", str(arguments.threads)]
    lines = [f"{datetime.date.today()}, {arguments.machine}, {arguments.threads} threads. {arguments.steps} DDIM steps, guidance 4, "
             f"{arguments.iterations} optimiser steps, budget {arguments.budget}.", "",
             "| run | type | seconds | processor seconds | own memory, MB | mapped pages, MB | checkpoint mapped | PSNR to uncached, dB |", "|---|---|---|---|---|---|---|---|"]

    def note(run, word, measured, harm=""):
        seconds, busy, own, pages, mapped = measured
        lines.append(f"| {run} | {word} | {seconds:.1f} | {busy:.1f} | {own / 1e6:.0f} | {pages / 1e6:.0f} | {'yes' if mapped else 'no'} | {harm} |")
        print(lines[-1], flush=True)

    train = [arguments.refrain, "train", "router", *common, "--method", "harmonica", "--forecast", "0", "--cost", "flops", "--recompute",
             "--iterations", str(arguments.iterations), "--budget", str(arguments.budget), "-o", plan]
    if not os.path.exists(plan):
        note("`train router --method harmonica`", "f32", watched(train, checkpoint))
    for word in arguments.types.split(","):
        pictures = {}
        for name, cache in (("off", "off"), ("router", plan), ("router again", plan)):
            pictures[name] = f"{arguments.scratch}/dit-{word}-{name.replace(' ', '-')}.png"
            make = [arguments.refrain, "gen", "image", *common, "--class", "207", "--seed", "1", "--dtype", word, "--cache", cache, "-o", pictures[name]]
            measured = watched(make, checkpoint)
            note(f"`gen image --cache {'off' if cache == 'off' else 'PLAN'}`", word, measured, "" if name == "off" else described(psnr(pictures["off"], pictures[name])))
        if not math.isinf(psnr(pictures["router"], pictures["router again"])):
            raise SystemExit("the same seed and plan gave two pictures")
    if arguments.output:
        with open(arguments.output, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
