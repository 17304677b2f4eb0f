"""Figures of the autoencoder. check_autoencoder.py VAE_FOLDER --npm FOLDER --teacher FOLDER [--out faces.png]

Held out: 64 new compositions (place, size, background) of the known emoji, 24 on white and 40 on other colours, the mixture that the
autoencoder was trained on; and 32 emoji of groups that no training picture came from (people, symbols, flags), on random colours.
Decoder: PSNR from the teacher's latents; round trip: PSNR through encoder and decoder."""
import argparse
import glob
import os
import random

import numpy as np
import torch
from diffusers import AutoencoderKL

from common import COLOURS, hexcode, load_json, pixels, read_names, teacher
from prepare_data import place


def psnr(a, b):
    return (10 * torch.log10(4 / (a - b).square().mean((1, 2, 3)))).mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vae")
    parser.add_argument("--npm", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(7)
    codes, strange = {}, []
    for emoji, entry in load_json(f"{args.npm}/unicode-emoji-json/data-by-emoji.json").items():
        codes[entry["name"]] = hexcode(emoji)
        if entry["group"] in ("People & Body", "Symbols", "Flags"):
            strange.append(hexcode(emoji))
    files = {}
    for path in sorted(glob.glob(f"{args.npm}/fluent-emoji-3d/assets/*.webp")):
        files["-".join(p for p in os.path.basename(path)[:-5].split("-") if p != "fe0f")] = path
    strange = [files[c] for c in strange if c in files]
    known = [files[codes[n]] for n, _, _ in read_names()]
    vae, encoder = AutoencoderKL.from_pretrained(args.vae).float().eval(), teacher(args.teacher, "encoder", torch.float32)
    rows = []
    coloured = [c for c in COLOURS if c != "white"]
    for label, pool, whites, count in (("known emoji, new composition", known, 24, 64), ("emoji never seen", strange, 0, 32)):
        images = []
        for number, path in enumerate(chance.sample(pool, count)):
            side = chance.randint(104, 128)
            slack = (128 - side) // 2
            colour = "white" if number < whites else chance.choice(coloured)
            images.append(place(path, COLOURS[colour], chance.random() < 0.5, side, chance.randint(-slack, slack), chance.randint(-slack, slack)))
        images = pixels(torch.from_numpy(np.stack(images)))
        straight, around = [], []
        with torch.no_grad():
            for part in images.split(8):
                straight.append(vae.decoder(encoder(part / 2 + 0.5)).clamp(-1, 1))
                around.append(vae.decoder(vae.encode(part).latent_dist.mode()).clamp(-1, 1))
        straight, around = torch.cat(straight), torch.cat(around)
        print(f"{label}: decoder from the teacher's latents {psnr(straight, images):.2f} dB, round trip {psnr(around, images):.2f} dB")
        if whites:
            print(f"    on white: {psnr(straight[:whites], images[:whites]):.2f} and {psnr(around[:whites], images[:whites]):.2f} dB, "
                  f"on colours: {psnr(straight[whites:], images[whites:]):.2f} and {psnr(around[whites:], images[whites:]):.2f} dB")
        rows += [torch.cat(list(x[whites - 5 if whites else 0:][:10]), 2) for x in (images, straight, around)]
    if args.out:
        from PIL import Image
        Image.fromarray(((torch.cat(rows, 1) / 2 + 0.5).permute(1, 2, 0) * 255).round().byte().numpy()).save(args.out)


if __name__ == "__main__":
    main()
