"""What every recipe shares: colours, the chosen emoji, the teacher autoencoder, captions."""
import json
import os
import re

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

LATENT_STD = 0.74  # spread of the teacher's latents; the pipeline's autoencoder carries scaling_factor = 1 / LATENT_STD
TOKENS = 20
COLOURS = {
    "white": (255, 255, 255), "black": (24, 24, 28), "red": (214, 64, 69), "orange": (240, 150, 60), "yellow": (250, 214, 90),
    "green": (88, 170, 96), "teal": (60, 160, 160), "blue": (70, 120, 220), "navy": (34, 48, 96), "purple": (136, 92, 200),
    "pink": (244, 160, 190), "gray": (150, 150, 155), "sky blue": (160, 210, 245), "beige": (236, 220, 190),
}
HERE = os.path.dirname(os.path.abspath(__file__))


def hexcode(emoji):
    return "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F)


def read_names(path=os.path.join(HERE, "names.txt")):
    """[(name, other names, category)] in the order of the file."""
    chosen, category = [], ""
    for line in open(path, encoding="utf-8"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            category = line.strip("[]")
            continue
        name, _, others = line.partition(":")
        chosen.append((name.strip(), [o.strip() for o in others.split(",") if o.strip()], category))
    return chosen


class Block(nn.Module):
    """Residual block of the TAEF2 autoencoder; `pool` adds a wide 1x1 branch in front."""

    def __init__(self, tensors, prefix):
        super().__init__()
        self.tensors = {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}

    def forward(self, x):
        t = self.tensors
        if "pool.0.weight" in t:
            wide = F.conv2d(x, t["pool.0.weight"], t.get("pool.0.bias"))
            wide = F.relu(F.group_norm(wide, 4, t["pool.1.weight"], t["pool.1.bias"]))
            x = x + F.conv2d(wide, t["pool.3.weight"], t.get("pool.3.bias"))
        y = x
        for k, last in (("conv.0", False), ("conv.2", False), ("conv.4", True)):
            y = F.conv2d(y, t[k + ".weight"], t.get(k + ".bias"), padding=1)
            y = y if last else F.relu(y)
        return F.relu(y + x)


class Half(nn.Module):
    """Encoder or decoder, run straight from the names of its tensors (see the layer lists in the recipe's README)."""

    def __init__(self, path, encoder, dtype):
        super().__init__()
        tensors = {k: v.to(dtype) for k, v in load_file(path).items()}
        self.encoder, self.tensors = encoder, tensors
        last = max(int(re.match(r"\d+", k).group()) for k in tensors)
        self.blocks = {i: Block(tensors, f"{i}.") for i in range(last + 1) if f"{i}.conv.0.weight" in tensors}
        self.last = last

    @torch.no_grad()
    def forward(self, x):
        strides, doubles = ({2, 6, 10}, set()) if self.encoder else (set(), {6, 11, 16})
        for i in range(self.last + 1):
            if i in self.blocks:
                x = self.blocks[i](x)
            elif f"{i}.weight" in self.tensors:
                x = F.conv2d(x, self.tensors[f"{i}.weight"], self.tensors.get(f"{i}.bias"), stride=2 if i in strides else 1, padding=1)
            elif i in doubles:
                x = F.interpolate(x, scale_factor=2)
            elif not self.encoder and i == 0:
                x = 3 * torch.tanh(x / 3)
            elif not self.encoder and i == 2:
                x = F.relu(x)
        return x


def teacher(folder, which, dtype=torch.bfloat16):
    return Half(os.path.join(folder, f"taef2_{which}.safetensors"), which == "encoder", dtype)


def pixels(images):
    """uint8 [n, h, w, 3] -> float [n, 3, h, w] in -1..1"""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def article(name):
    if name.split()[0] in ("french", "grapes", "cherries", "blueberries", "pancakes", "books", "sunglasses", "bacon", "sushi", "popcorn"):
        return name
    return ("an " if name[0].lower() in "aeiou" and not name.startswith(("unicorn", "UFO", "ewe")) else "a ") + name


def caption(data, owner, background, random):
    """One training caption: empty (10 %), a name in several dresses, name and keywords, keywords alone, or the bare category."""
    r = random.random()
    if r < 0.10:
        return ""
    name, others, words, category = data["names"][owner], data["others"][owner], data["keywords"][owner], data["categories"][owner]
    text = random.choice(others) if others and random.random() < 0.35 else name
    if r < 0.48:
        pass
    elif r < 0.70:
        text = article(text)
        if random.random() < 0.2:
            text = random.choice(("a picture of ", "an emoji of ", "a drawing of ")) + text
    elif r < 0.80 and words:
        text = " ".join([text] + random.sample(words, min(len(words), random.randint(1, 2))))
    elif r < 0.85:
        text = " ".join([category, text])
    elif r < 0.93 and words:
        text = " ".join(random.sample(words, min(len(words), random.randint(1, 3))))
    else:
        text = random.choice((category, article(category)))
    if background != "white":
        return f"{text} on a {background} background" if random.random() < 0.85 else f"{text}, {background} background"
    return text if random.random() < 0.85 else f"{text} on a white background"


def load_json(path):
    return json.load(open(path, encoding="utf-8"))
