"""Clips, photos, wallpapers and emoji as one file of frames.

    prepare_data.py --clips FOLDER --stills FOLDER --emoji NPM/fluent-emoji-3d --out data.pt

Clips at 176 pixels a side (at most 300 frames each), stills at 320, 400 emoji at 160. The five clips of HELD are only ever used to judge."""
import argparse
import glob
import os
import random

import av
import numpy as np
import torch
from PIL import Image

HELD = ("asl-walk", "bottle-detection", "car-detection", "fruit-and-vegetable-detection", "people-detection")


def shrink(image, side):
    k = side / min(image.size)
    return np.asarray(image.convert("RGB").resize((round(image.width * k), round(image.height * k)), Image.LANCZOS)).copy()


def read_clip(path, name):
    skip, first = (3 if name == "one-by-one-person-detection" else 1), (200 if name == "bottle-detection" else 0)
    container, frames = av.open(path), []
    for i, frame in enumerate(container.decode(container.streams.video[0])):
        if i >= first and i % skip == 0:
            frames.append(shrink(frame.to_image(), 176))
        if len(frames) == 300:
            break
    return torch.from_numpy(np.stack(frames))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--clips", "--stills", "--emoji", "--out"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    clips = {}
    for path in sorted(glob.glob(f"{args.clips}/*")):
        name = os.path.basename(path).rsplit(".", 1)[0]
        clips[name] = read_clip(path, name)
    stills = []
    for path in glob.glob(f"{args.stills}/**/*", recursive=True):
        if path.lower().rsplit(".", 1)[-1] in ("jpg", "png", "jpeg", "webp"):
            image = Image.open(path)
            if min(image.size) >= 200 and max(image.size) / min(image.size) <= 2.6:
                stills.append(torch.from_numpy(shrink(image, 320)))
    files = sorted(glob.glob(f"{args.emoji}/**/*.webp", recursive=True))
    random.Random(0).shuffle(files)
    emoji = torch.stack([torch.from_numpy(np.asarray(Image.open(file).convert("RGBA").resize((160, 160), Image.LANCZOS)).copy()) for file in files[:400]])
    torch.save({"clips": clips, "held": sorted(HELD), "stills": stills, "emoji": emoji}, args.out)


main()
