"""Does the model draw what was asked?

    recognition.py PIPELINE emoji.pt [--names 200] [--steps 10] [--scale 3.5]

For that many names, the share of drawn latents whose nearest training picture on white (plain or mirrored, squared distance in the
latent space, out of all emoji that the model knows) is the emoji that was named."""
import argparse
import random

import torch

from draw import Drawer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("data")
    parser.add_argument("--names", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--scale", type=float, default=3.5)
    parser.add_argument("--article", action="store_true", help="ask for 'a fox' in place of 'fox'")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    from common import article
    data, drawer = torch.load(args.data), Drawer(args.pipeline, args.bf16)
    variant, plain = torch.tensor(data["variant"]), data["latents"].float().flatten(1)
    sides = plain[variant == 0], plain[variant == 1]
    chosen = random.Random(0).sample(range(len(data["names"])), args.names)
    first = fifth = 0
    missed = []
    for start in range(0, args.names, 50):
        part = chosen[start:start + 50]
        prompts = [article(data["names"][i]) if args.article else data["names"][i] for i in part]
        drawn = drawer.latents(prompts, start, args.steps, args.scale).flatten(1)
        order = torch.minimum(torch.cdist(drawn, sides[0]), torch.cdist(drawn, sides[1])).argsort(1)[:, :5].tolist()
        for wanted, got in zip(part, order):
            first, fifth = first + (got[0] == wanted), fifth + (wanted in got)
            if got[0] != wanted:
                missed.append(f"{data['names'][wanted]} -> {data['names'][got[0]]}")
    print(f"recognition: top-1 {first / args.names:.3f}, top-5 {fifth / args.names:.3f} over {args.names} of {len(data['names'])} names")
    print("missed:", "; ".join(missed))


if __name__ == "__main__":
    main()
