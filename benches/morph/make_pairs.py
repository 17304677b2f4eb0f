"""Pairs of emoji for `refrain bench morph`: make_pairs.py --npm FOLDER --out FOLDER [--known]

--npm holds the unpacked packages fluent-emoji-3d (@lobehub/fluent-emoji-3d 1.1.0, MIT, © Microsoft) and unicode-emoji-json
(0.9.0). Writes 128x128 pictures on white and pairs.tsv: 40 pairs, both of one group of Unicode's, whose word is the anchor.

Without --known only emoji that the built-in model has never seen are drawn (names.txt lists what it learned): held out in
pictures and mostly in words. With --known only those it learned; these served to choose settings."""
import argparse
import glob
import json
import os
import random

from PIL import Image

GROUPS = {"Animals & Nature": "animal", "Food & Drink": "food", "Travel & Places": "place", "Activities": "activity",
          "Objects": "object"}
HERE = os.path.dirname(os.path.abspath(__file__))


def hexcode(emoji):
    return "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npm", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    chance = random.Random(2412 if args.known else 7155)
    with open(f"{HERE}/../../weights/recipes/names.txt") as lines:
        learned = {line.split(":")[0].strip().lower() for line in lines if line.strip() and line[0] not in "#["}
    files = {}
    for path in sorted(glob.glob(f"{args.npm}/fluent-emoji-3d/assets/*.webp")):
        files["-".join(p for p in os.path.basename(path)[:-5].split("-") if p != "fe0f")] = path
    with open(f"{args.npm}/unicode-emoji-json/data-by-emoji.json") as data:
        data = json.load(data)
    groups = {group: [] for group in GROUPS}
    for emoji, entry in data.items():
        fits = entry["group"] in groups and not entry["skin_tone_support"] and hexcode(emoji) in files
        if fits and (entry["name"].lower() in learned) == args.known:
            groups[entry["group"]].append((entry["name"], files[hexcode(emoji)]))
    os.makedirs(args.out, exist_ok=True)
    lines = []
    for members in groups.values():
        chance.shuffle(members)
    order = [group for group in GROUPS for _ in range(args.pairs)]
    chance.shuffle(order)
    for group in order:
        if len(lines) == args.pairs or len(groups[group]) < 2:
            continue
        pair = [groups[group].pop(), groups[group].pop()]
        names = []
        for side, (_, path) in zip("ab", pair):
            picture = Image.open(path).convert("RGBA").resize((128, 128), Image.LANCZOS)
            canvas = Image.new("RGBA", (128, 128), (255, 255, 255, 255))
            canvas.alpha_composite(picture)
            names.append(f"{len(lines):02d}{side}.png")
            canvas.convert("RGB").save(f"{args.out}/{names[-1]}")
        lines.append("\t".join(names + [pair[0][0], pair[1][0], GROUPS[group]]))
    with open(f"{args.out}/pairs.tsv", "w") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
