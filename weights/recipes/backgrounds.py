"""Is the background the colour that was named? backgrounds.py PIPELINE emoji.pt [--prompts 200] [--steps 10] [--scale 3.5]

The colour of a picture's background is the median of a ring of 3 pixels along its border; the distance is that of CIE 1976 in Lab (and
CIEDE2000, which is kinder to strong colours, beside it). Counted: prompts within 12."""
import argparse
import math
import random

import torch

from common import COLOURS, article
from draw import Drawer


def lab(rgb):
    rgb = torch.as_tensor(rgb, dtype=torch.float64)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ torch.tensor([[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920], [0.1804375, 0.0721750, 0.9503041]], dtype=torch.float64)
    xyz = xyz / torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)
    f = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-9) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    return [(116 * f[1] - 16).item(), (500 * (f[0] - f[1])).item(), (200 * (f[1] - f[2])).item()]


def ciede2000(p, q):
    l1, a1, b1 = p
    l2, a2, b2 = q
    c = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 0.5 * (1 - math.sqrt(c**7 / (c**7 + 25**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = math.degrees(math.atan2(b1, a1)) % 360, math.degrees(math.atan2(b2, a2)) % 360
    dh = 0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    big = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(dh / 2))
    lm, cm = (l1 + l2) / 2, (c1 + c2) / 2
    hm = h1 + h2 if c1 * c2 == 0 else (h1 + dh / 2) % 360
    t = 1 - 0.17 * math.cos(math.radians(hm - 30)) + 0.24 * math.cos(math.radians(2 * hm)) + 0.32 * math.cos(math.radians(3 * hm + 6)) - 0.2 * math.cos(math.radians(4 * hm - 63))
    sl, sc, sh = 1 + 0.015 * (lm - 50) ** 2 / math.sqrt(20 + (lm - 50) ** 2), 1 + 0.045 * cm, 1 + 0.015 * cm * t
    turn = -2 * math.sqrt(cm**7 / (cm**7 + 25**7)) * math.sin(math.radians(60 * math.exp(-(((hm - 275) / 25) ** 2))))
    x, y, z = (l2 - l1) / sl, (c2 - c1) / sc, big / sh
    return math.sqrt(x * x + y * y + z * z + turn * y * z)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("data")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--scale", type=float, default=3.5)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    data, drawer, chance = torch.load(args.data), Drawer(args.pipeline, args.bf16), random.Random(1)
    colours = [list(COLOURS)[i % len(COLOURS)] for i in range(args.prompts)]
    prompts = [f"{article(chance.choice(data['names']))} on a {c} background" for c in colours]
    plain, kind, worst = 0, 0, {}
    for start in range(0, args.prompts, 50):
        images = drawer.pictures(drawer.latents(prompts[start:start + 50], 500 + start, args.steps, args.scale))
        for image, colour, prompt in zip(images, colours[start:], prompts[start:]):
            ring = torch.cat([image[:, :3].flatten(1), image[:, -3:].flatten(1), image[:, :, :3].flatten(1), image[:, :, -3:].flatten(1)], 1).median(1).values
            got, asked = lab(ring), lab([c / 255 for c in COLOURS[colour]])
            far, soft = math.dist(got, asked), ciede2000(got, asked)
            plain, kind = plain + (far <= 12), kind + (soft <= 12)
            worst.setdefault(colour, []).append(far)
    print(f"background within 12: CIE 1976 {plain / args.prompts:.3f}, CIEDE2000 {kind / args.prompts:.3f} of {args.prompts} prompts")
    print("mean distance (1976) by colour:", ", ".join(f"{c} {sum(d) / len(d):.1f}" for c, d in worst.items()))


if __name__ == "__main__":
    main()
