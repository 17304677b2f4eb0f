"""The weights of `weights/style-video`, fitted in closed form: minutes of one core, no gradient descent but for the words.

    fit.py --data data.pt --tokenizer TOKENIZER_FOLDER --out run

1. Autoencoder: principal components of 8x8 patches.
2. Words: text encoder, text projection and the first block's cross-attention learn to write the style of a prompt as a code of ten numbers into the hidden states
   (350 steps of 48 prompts; the only part trained by gradients).
3. Transformer: a dictionary of pixel features for each style. The hidden states hold the picture's latents (48), the output so far (48), what the four neighbours hold
   (48), the style's code (10) and a large constant, which makes the norms nearly linear. Self-attention of block 0 fetches the left, right and upper neighbour, block 1
   the lower one: constant queries and keys whose rotations agree at one offset in space and none in time. Each block's feed-forward holds 76 hidden units a style,
   silent under other styles: linear ones first, then thresholds of luma, colour and gradients at single places. What they add to the output is solved by ridge
   regression on what is left of the error, style by style, block after block, and the output layer last (as extreme learning machines are, Huang et al. 2006).

`run/state.pt` and `run/autoencoder.pt` are what `export.py` reads; `run/check.png` and the last line show the five held-out clips."""
import argparse
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from transformers import T5Config, T5EncoderModel

import pictures
import styles
from model import Wan, rope_tables, rotate, sdpa
from pictures import Pictures, decode, encode, resize
from prompts import prompt

parser = argparse.ArgumentParser(description=__doc__)
for name in ("--data", "--tokenizer", "--out"):
    parser.add_argument(name, required=True)
args = parser.parse_args()
os.makedirs(args.out, exist_ok=True)
torch.manual_seed(1)
rng = random.Random(1)
WORDS = 24
d, C, HEADS, UNITS, LAYERS = 192, 48, 3, 76, 4
S, O, N, CODE, U = slice(0, 48), slice(48, 96), slice(96, 144), slice(144, 154), (190, 191)
CONST, AMP, GATE, FRAMES, STEPS = 40.0, 13.0, 16.0, 60, 350
data = Pictures(args.data)
ae = pictures.fit_autoencoder(data)
torch.save(ae, f"{args.out}/autoencoder.pt")
tok = Tokenizer.from_file(f"{args.tokenizer}/tokenizer.json")
text = T5EncoderModel(T5Config(vocab_size=2476, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", dropout_rate=0.0,
                               initializer_factor=1.0, pad_token_id=0, eos_token_id=1, is_encoder_decoder=False, use_cache=False))
net = Wan(C, d, HEADS, LAYERS, 768, 128, 1)
t0 = time.time()


def words(prompts):
    """Text states `[n, 24, 128]`, zero after the end."""
    ids = [tok.encode(p).ids[:WORDS] for p in prompts]
    x, m = torch.zeros(len(ids), WORDS, dtype=torch.long), torch.zeros(len(ids), WORDS)
    for i, r in enumerate(ids):
        x[i, :len(r)], m[i, :len(r)] = torch.tensor(r), 1
    return text(input_ids=x, attention_mask=m).last_hidden_state * m[..., None]


def zero(m): nn.init.zeros_(m.weight); nn.init.zeros_(m.bias)


with torch.no_grad():
    w = torch.zeros(d, 2 * C); w[S, C:] = torch.eye(C)
    net.patch_embedding.weight.copy_(w.view(d, 2 * C, 1, 1, 1)); net.patch_embedding.bias.zero_()
    net.patch_embedding.bias[U[0]] = CONST; net.patch_embedding.bias[U[1]] = -CONST
    zero(net.condition_embedder.time_proj); zero(net.condition_embedder.time_embedder.linear_2)
    net.scale_shift_table.zero_()
    for b in net.blocks:
        b.scale_shift_table.zero_(); b.scale_shift_table[0, 2] = 1; b.scale_shift_table[0, 5] = 1
        for at in (b.attn1, b.attn2):
            for m in (at.to_q, at.to_k, at.to_v, at.to_out[0]): nn.init.normal_(m.weight, std=0.002); nn.init.zeros_(m.bias)
            at.to_out[0].weight.zero_()

# 1. the style's code, from the words
both = [p for n, p in text.named_parameters()] + list(net.condition_embedder.text_embedder.parameters()) + [net.blocks[0].attn2.to_v.weight, net.blocks[0].attn2.to_v.bias, net.blocks[0].attn2.to_out[0].weight]
nn.init.normal_(net.blocks[0].attn2.to_v.weight, std=0.07)
with torch.no_grad():
    net.blocks[0].attn2.to_q.weight.zero_()
    net.blocks[0].attn2.to_out[0].weight[CODE] = 0.1 * torch.randn(10, d)
opt = torch.optim.AdamW(both, lr=2e-3, weight_decay=0)
for i in range(STEPS):
    kinds = [rng.randrange(10) for _ in range(48)]
    a2 = net.blocks[0].attn2
    h = words([prompt(styles.STYLES[k], rng) for k in kinds])
    h = net.condition_embedder.text_embedder(h)
    code = a2.to_out[0](a2.to_v(h).mean(1))
    want = torch.zeros(48, d); want[range(48), [144 + k for k in kinds]] = 1
    loss = (code - want)[:, CODE].square().mean() * 10 + (code - want).square().mean()
    opt.zero_grad(); loss.backward(); opt.step()
    for g in opt.param_groups: g["lr"] = 2e-3 * (1 - i / STEPS)
    if i % 50 == 49: print("code", i, float(loss), round(time.time() - t0), flush=True)

# 2. data
with torch.no_grad():
    sets = []
    for k in range(10):
        xs = [pictures.source(data) for _ in range(FRAMES)]
        x = torch.cat(xs); sets.append((encode(ae, x), encode(ae, styles.restyle(x, k))))
    print("data", round(time.time() - t0), flush=True)
    src = torch.cat([a for a, _ in sets]); tgt = torch.cat([b for _, b in sets])
    names = [n for n in styles.STYLES for _ in range(FRAMES)]

    # neighbours by position: constant queries and keys whose rotations agree at one offset
    h_dim = 2 * (64 // 6); t_dim = 64 - 2 * h_dim
    freq = lambda n: 1 / 10000 ** (torch.arange(0, n, 2).double() / n)
    def pattern(dy, dx):
        angles = torch.cat((0 * freq(t_dim), dy * freq(h_dim), dx * freq(h_dim)))
        return torch.stack((angles.cos(), angles.sin()), -1).flatten().float()
    offsets = {0: ((0, -1), (0, 1), (-1, 0)), 1: ((1, 0), (0, 0), (0, 0))}
    for bi, offs in offsets.items():
        at = net.blocks[bi].attn1
        at.to_q.weight.zero_(); at.to_k.weight.zero_()
        at.to_k.bias.copy_(pattern(0, 0).repeat(HEADS)); at.to_q.bias.copy_(torch.cat([pattern(dy, dx) for dy, dx in offs]))
        at.norm_q.weight.fill_(AMP / 2 ** 0.5); at.norm_k.weight.fill_(AMP / 2 ** 0.5)

    def ln(x): return F.layer_norm(x, (d,), eps=1e-6)

    def fetch(bi, x, slots):
        """Head h of block `bi` carries the first 12 latents of its neighbour into the neighbour dimensions `12 * slot`."""
        at, r0 = net.blocks[bi].attn1, float((x.square().mean(-1)).sqrt().mean())
        at.to_v.weight.zero_(); at.to_v.bias.zero_(); at.to_out[0].weight.zero_()
        for head, slot in slots.items():
            for j in range(12):
                at.to_v.weight[64 * head + j, j] = 1.0
                at.to_out[0].weight[96 + 12 * slot + j, 64 * head + j] = r0

    basis, std = ae["basis"].view(C, 3, 8, 8), ae["std"]
    pix = basis * std.view(C, 1, 1, 1)                       # value of pixel (c, y, x) in -1..1 is s . pix[:, c, y, x] + mean
    lum = 0.299 * pix[:, 0] + 0.587 * pix[:, 1] + 0.114 * pix[:, 2]   # [48, 8, 8]
    meanpix = ae["mean"].view(3, 8, 8); meanlum = 0.299 * meanpix[0] + 0.587 * meanpix[1] + 0.114 * meanpix[2]
    def soft(m): return F.avg_pool2d(F.pad(m[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    blum, bmean = soft(lum), soft(meanlum[None])[0]

    def unit(style, block, index):
        """(direction over the 48 latents, direction over the neighbours, offset)."""
        a, n = torch.zeros(C), torch.zeros(C)
        if block == 0 and index < 48: a[index] = 0.4; return a, n, 5.0
        if block == 1 and index < 48: n[index] = 0.4; return a, n, 5.0
        y, x = rng.randrange(8), rng.randrange(8)
        name = styles.STYLES[style]
        kinds = {"thermal camera": "L", "night vision": "L", "blueprint": "GGGL", "ink edges": "GGGL", "pencil sketch": "GLD", "posterised cartoon": "KKKG", "oil painting": "MK", "pixel art": "M", "sepia": "K", "plain": "K"}[name]
        kind = rng.choice(kinds); g = rng.choice((2.5, 4.0, 6.0)); sign = rng.choice((-1, 1)); t = rng.uniform(-0.9, 0.9)
        if kind == "L": v, m = blum[:, y, x], float(bmean[y, x])
        elif kind == "K": c = rng.randrange(3); v, m = pix[:, c, y, x], float(meanpix[c, y, x])
        elif kind == "M": c = rng.randrange(3); v, m = pix[:, c].mean((1, 2)), float(meanpix[c].mean())
        elif kind == "D": v, m = blum[:, y, x] - lum.mean((1, 2)), 0.0; t = rng.uniform(-0.3, 0.3); g = 10.0
        else:
            dy, dx = rng.choice(((0, 1), (1, 0), (1, 1), (1, -1)))
            y0, y1, x0, x1 = max(0, y - dy), min(7, y + dy), max(0, min(7, x - dx)), max(0, min(7, x + dx))
            v, m = blum[:, y1, x1] - blum[:, y0, x0], 0.0; t = rng.uniform(0.0, 0.35); g = 10.0
        return sign * g * v, n, sign * g * (m - t) if kind != "G" else -g * t

    texts = words(list(styles.STYLES)); codes = net.condition_embedder.text_embedder(texts)
    x = net.patch_embedding(torch.cat((torch.zeros_like(src), src), 1).unsqueeze(2)).flatten(2).transpose(1, 2)   # [600, 256, 192]
    y = tgt.flatten(2).transpose(1, 2)
    rope = rope_tables(1, 16, 16, 64)
    for bi, b in enumerate(net.blocks):
        if bi in offsets: fetch(bi, x, {0: 0, 1: 1, 2: 2} if bi == 0 else {0: 3})
        outs = []
        for i in range(0, len(x), 60):
            xi = x[i:i + 60]
            q, k, v = b.attn1.qkv(ln(xi), ln(xi)); q, k = rotate(q, *rope), rotate(k, *rope)
            xi = xi + b.attn1.to_out[0](sdpa(q, k, v))
            st = codes[i // FRAMES: i // FRAMES + 1].expand(len(xi), -1, -1)
            q, k, v = b.attn2.qkv(b.norm2(xi), st)
            outs.append(xi + b.attn2.to_out[0](sdpa(q, k, v)))
        x = torch.cat(outs)
        if bi == 0: print("code seen", [round(float(x[i * FRAMES, 0, 144 + i]), 2) for i in range(10)], "neighbour", float((x[0, 17, 96:108] - x[0, 16, 0:12]).abs().max()), float(x[0, 17, 108:120].sub(x[0, 18, 0:12]).abs().max()), float(x[0, 17, 120:132].sub(x[0, 1, 0:12]).abs().max()), flush=True)
        r0 = float(x.square().mean(-1).sqrt().mean())
        proj, down = b.ffn.net[0].proj, b.ffn.net[2]
        proj.weight.zero_(); proj.bias.zero_(); nn.init.normal_(down.weight, std=0.0); nn.init.zeros_(down.bias)
        for k in range(10):
            for j in range(UNITS):
                a, n, o = unit(k, bi, j); r = k * UNITS + j
                proj.weight[r, S] = a * r0; proj.weight[r, N] = n * r0; proj.weight[r, 144 + k] = GATE * r0; proj.bias[r] = o - GATE
        nn.init.normal_(proj.weight[10 * UNITS:], std=0.05)
        for k in range(10):
            xs = x[k * FRAMES:(k + 1) * FRAMES]; rows = slice(k * UNITS, (k + 1) * UNITS)
            H = F.gelu(F.linear(ln(xs), proj.weight[rows], proj.bias[rows]), approximate="tanh").flatten(0, 1)
            R = (y[k * FRAMES:(k + 1) * FRAMES] - xs[..., O] ).flatten(0, 1)
            G = H.T @ H; G += 1e-4 * torch.trace(G) / len(G) * torch.eye(len(G)) + 1e-3 * torch.eye(len(G))
            W = torch.linalg.solve(G.double(), (H.T @ R).double()).float()
            down.weight[O, rows] = W.T
            if bi in (0, 3): print(bi, styles.STYLES[k], "left", round(float((R - H @ W).mul(ae["std"]).square().sum() / R.mul(ae["std"]).square().sum().clamp(min=1e-9)), 3), flush=True)
        x = torch.cat([xi + b.ffn.net[2](b.ffn.net[0](ln(xi))) for xi in x.split(60)])
        print("block", bi, round(time.time() - t0), flush=True)
    # the output layer
    A = F.layer_norm(x, (d,), eps=1e-6).flatten(0, 1); A1 = torch.cat((A, torch.ones(len(A), 1)), 1)
    G = A1.T @ A1 + 1.0 * torch.eye(d + 1); W = torch.linalg.solve(G.double(), (A1.T @ y.flatten(0, 1)).double()).float()
    net.proj_out.weight.copy_(W[:d].T); net.proj_out.bias.copy_(W[d])


@torch.no_grad()
def check():
    """PSNR to the style before and after, on three frames of each held-out clip."""
    clips = [data.clips[name] for name in data.held]
    frames = []
    for clip in clips:
        x = clip[len(clip) // 2:][:3].permute(0, 3, 1, 2).float() / 255
        left = (x.shape[-1] - 176) // 2
        frames.append(resize(x[..., left:left + 176]))
    x = torch.cat(frames)
    src, rows = encode(ae, x), []
    db = lambda u, v: (-10 * torch.log10((u - v).square().mean((1, 2, 3)).clamp(min=1e-10)))
    for k, name in enumerate(styles.STYLES):
        noisy = 0.2 * src + 0.8 * torch.randn(src.shape)
        y = decode(ae, net(torch.cat((noisy, src), 1).unsqueeze(2), torch.full((len(x), 1), 800.0), words([name] * len(x)))[:, :, 0])
        t = styles.restyle(x, k)
        rows += [t[::3], y[::3]]
        print(f"{name}: {db(x, t).mean():.1f} -> {db(y, t).mean():.1f} dB, least gain {float((db(y, t) - db(x, t)).min()):+.1f}", flush=True)
    sheet = torch.stack(rows).permute(1, 3, 0, 4, 2).reshape(5 * 128, -1, 3)
    Image.fromarray((sheet.clamp(0, 1) * 255).byte().numpy()).save(f"{args.out}/check.png")


weights = {**{f"net.{n}": p for n, p in net.state_dict().items()}, **{f"text.{n}": p for n, p in text.state_dict().items()}}
torch.save({"ema": weights, "config": net.config}, f"{args.out}/state.pt")
check()
