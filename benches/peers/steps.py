#!/usr/bin/env python3
"""Whole evaluations beside PyTorch's, in turn on the same threads, with the same weights.

    cargo build --release --workspace --bins --example step
    python benches/peers/steps.py --scratch FOLDER --output benches/peers/results/steps.md

DiT-XL/2 at 256x256 and the U-Net of Stable Diffusion 1.5 at 512x512, one guided evaluation (batch 2); and the built-in model,
20 steps, guidance 4: refrain's whole program with start-up, decoding and writing, beside diffusers' pipeline call alone. Steps
of refrain are those of the example `step`. A figure is the median of its turns; a ratio is refrain's time over PyTorch's (below 1: refrain is faster). The folders of random
weights (3 GB) are made in --scratch if they are not there.
"""

import argparse
import datetime
import multiprocessing
import os
import statistics
import subprocess
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("RAYON_NUM_THREADS", str(os.cpu_count())))

import torch  # noqa: E402
from diffusers import DiTTransformer2DModel, PixArtAlphaPipeline, UNet2DConditionModel  # noqa: E402

import pipelines  # noqa: E402
from turns import timed  # noqa: E402

TYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
PROMPT = "a red fox"


def peer(kind, folder, dtype):
    """PyTorch's evaluation of a batch of two."""
    if kind == "dit":
        model = DiTTransformer2DModel.from_pretrained(f"{folder}/transformer", torch_dtype=dtype).eval()
        latents = torch.full((2, 4, 32, 32), 0.5, dtype=dtype)
        timesteps, labels = torch.tensor([500, 500]), torch.tensor([1000, 207])
        return lambda: model(latents, timestep=timesteps, class_labels=labels)
    model = UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=dtype).eval()
    latents, states = torch.full((2, 4, 64, 64), 0.5, dtype=dtype), torch.randn(2, 77, 768).to(dtype)
    return lambda: model(latents, 500, encoder_hidden_states=states)


def finishes(arguments, kind, folder, word):
    """Whether PyTorch's evaluation ends within the limit: without units for a type it may take hours."""
    if not arguments.limit:
        return True
    process = multiprocessing.Process(target=lambda: peer(kind, folder, TYPES[word])())
    process.start()
    process.join(arguments.limit)
    done = not process.is_alive()
    process.kill()
    process.join()
    return done


def compare(arguments, kind, folder, word):
    """Medians of refrain's and PyTorch's turns (`None` beyond the limit), page faults and peak memory of a step of refrain."""
    way = None
    if finishes(arguments, kind, folder, word):
        way = peer(kind, folder, TYPES[word])
        timed(way, 1)
    process = subprocess.Popen([arguments.step, folder, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(command):
        process.stdin.write(command + "\n")
        process.stdin.flush()
        return process.stdout.readline().split()

    # The first step also fills the caches of the allocator.
    ask("run 1")
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        ours += [float(seconds) for seconds in ask("run 2")]
        theirs += timed(way, 2) if way else []
        time.sleep(0.05)
    faults, memory = int(ask("faults")[0]), int(ask("peak")[0])
    process.stdin.close()
    process.wait()
    return statistics.median(ours), statistics.median(theirs) if theirs else None, faults, memory


def builtin(arguments, word):
    """Medians of the whole program and of the pipeline call."""
    pipeline = PixArtAlphaPipeline.from_pretrained("weights/emoji", torch_dtype=TYPES[word])
    pipeline.set_progress_bar_config(disable=True)
    picture = os.path.join(arguments.scratch, "picture.png")
    command = [arguments.program, "-q", "gen", "image", "-p", PROMPT, "--seed", "1", "--steps", "20", "--cfg-scale", "4", "--dtype", word,
               "--cache", "off", "-o", picture]

    def theirs_once():
        pipeline(PROMPT, num_inference_steps=20, guidance_scale=4.0, clean_caption=False, use_resolution_binning=False).images[0]

    subprocess.run(command, check=True), theirs_once()
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        ours += timed(lambda: subprocess.run(command, check=True), 1)
        theirs += timed(theirs_once, 1)
        time.sleep(0.05)
    return statistics.median(ours), statistics.median(theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", default="target/release/examples/step")
    parser.add_argument("--program", default="target/release/refrain")
    parser.add_argument("--scratch", required=True, help="folder for the random weights")
    parser.add_argument("--only", choices=["dit", "sd", "builtin"], action="append", help="some of the models")
    parser.add_argument("--types", default="bf16,f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="seconds after which PyTorch's first evaluation is given up, with its loading")
    parser.add_argument("--machine", default="machine not named", help="words for the table's head")
    parser.add_argument("--output", help="file for the table, which is appended to; standard output alone if not given")
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    wanted = arguments.only or ["dit", "sd", "builtin"]
    lines = [f"{datetime.date.today()}, {arguments.machine}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}; "
             f"medians of {arguments.rounds} turns each.", "",
             "| evaluation | type | refrain, s | PyTorch, s | ratio | page faults of a step | peak memory of a step, MB |", "|---|---|---|---|---|---|---|"]
    models = {"dit": ("DiT-XL/2 256², guided step", pipelines.dit_xl_2),
              "sd": ("SD 1.5 512², guided step", lambda: pipelines.sd_1_5(f"{arguments.scratch}/tok"))}
    for word in arguments.types.split(","):
        for kind in wanted:
            if kind == "builtin":
                ours, theirs = builtin(arguments, word)
                lines.append(f"| built-in, 20 steps, whole program | {word} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} | | |")
            else:
                name, build = models[kind]
                folder = pipelines.write(f"{arguments.scratch}/{kind}", build)
                ours, theirs, faults, memory = compare(arguments, kind, folder, word)
                if theirs is None:
                    times = f"{ours:.3f} | over {arguments.limit} | below {ours / arguments.limit:.3f}"
                else:
                    times = f"{ours:.3f} | {theirs:.3f} | {ours / theirs:.2f}"
                lines.append(f"| {name} | {word} | {times} | {faults} | {memory / 1e6:.0f} |")
            print(lines[-1], flush=True)
    if arguments.output:
        with open(arguments.output, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
