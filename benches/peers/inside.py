#!/usr/bin/env python3
"""What a guided step of DiT-XL/2 at 256x256 (or of the U-Net of Stable Diffusion 1.5) needs: memory, page faults, and the share
of each kind of operation in its time.

    cargo build --release --workspace --bins --example step
    python benches/peers/inside.py --scratch FOLDER --output benches/peers/results/inside.md

The peak is the largest resident size while one evaluation runs, without the mapped checkpoint's pages (Linux: VmHWM less
RssFile). The folders of random weights are those of `steps.py`; PyTorch makes them and is not measured.
"""

import argparse
import datetime
import glob
import json
import os
import subprocess

import pipelines


def ask(process, command):
    process.stdin.write(command + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def measure(program, folder, word, count):
    """Peak bytes, page faults and the profile of one model."""
    process = subprocess.Popen([program, folder, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ask(process, "run 1")
    # Before the profile, which may leave larger buffers behind.
    peak, faults = int(ask(process, "peak")), int(ask(process, "faults"))
    profile = json.loads(ask(process, f"profile {count}"))
    process.stdin.close()
    process.wait()
    return peak, faults, profile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", default="target/release/examples/step")
    parser.add_argument("--scratch", required=True, help="folder for the random weights")
    parser.add_argument("--only", choices=["dit", "sd"], action="append", help="some of the models")
    parser.add_argument("--types", default="bf16,f32")
    parser.add_argument("--count", type=int, default=3, help="evaluations of a profile")
    parser.add_argument("--machine", default="machine not named", help="words for the table's head")
    parser.add_argument("--output", help="file for the table, which is appended to; standard output alone if not given")
    arguments = parser.parse_args()

    models = {"dit": ("DiT-XL/2 256²", "transformer", pipelines.dit_xl_2),
              "sd": ("SD 1.5 512²", "unet", lambda: pipelines.sd_1_5(f"{arguments.scratch}/tok"))}
    kinds = ["matrix products", "convolutions", "attention", "norms", "pointwise", "other"]
    lines = [f"{datetime.date.today()}, {arguments.machine}, {os.cpu_count()} cores.", "",
             "| guided step | type | seconds | peak, MB | weights, MB | page faults | " + " | ".join(f"{kind}, %" for kind in kinds) + " |",
             "|---" * (6 + len(kinds)) + "|"]
    for kind in arguments.only or list(models):
        name, part, build = models[kind]
        folder = pipelines.write(f"{arguments.scratch}/{kind}", build)
        stored = sum(os.path.getsize(path) for path in glob.glob(f"{folder}/{part}/*.safetensors"))
        for word in arguments.types.split(","):
            peak, faults, profile = measure(arguments.step, folder, word, arguments.count)
            # Weights are stored in two bytes each.
            weights = {"f32": 2 * stored, "bf16": stored, "int8": stored / 2}[word]
            shares = {entry["kind"]: entry["share"] for entry in profile["shares"]}
            cells = [name, word, f"{profile['seconds']:.3f}", f"{peak / 1e6:.0f}", f"{weights / 1e6:.0f}", str(faults)]
            lines.append("| " + " | ".join(cells + [f"{100 * shares[key]:.1f}" for key in kinds]) + " |")
            print(lines[-1], flush=True)
    if arguments.output:
        with open(arguments.output, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
