"""Which hidden dimensions of the restyler hold what when its training begins."""
import torch

C, DIM, HEADS, LAYERS, FFN = 48, 256, 4, 4, 1280
# Near content kept of a neighbour that shares a side, or a corner.
SIDE, CORNER = 24, 8
# Latents of the picture, of the output so far, of the neighbours; the style's code; the constants.
S, O = slice(0, C), slice(C, 2 * C)
N = slice(2 * C, 2 * C + 4 * SIDE + 4 * CORNER)
CODE = slice(N.stop, N.stop + 10)
U, CONST = (DIM - 2, DIM - 1), 300.0
# Never written: after a norm they hold nothing but the mean that it took from all, negative.
FREE = slice(CODE.stop, DIM - 2)
# Timestep at which a picture is wholly restyled.
FULL = 200.0
OFFSETS = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


def centred(weight):
    """Rows `[n, DIM]` that read normed states, with what the norm took from every dimension given back."""
    weight[:, FREE] = -(weight.sum(1, keepdim=True) - weight[:, FREE].sum(1, keepdim=True)) / (FREE.stop - FREE.start)
    return weight


def pixels(autoencoder):
    """What one unit of each latent adds to a patch, pixels in 0..1: `[C, 3, 8, 8]`; and the mean patch `[3, 8, 8]`."""
    basis = (autoencoder["basis"] * autoencoder["std"][:, None]).view(C, 3, 8, 8)
    return basis / 2, (autoencoder["mean"].view(3, 8, 8) + 1) / 2


def neighbours(autoencoder):
    """For each neighbour: offset (frame, row, column), its dimensions, and the directions of its latents that say most about its pixels near this patch, `[C, k]`."""
    basis, _ = pixels(autoencoder)
    luma = 0.299 * basis[:, :1] + 0.587 * basis[:, 1:2] + 0.114 * basis[:, 2:]
    felt = torch.cat((luma * 1.5, 0.35 * (basis - luma)), 1)
    places, first = [], N.start
    for dy, dx in OFFSETS:
        along = lambda step: torch.zeros(8) if step == 0 else torch.arange(1, 9).float() if step > 0 else torch.arange(8, 0, -1).float()
        distance = torch.maximum(along(dy)[:, None], along(dx)[None])
        weight = torch.where(distance <= 4, 1.0, torch.where(distance <= 6, 0.4, 0.15))
        near = (felt * weight).flatten(1)
        count = CORNER if dy and dx else SIDE
        vectors = torch.linalg.eigh(near @ near.T)[1].flip(1)[:, :count]
        places.append(((0, dy, dx), slice(first, first + count), vectors.contiguous()))
        first += count
    return places
