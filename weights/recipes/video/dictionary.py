"""Candidates for hidden units: linear filters of the pixels around a patch, thresholds on them, one pool for each style.

Every formula of `styles.py` is linear up to a few thresholds, so the filters are those of the styles themselves, run over the basis pictures of the hidden
dimensions: a 24x24 window, the patch in its middle, as a linear function of what the hidden states hold."""
import math

import torch

import styles
from layout import CONST, DIM, N, O, S, U, centred, pixels

# Hidden dimensions that hold pixels, and the last row: the constant.
HELD = [*range(S.start, S.stop), *range(O.start, O.stop), *range(N.start, N.stop)]
fields = {}


def prepare(autoencoder, places):
    """Basis pictures `[len(HELD) + 1, 3, 24, 24]` and what linear filters make of them."""
    basis, mean = pixels(autoencoder)
    own, output = torch.zeros(len(HELD) + 1, 3, 24, 24), torch.zeros(len(HELD) + 1, 3, 24, 24)
    own[S, :, 8:16, 8:16] = basis
    for (_, dy, dx), rows, near in places:
        own[rows, :, 8 + 8 * dy:16 + 8 * dy, 8 + 8 * dx:16 + 8 * dx] = torch.einsum("ck,cxyz->kxyz", near, basis)
    own[-1] = mean.repeat(1, 3, 3)
    output[O, :, 8:16, 8:16], output[-1] = basis, mean.repeat(1, 3, 3)
    luma = styles.luma(own)
    mean_of = lambda x: x[:, :, 8:16, 8:16].mean((2, 3), keepdim=True)
    smooth = styles.blur(luma, 1)
    a, b, c = smooth[:, :, :-2], smooth[:, :, 1:-1], smooth[:, :, 2:]
    down = (c[..., :-2] + 2 * c[..., 1:-1] + c[..., 2:]) - (a[..., :-2] + 2 * a[..., 1:-1] + a[..., 2:])
    across = (a[..., 2:] + 2 * b[..., 2:] + c[..., 2:]) - (a[..., :-2] + 2 * b[..., :-2] + c[..., :-2])
    pad = lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1))
    colour = lambda x, contrast, amount: saturated(contrasted(x, contrast), amount)
    matrix = torch.tensor(((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)))
    fields.update(own=own, output=output, luma=luma, down=pad(down), across=pad(across), sepia=torch.einsum("ij,njhw->nihw", matrix, own),
                  cartoon=colour(own, 1.0, 1.6), oil=colour(own, 1.35, 1.7), cell=colour(mean_of(own), 1.3, 1.6))
    for r in (1, 2, 5):
        fields[f"luma{r}"] = styles.blur(luma, r)
    for r in (1, 2, 3):
        fields[f"cartoon{r}"] = styles.blur(fields["cartoon"], r)
    for r in (2, 3, 4):
        fields[f"oil{r}"] = styles.blur(fields["oil"], r)


def contrasted(x, amount):
    out = amount * x
    out[-1] += 0.5 * (1 - amount)
    return out


def saturated(x, amount):
    grey = styles.luma(x)
    return grey + amount * (x - grey)


def pixel(name, rng, shift=(0, 0)):
    field = fields[name]
    return field[:, rng.randrange(field.shape[1]), 8 + rng.randrange(8) + shift[0], 8 + rng.randrange(8) + shift[1]]


def edge(rng, low, high):
    """The gradient along one direction, above a threshold."""
    y, x, angle = 8 + rng.randrange(8), 8 + rng.randrange(8), rng.uniform(0, 2 * math.pi)
    return math.cos(angle) * fields["across"][:, 0, y, x] + math.sin(angle) * fields["down"][:, 0, y, x], rng.uniform(low, high), rng.uniform(8, 30), 1


def step(rng):
    """The difference of two places not far from each other."""
    y, x = 6 + rng.randrange(12), 6 + rng.randrange(12)
    dy, dx = rng.randrange(-4, 5), rng.randrange(-4, 5)
    name = rng.choice(("luma1", "luma2"))
    return fields[name][:, 0, min(20, max(3, y + dy)), min(20, max(3, x + dx))] - fields[name][:, 0, y, x], rng.uniform(-0.05, 0.3), rng.uniform(5, 30), 1


def dodge(rng):
    """Where the luma is so much below its surroundings'."""
    y, x, ratio = 8 + rng.randrange(8), 8 + rng.randrange(8), rng.uniform(0.5, 1.05)
    out = fields["luma1"][:, 0, y, x] - ratio * fields["luma5"][:, 0, y, x]
    return out, -0.02 * (1 - ratio), rng.uniform(8, 50), rng.choice((-1, 1))


def threshold(names, levels, low, high):
    return lambda rng: (pixel(rng.choice(names), rng), rng.choice(levels), rng.uniform(low, high), rng.choice((-1, 1)))


def cell(levels):
    return lambda rng: (fields["cell"][:, rng.randrange(3), 0, 0], rng.choice(levels), rng.choice((12, 25, 50, 90)), rng.choice((-1, 1)))


def risers(levels):
    """Where the treads of `styles.stairs` begin and end."""
    return [(k + part) / (levels - 1) for k in range(levels - 1) for part in (0.3, 0.4, 0.5, 0.6, 0.7)]


RISERS = risers(4)
made = lambda rng: (pixel("output", rng), rng.uniform(0, 1), rng.uniform(4, 25), rng.choice((-1, 1)))
any_luma = threshold(("luma1", "luma2"), [k / 10 for k in range(11)], 4, 15)
KINDS = {
    "plain": [any_luma], "sepia": [threshold(("sepia",), (1.0,), 8, 40), any_luma],
    "pencil sketch": [dodge, dodge, threshold(("luma2",), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 5, 20), step],
    "ink edges": [lambda rng: edge(rng, 0.1, 0.8), lambda rng: edge(rng, 0.1, 0.8), threshold(("luma2",), (0.12, 0.15, 0.18, 0.21, 0.24), 15, 60)],
    "posterised cartoon": [threshold(("cartoon1", "cartoon2", "cartoon2", "cartoon3"), RISERS, 8, 35)] * 4 + [lambda rng: edge(rng, 0.3, 1.1), step],
    "oil painting": [threshold(("oil2", "oil3", "oil4"), (0.0, 0.93, 1.0), 4, 20), step, step, any_luma],
    "thermal camera": [threshold(("luma1",), [k / 5 for k in range(6)], 8, 50)],
    "night vision": [threshold(("luma1",), (0.01, 0.03, 0.06, 0.1, 0.2, 0.35, 0.6), 8, 60)],
    "blueprint": [lambda rng: edge(rng, 0.05, 0.8)] * 3 + [any_luma],
    "pixel art": [cell(risers(5))],
}


def candidates(style, block, linear, count, rng):
    """Directions `[count, DIM]` of hidden units, thresholds against the constant, so that the norm's scale leaves them where they are. `linear` `[held, C]` is the best linear map to what is left, in pixels: its input
    directions are tried first, as units that are nearly linear."""
    left, strength, _ = torch.linalg.svd(linear, full_matrices=False)
    ranks = 49
    directions = torch.zeros(count, DIM)
    # The first is on whenever its style is, as much as the code is: it makes up for what an inexact code does to the others.
    directions[0, U[0]] = 10.0 / CONST
    directions[1:ranks, HELD] = 0.5 * left[:, :ranks - 1].T
    directions[1:ranks, U[0]] = 5.0 / CONST
    kinds = KINDS[style] + ([made] * (1 + len(KINDS[style]) // 3) if block > 0 else [])
    for row in range(ranks, count):
        functional, level, slope, sign = rng.choice(kinds)(rng)
        directions[row, HELD] = sign * slope * functional[:-1]
        directions[row, U[0]] = sign * slope * (float(functional[-1]) - level) / CONST
    return centred(directions)
