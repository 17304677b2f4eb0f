#!/usr/bin/env python3
"""Caches of diffusers and of cache-dit on the built-in model's weights: speed and harm, as `refrain bench cache` measures them.

    pip install torch diffusers transformers cache-dit pillow
    refrain bench cache --grid --prompt-file samples/prompts/held-out-64.txt -o bench/
    python benches/peers/caches.py --table bench/table.json --output benches/peers/results/caches

Every contender makes the same pictures (prompt i of the list, PyTorch's noise of seed 0) in turn, in an order that rotates;
its harm is the PSNR to PyTorch's own uncached picture, its speed the time of the denoising loop against the uncached one.
Writes rows in the form of `table.json`; with --table the rows of refrain stand on the same plot. A cache that cannot run on
this model is listed with its own words. `--dry-run` makes one picture each.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
from diffusers import PixArtAlphaPipeline

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
CONTEXT = "guided"


class Contender:
    """A cache on a model of its own, since hooks cannot be taken off again reliably."""

    def __init__(self, name, steps, attach=None):
        self.name, self.steps, self.attach = name, steps, attach
        self.seconds, self.psnr, self.failure, self.reset = [], [], None, lambda: None
        self.pipe = PixArtAlphaPipeline.from_pretrained(f"{ROOT}/weights/emoji").to(torch.float32)
        self.pipe.transformer.eval()

    def start(self):
        if self.attach:
            self.reset = self.attach(self.pipe, self.steps) or (lambda: None)


def diffusers_cache(apply_name, config):
    """A hook of diffusers, on the transformer itself: PixArt's class has no `enable_cache`."""
    def attach(pipe, steps):
        from diffusers import hooks
        from diffusers.hooks import HookRegistry
        from diffusers.hooks.hooks import CacheContext, _set_cache_context
        getattr(hooks, apply_name)(pipe.transformer, config(hooks, pipe, steps))

        def reset():
            registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer)
            registry.reset_stateful_hooks(recurse=True)
            # What the method `cache_context` of other transformers does for a call.
            _set_cache_context(pipe.transformer, CacheContext(CONTEXT))
        return reset
    return attach


def cache_dit_cache(calibrated, **settings):
    def attach(pipe, steps):
        import cache_dit
        config = cache_dit.DBCacheConfig(num_inference_steps=steps, enable_separate_cfg=False, **settings)
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if calibrated else None
        adapter = cache_dit.BlockAdapter(transformer=pipe.transformer, blocks=pipe.transformer.transformer_blocks,
                                         forward_pattern=cache_dit.ForwardPattern.Pattern_3, check_forward_pattern=False)
        cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=calibrator)
        return lambda: cache_dit.refresh_context(pipe.transformer, num_inference_steps=steps)
    return attach


def contenders(steps):
    found = [Contender("off", steps)]
    found += [Contender(f"PyTorch steps:{count}", count) for count in (steps // 2, steps * 7 // 20)]
    for threshold in (0.1, 0.2, 0.4):
        config = lambda hooks, pipe, steps, threshold=threshold: hooks.FirstBlockCacheConfig(threshold=threshold)
        found.append(Contender(f"diffusers FirstBlockCache:threshold={threshold}", steps,
                               diffusers_cache("apply_first_block_cache", config)))
    for interval in (2, 3):
        config = lambda hooks, pipe, steps, interval=interval: hooks.TaylorSeerCacheConfig(
            cache_interval=interval, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=torch.float32,
            cache_identifiers=[r"transformer_blocks\.\d+\.(attn1|attn2|ff)"])
        found.append(Contender(f"diffusers TaylorSeer:interval={interval}", steps,
                               diffusers_cache("apply_taylorseer_cache", config)))
    config = lambda hooks, pipe, steps: hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 800),
        spatial_attention_block_identifiers=("transformer_blocks",), current_timestep_callback=lambda: pipe.timestep_now)
    found.append(Contender("diffusers PyramidAttentionBroadcast:skip=2", steps,
                           diffusers_cache("apply_pyramid_attention_broadcast", config)))
    for calibrated in (False, True):
        for threshold in (0.08, 0.16, 0.3):
            settings = dict(Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=threshold, max_warmup_steps=2)
            name = f"cache-dit DBCache{'+TaylorSeer' if calibrated else ''}:F1B0+threshold={threshold}"
            found.append(Contender(name, steps, cache_dit_cache(calibrated, **settings)))
    return found


@torch.no_grad()
def picture(contender, prompt, guidance):
    """The picture in 0..1, and the seconds of the denoising loop."""
    pipe, scheduler = contender.pipe, contender.pipe.scheduler
    with torch.no_grad():
        text = pipe.encode_prompt(prompt, True, negative_prompt="", clean_caption=False, max_sequence_length=120)
    states, mask = torch.cat([text[2], text[0]]), torch.cat([text[3], text[1]])
    channels, side = pipe.transformer.config.in_channels, pipe.transformer.config.sample_size
    latents = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(contender.steps)
    latents = latents * scheduler.init_noise_sigma
    contender.reset()
    conditions = {"resolution": None, "aspect_ratio": None}
    began = time.perf_counter()
    for timestep in scheduler.timesteps:
        pipe.timestep_now = int(timestep)
        rows = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        output = pipe.transformer(rows, encoder_hidden_states=states, encoder_attention_mask=mask,
                                  timestep=timestep.expand(2), added_cond_kwargs=conditions, return_dict=False)[0]
        output = output[:, :channels]
        negative, positive = output.chunk(2)
        latents = scheduler.step(negative + guidance * (positive - negative), timestep, latents, return_dict=False)[0]
    seconds = time.perf_counter() - began
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return (image / 2 + 0.5).clamp(0, 1), seconds


def psnr(reference, image):
    error = float(((reference - image) ** 2).mean())
    return 100.0 if error == 0 else min(100.0, -10 * torch.log10(torch.tensor(error)).item())


def measure(found, prompts, guidance):
    for turn, prompt in enumerate(prompts):
        made = {}
        for place in range(len(found)):
            contender = found[(place + turn) % len(found)]
            if contender.failure:
                continue
            try:
                made[contender.name] = picture(contender, prompt, guidance)
            except Exception as error:  # a peer's own limits are a result
                contender.failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        for contender in found:
            if contender.name in made:
                image, seconds = made[contender.name]
                contender.seconds.append(seconds)
                contender.psnr.append(psnr(made["off"][0], image))
        print(f"{turn + 1} of {len(prompts)}", file=sys.stderr, flush=True)


def plot(path, rows, title):
    """Speed (logarithmic) against PSNR, one colour a family."""
    from PIL import Image, ImageDraw
    width, height, left, bottom = 1100, 680, 70, 60
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    rows = [row for row in rows if row["psnr"] < 100 and row["speedup"] > 0.8]
    import math
    low, high = math.log(1.0), math.log(max(row["speedup"] for row in rows) * 1.1)
    floor, roof = min(20, min(row["psnr"] for row in rows) - 3), max(row["psnr"] for row in rows) + 3
    across = lambda speed: left + (math.log(max(speed, 1.0)) - low) / (high - low) * (width - left - 330)
    down = lambda value: height - bottom - (value - floor) / (roof - floor) * (height - bottom - 50)
    draw.text((left, 12), title, fill="black", font_size=16)
    for value in range(int(floor // 5 * 5), int(roof) + 1, 5):
        draw.line([(left, down(value)), (width - 330, down(value))], fill="#dddddd")
        draw.text((20, down(value) - 7), f"{value} dB", fill="black", font_size=13)
    for speed in (1, 1.5, 2, 3, 4, 5, 6, 8):
        if math.log(speed) <= high:
            draw.line([(across(speed), 50), (across(speed), height - bottom)], fill="#eeeeee")
            draw.text((across(speed) - 10, height - bottom + 8), f"{speed}x", fill="black", font_size=13)
    families = {}
    for row in rows:
        family = "refrain router" if ".safetensors" in row["policy"] else row["policy"].split(":")[0]
        family = row.get("from", "refrain ") + family if not family.startswith(("refrain", "diffusers", "cache-dit", "PyTorch")) else family
        families.setdefault(family, []).append((row["speedup"], row["psnr"]))
    colours = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#ff7f0e", "#000000", "#00429d", "#8a9a5b"]
    order = sorted(families, key=lambda name: (name != "refrain router", name))
    for index, name in enumerate(order):
        colour, points = colours[index % len(colours)], sorted(families[name])
        spots = [(across(speed), down(value)) for speed, value in points]
        if name in ("refrain router", "refrain steps", "PyTorch steps"):
            draw.line(spots, fill=colour, width=2)
        for x, y in spots:
            draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=colour)
        draw.ellipse([width - 310, 60 + 24 * index, width - 300, 70 + 24 * index], fill=colour)
        draw.text((width - 292, 56 + 24 * index), name, fill="black", font_size=14)
    image.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-file", default=f"{ROOT}/samples/prompts/held-out-64.txt")
    parser.add_argument("--prompts", type=int, default=64, help="take the first so many")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--table", help="table.json of `refrain bench cache`, for the plot")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--output", required=True, help="path without ending: .json, .md and .png are written")
    arguments = parser.parse_args()
    lines = [line.strip() for line in open(arguments.prompt_file) if line.strip() and not line.startswith("#")]
    prompts = lines[: 1 if arguments.dry_run else arguments.prompts]
    found = contenders(arguments.steps)
    for contender in found:
        try:
            contender.start()
        except Exception as error:
            contender.failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    for contender in found:  # warm-up
        if not contender.failure:
            try:
                picture(contender, prompts[0], arguments.guidance)
            except Exception as error:
                contender.failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    measure(found, prompts, arguments.guidance)
    uncached = statistics.median(found[0].seconds)
    rows = [{"policy": one.name, "seconds_per_image": statistics.median(one.seconds),
             "speedup": uncached / statistics.median(one.seconds), "psnr": statistics.median(one.psnr),
             "psnr_min": min(one.psnr), "images": len(one.psnr)} for one in found if one.psnr and not one.failure]
    failures = {one.name: one.failure for one in found if one.failure}
    json.dump({"rows": rows, "failures": failures}, open(f"{arguments.output}.json", "w"), indent=1)
    text = ["| policy | s/image | speed-up | PSNR dB (min) |", "|---|---|---|---|"]
    text += [f"| {row['policy']} | {row['seconds_per_image']:.3f} | {row['speedup']:.2f}x | {row['psnr']:.1f} ({row['psnr_min']:.1f}) |"
             for row in rows]
    text += [""] + [f"- {name}: {failure}" for name, failure in failures.items()]
    open(f"{arguments.output}.md", "w").write("\n".join(text) + "\n")
    print("\n".join(text))
    ours = json.load(open(arguments.table))["rows"] if arguments.table else []
    plot(f"{arguments.output}.png", rows + ours, f"built-in model, ddim {arguments.steps} steps: caches of three projects")


main()
