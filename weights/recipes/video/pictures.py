"""Frames to learn from: clips, stills under a moving camera, emoji over pictures; and the autoencoder that is fitted to them."""
import math
import random

import torch
import torch.nn.functional as F

import styles

C, P = 48, 8
rng = random.Random(0)


class Pictures:
    """What `prepare_data.py` wrote."""

    def __init__(self, path):
        data = torch.load(path)
        self.held, self.clips = data["held"], data["clips"]
        self.train = [clip for name, clip in self.clips.items() if name not in self.held]
        self.stills, self.emoji = data["stills"], data["emoji"]


def resize(x, size=128):
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def from_clip(data, f):
    c = rng.choice(data.train); stride = rng.choice((1, 1, 1, 2, 3))
    i = rng.randrange(max(1, len(c) - f * stride)); x = c[i:i + f * stride:stride][:f]
    if rng.random() < 0.15: x = x.flip(0)
    if len(x) < f: x = x[[min(j, len(x) - 1) for j in range(f)]]
    h, w = x.shape[1:3]; s = rng.randint(112, h); y0 = rng.randint(0, h - s); x0 = rng.randint(0, w - s)
    return resize(x[:, y0:y0 + s, x0:x0 + s].permute(0, 3, 1, 2).float() / 255)


def camera(x, f):
    """A still `[3, h, w]` seen by a moving camera: `[f, 3, 128, 128]`."""
    h, w = x.shape[1:]; k = min(h, w)
    zoom = rng.uniform(0.4, 0.95); angle = rng.uniform(-0.15, 0.15); speed = rng.choice((0, 0.5, 1, 2)) * k / 128
    cx, cy = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)
    dx, dy, dz, da = rng.gauss(0, 2) * speed / k, rng.gauss(0, 2) * speed / k, 1 + rng.gauss(0, 0.01) * (speed > 0), rng.gauss(0, 0.01) * (speed > 0)
    grids = []
    for i in range(f):
        z, r = zoom * dz ** i, angle + da * i
        m = torch.tensor([[math.cos(r) * z * k / w, -math.sin(r) * z * k / w, 2 * (cx + dx * i) - 1], [math.sin(r) * z * k / h, math.cos(r) * z * k / h, 2 * (cy + dy * i) - 1]])
        grids.append(m)
    g = F.affine_grid(torch.stack(grids), (f, 3, 160, 160), align_corners=False)
    return resize(F.grid_sample(x[None].expand(f, -1, -1, -1), g, padding_mode="reflection", align_corners=False))


def from_still(data, f):
    return camera(rng.choice(data.stills).permute(2, 0, 1).float() / 255, f)


def from_emoji(data, f):
    back = camera(rng.choice(data.stills).permute(2, 0, 1).float() / 255, f) if rng.random() < 0.6 else torch.rand(1, 3, 1, 1).expand(f, 3, 128, 128)
    out = back.clone()
    for _ in range(rng.randint(1, 2)):
        e = data.emoji[rng.randrange(len(data.emoji))].permute(2, 0, 1).float()[None] / 255
        s = rng.uniform(0.9, 2.2); x, y = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6); vx, vy = rng.gauss(0, 0.03), rng.gauss(0, 0.03)
        m = torch.stack([torch.tensor([[s, 0, s * (x + vx * i)], [0, s, s * (y + vy * i)]]) for i in range(f)])
        g = F.affine_grid(m, (f, 4, 128, 128), align_corners=False)
        e = F.grid_sample(e.expand(f, -1, -1, -1), g, align_corners=False)
        out = out * (1 - e[:, 3:]) + e[:, :3] * e[:, 3:]
    return out


def source(data, f=1):
    """`[f, 3, 128, 128]` in [0, 1], as 8-bit frames have them."""
    r = rng.random()
    x = from_clip(data, f) if r < 0.5 else from_still(data, f) if r < 0.85 else from_emoji(data, f)
    if rng.random() < 0.5: x = x.flip(-1)
    if rng.random() < 0.6:
        x = (x.clamp(0, 1) ** math.exp(rng.gauss(0, 0.25)) - 0.5) * math.exp(rng.gauss(0, 0.15)) + 0.5 + rng.gauss(0, 0.06)
        x = x * (1 + 0.08 * torch.randn(1, 3, 1, 1))
    if rng.random() < 0.5: x = x + rng.uniform(0, 0.02) * torch.randn(x.shape)
    x = x.clamp(0, 1)
    return (x * 255).round() / 255


def fit_autoencoder(data):
    """Principal components of 8x8 patches of pictures and styled pictures."""
    n = 60; rows = []
    for _ in range(n):
        x = source(data, 2); rows.append(x); rows.append(styles.restyle(x, rng.randrange(len(styles.STYLES))))
    p = F.pixel_unshuffle(torch.cat(rows) * 2 - 1, P).permute(0, 2, 3, 1).reshape(-1, 3 * P * P).double()
    mean = p.mean(0); e, v = torch.linalg.eigh(torch.cov(p.T))
    v = v.flip(1)[:, :C].T; v = v * torch.sign(v.sum(1, keepdim=True)); e = e.flip(0)[:C]
    print("kept variance", float(e.sum() / torch.trace(torch.cov(p.T))), "std", e.sqrt()[[0, 1, 5, 10, 20, 30, 47]].tolist(), flush=True)
    return {"basis": v.float(), "mean": mean.float(), "std": e.sqrt().float()}


def encode(ae, x):
    """`[n, 3, h, w]` in [0, 1] -> standardised latents `[n, 48, h/8, w/8]`."""
    p = F.pixel_unshuffle(x * 2 - 1, P) - ae["mean"].view(1, -1, 1, 1)
    return torch.einsum("kc,nchw->nkhw", ae["basis"], p) / ae["std"].view(1, -1, 1, 1)


def decode(ae, z):
    p = torch.einsum("kc,nkhw->nchw", ae["basis"], z * ae["std"].view(1, -1, 1, 1)) + ae["mean"].view(1, -1, 1, 1)
    return ((F.pixel_shuffle(p, P) + 1) / 2).clamp(0, 1)
