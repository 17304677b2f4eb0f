"""Pictures for the card.

    sheet.py prompts PIPELINE OUT.png PROMPT...            prompts as one row of pictures (seed 0)
    sheet.py contact PIPELINE OUT.png                      64 fixed prompts at seed 0, none left out (20 steps, guidance 4)
    sheet.py curves LOG.csv OUT.png                        loss and recognition over the hours"""
import csv
import sys

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

CONTACT = """a red fox on a blue background; pizza; rocket; red apple; guitar on a yellow background; smiling cat face with heart-eyes; honeybee; octopus on a pink background
unicorn; a tangerine on a navy background; an alarm clock on a teal background; face with tears of joy on a purple background; dog; cat; a panda on a green background; a tiger
penguin on a sky blue background; an owl; a frog on a beige background; a turtle; shark; a butterfly on a white background; elephant; lion on an orange background
strawberry; a banana on a red background; watermelon; pineapple on a teal background; avocado; a hamburger on a black background; sushi; birthday cake on a pink background
doughnut; french fries; a cup of coffee on a gray background; teapot; a red car; bicycle; sailboat on a sky blue background; helicopter
police car on a yellow background; locomotive; flying saucer on a navy background; castle; volcano; rainbow; crescent moon on a black background; planet saturn
robot; alien on a purple background; ghost on a black background; skull; smiling face with sunglasses; loudly crying face; clown face on a green background; exploding head
key; books; light bulb on a navy background; soccer ball on a green background; crown; animal; food; vehicle"""


def contact():
    return [p.strip() for line in CONTACT.splitlines() for p in line.split(";")]


def draw(pipeline, out, prompts, columns):
    from draw import Drawer
    drawer = Drawer(pipeline)
    images = []
    for prompt in prompts:
        images.append(drawer.pictures(drawer.latents([prompt], [0], 20, 4.0))[0].permute(1, 2, 0).numpy())
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * 136, rows * 160), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    for i, (image, prompt) in enumerate(zip(images, prompts)):
        x, y = i % columns * 136 + 4, i // columns * 160 + 2
        sheet.paste(Image.fromarray((image * 255).round().astype(np.uint8)), (x, y))
        words, line, lines = prompt.split(), "", []
        for word in words:
            if pen.textlength(f"{line} {word}", font=font) > 130:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        for k, text in enumerate((lines + [line])[:2]):
            pen.text((x, y + 130 + 11 * k), text, fill="black", font=font)
    sheet.save(out, optimize=True)


def curves(table, out):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    rows = list(csv.DictReader(open(table)))
    loss = [(float(r["seconds"]) / 3600, float(r["loss"]), float(r["loss_noisy"])) for r in rows if r["loss"] not in ("", "nan")]
    top = [(float(r["seconds"]) / 3600, float(r["top1"]), float(r["top5"])) for r in rows if r["top1"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    hours, whole, noisy = map(np.array, zip(*loss))
    width = min(9, len(whole))
    smooth = lambda v: np.convolve(np.pad(v, (width // 2, width - 1 - width // 2), mode="edge"), np.ones(width) / width, "valid")
    left.plot(hours, smooth(whole), label="all steps")
    left.plot(hours, smooth(noisy), label="noisy end (t ≥ 880)")
    left.set(xlabel="hours of training", ylabel="v-prediction loss", title="Loss")
    left.legend(), left.grid(alpha=0.3)
    if top:
        hours, first, fifth = zip(*top)
        right.plot(hours, first, "o-", label="top-1")
        right.plot(hours, fifth, "o--", label="top-5")
    right.axhline(0.9, color="gray", lw=0.8, ls=":")
    right.set(xlabel="hours of training", ylabel="share of names", title="Recognition (64 names, 10 steps, guidance 3.5)", ylim=(0, 1.02))
    right.legend(), right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    what = sys.argv[1]
    if what == "contact":
        draw(sys.argv[2], sys.argv[3], contact(), 8)
    elif what == "prompts":
        draw(sys.argv[2], sys.argv[3], sys.argv[4:], 8)
    elif what == "curves":
        curves(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
