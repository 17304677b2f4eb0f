"""Chosen emoji on coloured backgrounds -> 128x128 pictures, teacher latents and caption words, in one file.

    prepare_data.py --npm FOLDER --teacher FOLDER --out emoji.pt

--npm holds the unpacked packages fluent-emoji-3d (@lobehub/fluent-emoji-3d 1.1.0), unicode-emoji-json (0.9.0), emojibase-data (17.0.0).
--teacher holds taef2_encoder.safetensors. Variants of one emoji: 0 plain on white; 1 the same mirrored (only for the recognition figure,
never trained on); 2, 3 on white, a trifle smaller and shifted; then one on each other colour, likewise."""
import argparse
import glob
import os
import random

import numpy as np
import torch
from PIL import Image

from common import COLOURS, hexcode, load_json, read_names, teacher


def place(path, colour, mirrored, side, dx, dy):
    emoji = Image.open(path).convert("RGBA").resize((side, side), Image.LANCZOS)
    if mirrored:
        emoji = emoji.transpose(Image.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGBA", (128, 128), colour + (255,))
    canvas.alpha_composite(emoji, ((128 - side) // 2 + dx, (128 - side) // 2 + dy))
    return np.asarray(canvas.convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npm", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(0)

    codes = {}
    for emoji, entry in load_json(f"{args.npm}/unicode-emoji-json/data-by-emoji.json").items():
        codes[entry["name"]] = hexcode(emoji)
    tags = {e["hexcode"].lower().replace("-fe0f", ""): e.get("tags", []) for e in load_json(f"{args.npm}/emojibase-data/en/data.json")}
    files = {}
    for path in sorted(glob.glob(f"{args.npm}/fluent-emoji-3d/assets/*.webp")):
        files["-".join(p for p in os.path.basename(path)[:-5].split("-") if p != "fe0f")] = path

    chosen = read_names()
    names, others, categories, keywords, images, owner, variant, background = [], [], [], [], [], [], [], []
    for index, (name, synonyms, category) in enumerate(chosen):
        path = files[codes[name]]
        names.append(name), others.append(synonyms), categories.append(category), keywords.append(tags.get(codes[name], []))
        plan = [("white", False, False), ("white", True, False), ("white", False, True), ("white", False, True)]
        plan += [(c, False, True) for c in COLOURS if c != "white"]
        for number, (colour, mirrored, moved) in enumerate(plan):
            side = chance.randint(124, 128) if moved else 128
            slack = (128 - side) // 2
            dx, dy = chance.randint(-slack, slack), chance.randint(-slack, slack)
            images.append(place(path, COLOURS[colour], mirrored, side, dx, dy))
            owner.append(index), variant.append(number), background.append(colour)
    images = torch.from_numpy(np.stack(images))
    encoder, latents = teacher(args.teacher, "encoder"), []
    for number, part in enumerate(images.split(32)):
        latents.append(encoder((part.permute(0, 3, 1, 2).float() / 255).bfloat16()).half())
        if number % 20 == 0:
            print(f"{number * 32}/{len(images)}", flush=True)
    latents = torch.cat(latents)
    print("pictures", tuple(images.shape), "latents", tuple(latents.shape), "spread", latents.float().std().item())
    torch.save(dict(images=images, latents=latents, owner=owner, variant=variant, background=background, names=names, others=others,
                    categories=categories, keywords=keywords), args.out)


if __name__ == "__main__":
    main()
