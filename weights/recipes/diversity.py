"""Do two seeds of a bare keyword differ? diversity.py PIPELINE [--seeds 16] [--out sheet.png]

Mean PSNR over all pairs of pictures (0..1), 20 steps of DDIM, guidance 4. Identical pictures would have no bound; 20 dB is asked at most."""
import argparse
import itertools

import torch

from draw import Drawer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--words", nargs="+", default=["animal", "food", "vehicle"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--out")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    drawer, rows = Drawer(args.pipeline, args.bf16), []
    for word in args.words:
        images = drawer.pictures(drawer.latents([word] * args.seeds, list(range(args.seeds)), args.steps, args.scale))
        rows.append(torch.cat(list(images), 2))
        pairs = [-10 * torch.log10((a - b).square().mean().clamp_min(1e-12)).item() for a, b in itertools.combinations(images, 2)]
        print(f"{word}: mean pairwise PSNR {sum(pairs) / len(pairs):.1f} dB, highest {max(pairs):.1f} dB")
    if args.out:
        from PIL import Image
        Image.fromarray((torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()).save(args.out)


if __name__ == "__main__":
    main()
