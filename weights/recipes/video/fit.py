"""Stage 1 of the restyler: weights in closed form, minutes of one core, no gradient descent but for the words. `train.py` goes on from here.

    fit.py --data data.pt --tokenizer TOKENIZER_FOLDER --out run [--text MODEL_FOLDER/text_encoder] [--words STATE]

1. Autoencoder: principal components of 8x8 patches.
2. Words: text encoder, text projection and the first block's cross-attention learn to write a prompt's style as a code of ten numbers into the hidden states.
3. Transformer. Hidden states hold the picture's latents (S), the output so far (O), what is near in the eight neighbouring patches (N), the style's code and a large
   constant of either sign, which makes the norms nearly linear. Self-attention of blocks 0 and 1 fetches the neighbours: constant queries and keys whose rotations agree at
   one offset in space and none in time. The hidden units of the feed-forward layers are chosen, style by style and block by block, from a thousand candidates
   (`dictionary.py`) by orthogonal matching pursuit on what is left of the error, and weighed by ridge regression; a unit is silent under other styles.

`run/state.pt` and `run/autoencoder.pt` are what `train.py` and `export.py` read."""
import argparse
import math
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

import dictionary
import pictures
import styles
from judge import held_out, judge, line
from layout import C, CODE, CONST, DIM, FFN, FREE, FULL, HEADS, LAYERS, O, S, U, centred, neighbours
from model import Wan, rope_tables, rotate, sdpa
from pictures import Pictures, decode, encode
from prompts import Words, prompt

FRAMES, STEPS, CANDIDATES = 140, 500, 900
AMPLITUDE, FLICKER, DOUBT = 13.0, 0.3, 0.01
# Hidden units of each style in the first block, which also does what is linear, and in the others.
UNITS = ((48, 64, 160, 192, 256, 152, 88, 72, 192, 56), (16, 32, 176, 208, 288, 160, 88, 56, 208, 48))


def code_of(attention, states):
    """What the first block's cross-attention writes for text states: its query is the same everywhere, so it finds the word that tells the style however long the prompt."""
    q, k, v = attention.qkv(torch.zeros(len(states), 1, DIM), states)
    return attention.to_out[0](sdpa(q, k, v))[:, 0]


def learn_words(words, net, rng):
    """The style's code, from the words: the only gradients of this stage."""
    attention, embedder = net.blocks[0].attn2, net.condition_embedder.text_embedder
    with torch.no_grad():
        nn.init.normal_(attention.to_v.weight, std=0.07); nn.init.normal_(attention.to_k.weight, std=0.07)
        attention.to_q.weight.zero_(); nn.init.normal_(attention.to_q.bias)
        attention.to_out[0].weight[CODE] = 0.1 * torch.randn(10, DIM)
    learnt = (attention.to_v, attention.to_k, attention.norm_k)
    parameters = [*words.encoder.parameters(), *embedder.parameters(), attention.to_q.bias, attention.to_out[0].weight, *(p for layer in learnt for p in layer.parameters())]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0)
    for i in range(STEPS):
        # The names themselves in every batch: nothing else is asked for so often.
        kinds = [*range(10), *(rng.randrange(10) for _ in range(38))]
        code = code_of(attention, embedder(words([*styles.STYLES, *(prompt(styles.STYLES[k], rng) for k in kinds[10:])])))
        want = torch.zeros(len(kinds), DIM)
        want[range(len(kinds)), [CODE.start + k for k in kinds]] = 1
        loss = (code - want)[:, CODE].square().mean() * 10 + (code - want).square().mean()
        optimiser.zero_grad(); loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * (i + 1) / STEPS)) + 1e-6
        if i % 50 == 49:
            print("code", i, f"{loss.item():.5f}", flush=True)


def keep_words(words, net, weights):
    words.encoder.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("text.")})
    kept = ("condition_embedder.text_embedder.", "blocks.0.attn2.")
    net.load_state_dict({k[4:]: v for k, v in weights.items() if k[4:].startswith(kept)}, strict=False)


def blank(net):
    """All weights that the fit does not set: silent, or small where gradients are to find them."""
    with torch.no_grad():
        patch = torch.zeros(DIM, 2 * C)
        patch[S, C:] = torch.eye(C)
        net.patch_embedding.weight.copy_(patch.view(DIM, 2 * C, 1, 1, 1))
        net.patch_embedding.bias.zero_()
        net.patch_embedding.bias[U[0]], net.patch_embedding.bias[U[1]] = CONST, -CONST
        for layer in (net.condition_embedder.time_embedder.linear_2, net.condition_embedder.time_proj):
            nn.init.zeros_(layer.weight); nn.init.zeros_(layer.bias)
        net.scale_shift_table.zero_()
        for block in net.blocks:
            block.scale_shift_table.zero_()
            block.scale_shift_table[0, 2] = 1; block.scale_shift_table[0, 5] = 1
            for attention in (block.attn1, block.attn2):
                for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
                    nn.init.normal_(layer.weight, std=0.01); nn.init.zeros_(layer.bias)
                attention.to_out[0].weight.zero_()


def pattern(dt, dy, dx, head=DIM // HEADS):
    """A constant query whose rotation meets that of the constant key at one offset."""
    space = 2 * (head // 6)
    frequency = lambda n: 1 / 10000 ** (torch.arange(0, n, 2).double() / n)
    angles = torch.cat((dt * frequency(head - 2 * space), dy * frequency(space), dx * frequency(space)))
    return torch.stack((angles.cos(), angles.sin()), -1).flatten().float()


def look(attention, offsets, amplitude=AMPLITUDE):
    """One offset (frames, rows, columns) a head."""
    attention.to_q.weight.zero_(); attention.to_k.weight.zero_()
    attention.to_k.bias.copy_(pattern(0, 0, 0).repeat(HEADS))
    attention.to_q.bias.copy_(torch.cat([pattern(*offset) for offset in offsets]))
    attention.norm_q.weight.fill_(amplitude / 2 ** 0.5); attention.norm_k.weight.fill_(amplitude / 2 ** 0.5)


def fetch(attention, places, level):
    """Head h carries what is near in neighbour `places[h]` to that neighbour's place in N."""
    attention.to_v.weight.zero_(); attention.to_v.bias.zero_(); attention.to_out[0].weight.zero_()
    for head, (rows, near) in enumerate(places):
        first = head * DIM // HEADS
        attention.to_v.weight[first:first + near.shape[1], S] = near.T
        for j, row in enumerate(range(rows.start, rows.stop)):
            attention.to_out[0].weight[row, first + j] = level
    centred(attention.to_v.weight)


def norm(x):
    return F.layer_norm(x, (DIM,), eps=1e-6)


def attend(block, x, rope, text):
    out = []
    for xi, ti in zip(x.split(48), text.split(48)):
        q, k, v = block.attn1.qkv(norm(xi), norm(xi))
        xi = xi + block.attn1.to_out[0](sdpa(rotate(q, *rope), rotate(k, *rope), v))
        q, k, v = block.attn2.qkv(block.norm2(xi), ti)
        out.append(xi + block.attn2.to_out[0](sdpa(q, k, v)))
    return torch.cat(out)


def pursue(gram, target, count):
    """Orthogonal matching pursuit on normal equations: `gram` [n, n], `target` [n, outputs] to the `count` best columns, the first of all among them."""
    gram, target = gram.clone(), target.clone()
    floor, chosen = gram.diagonal() * 1e-4 + 1e-9, []
    for _ in range(count):
        size = gram.diagonal().clamp(min=0) + floor
        gain = target.square().sum(1) / size
        gain[chosen] = -1
        best = int(gain.argmax()) if chosen else 0
        chosen.append(best)
        column = gram[:, best] / size[best]
        target -= torch.outer(column, target[best])
        gram -= torch.outer(column, gram[best])
    return chosen


def ridge(features, target, weight, strength=1e-6):
    """`features` [n, k], `target` [n, outputs], `weight` [n] to [k, outputs]."""
    weighted = features * weight[:, None]
    gram = (weighted.T @ features).double()
    gram += (strength * gram.trace() / len(gram) + 1e-4) * torch.eye(len(gram))
    return torch.linalg.solve(gram, (weighted.T @ target).double()).float()


def steps(x):
    """Rows of both frames of each pair, then of the step between them; `[2 * pairs, tokens, k]` to `[3 * pairs * tokens, k]`."""
    return torch.cat((x.flatten(0, 1), (x[1::2] - x[::2]).flatten(0, 1)))


def emphasis(left, wanted, std):
    """Weight of each row of `steps`: decibels count, so frames that are nearly right weigh more, and steps that are small (what flickers is the step's error over the
    style's own step). The weights of iterated least squares for the loss of `train.py`."""
    mean = lambda x: (x * std).square().mean((1, 2)) / 16
    step, own = mean(left[1::2] - left[::2]), mean(wanted[1::2] - wanted[::2])
    weight = torch.cat((1 / (mean(left) + 1e-4), FLICKER * 2 / (step + own + 4e-6).clamp(min=2e-5)))
    return (weight / weight.mean())[:, None].expand(-1, left.shape[1]).flatten()


def fit_block(net, index, x, y, std, codes, rng):
    """Chooses and weighs the hidden units of block `index`; `x` [styles, frames, tokens, DIM], `y` the latents wanted, `codes` each style's code for its own name."""
    first, second = net.blocks[index].ffn.net[0].proj, net.blocks[index].ffn.net[2]
    for parameter in (first.weight, first.bias, second.weight, second.bias):
        parameter.zero_()
    level, units = float(x.square().mean(-1).sqrt().mean()), UNITS[min(index, 1)]
    every = norm(x[:, ::2, ::3]).flatten(0, 2)
    for k, name in enumerate(styles.STYLES):
        left = y[k] - x[k][..., O]
        weight, left, tokens = emphasis(left, y[k], std), steps(left), norm(x[k])
        held = steps(tokens[..., dictionary.HELD] - tokens[..., FREE.start:FREE.start + 1]) * level
        linear = ridge(torch.cat((held, torch.cat((torch.ones(tokens.shape[0] * 256, 1), torch.zeros(tokens.shape[0] * 128, 1)))), 1), left, weight, 1e-4)[:-1] * std
        directions = dictionary.candidates(name, index, linear, CANDIDATES, rng)
        some = torch.randperm(256)[:80]
        places = torch.arange(len(left)).view(-1, 256)[:, some].flatten()
        hidden = steps(F.gelu(F.linear(tokens[:, some], directions * level), approximate="tanh"))
        weighted = hidden * weight[places, None]
        rows = slice(sum(units[:k]), sum(units[:k + 1]))
        chosen = pursue((weighted.T @ hidden).double(), (weighted.T @ (left[places] * std)).double(), units[k])
        chosen = directions[chosen] * level
        # What silences a unit under other styles, whatever the picture; against the constant, so that it cancels exactly under this one.
        gate = F.linear(every, chosen).amax(0).clamp(min=0) * 1.15 + 6
        chosen[:, CODE.start + k] = gate * level / codes[k]
        chosen[:, U[0]] -= gate * level / CONST
        centred(chosen)
        hidden = steps(F.gelu(F.linear(tokens, chosen), approximate="tanh"))
        solution = ridge(hidden, left, weight)
        first.weight[rows], second.weight[O, rows] = chosen, solution.T
        frames = tokens.shape[0] * 256
        decibels = lambda x: float(-10 * torch.log10((x[:frames] * std).square().view(-1, 256 * C).mean(1) / 16).mean())
        print(f"block {index} {name}: {decibels(left):.1f} -> {decibels(left - hidden @ solution):.1f} dB", flush=True)


@torch.no_grad()
def fit(net, words, autoencoder, data, rng):
    src, y = [], []
    for k in range(10):
        x = torch.cat([pictures.source(data, 2) for _ in range(FRAMES // 2)])
        src.append(encode(autoencoder, x))
        y.append(encode(autoencoder, styles.restyle(x, k)))
    print("data", flush=True)
    src, y = torch.cat(src), torch.stack(y).flatten(3).transpose(2, 3)
    std, places, rope = autoencoder["std"], neighbours(autoencoder), rope_tables(1, 16, 16, DIM // HEADS)
    dictionary.prepare(autoencoder, places)
    text = net.condition_embedder.text_embedder(words(list(styles.STYLES))).repeat_interleave(FRAMES, 0)
    x = net.patch_embedding(torch.cat((torch.zeros_like(src), src), 1).unsqueeze(2)).flatten(2).transpose(1, 2)
    for index, block in enumerate(net.blocks):
        if index < 2:
            look(block.attn1, [offset for offset, _, _ in places[4 * index:4 * index + 4]])
            fetch(block.attn1, [place[1:] for place in places[4 * index:4 * index + 4]], float(x.square().mean(-1).sqrt().mean()))
        else:
            look(block.attn1, [(-1, 0, 0), (0, 0, 0), (0, -1, 0), (0, 0, -1)], 4.0)
        x = attend(block, x, rope, text)
        if index == 0:
            codes = x.view(10, FRAMES, 256, DIM)[:, 0, 0, CODE].diagonal().tolist()
            # Other words for a style do not reach its code exactly; what is fitted has to bear that.
            x.view(10, FRAMES // 2, 2, 256, DIM)[..., CODE] += DOUBT * torch.randn(10, FRAMES // 2, 1, 1, 10)
        fit_block(net, index, x.view(10, FRAMES, 256, DIM), y, std, codes, rng)
        x = torch.cat([xi + block.ffn.net[2](block.ffn.net[0](norm(xi))) for xi in x.split(32)])
    read_out(net, norm(x), y)


def read_out(net, states, wanted):
    """The output layer: the output so far above timestep `FULL`, below it more and more of the picture, which is what strength means here. The timestep's embedding moves
    from the dimensions of the output to those of the picture; as it is added to scales and shifts alike, both must carry the same weight for the shifts to cancel."""
    half = (FREE.start + FREE.stop) // 2
    made = (states[..., O] - states[..., FREE.start:FREE.start + 1]).flatten()
    weight = float(made @ wanted.flatten() / (made @ made))
    net.proj_out.weight.zero_(); net.proj_out.bias.zero_()
    groups = (list(range(O.start, O.stop)), list(range(FREE.start, half))), (list(range(S.start, S.stop)), list(range(half, FREE.stop)))
    for held, free in groups:
        net.proj_out.weight[:, held] = weight * torch.eye(C)
        net.proj_out.weight[:, free] = -weight / len(free)
    for dimensions in groups[1]:
        net.scale_shift_table[0, 1, dimensions] = -1
    embedder, t = net.condition_embedder.time_embedder, torch.arange(1001.0)
    hidden = F.silu(embedder.linear_1(net.condition_embedder.sinusoids(t)))
    kept = (1 - t / FULL).clamp(min=0)
    column = ridge(torch.cat((hidden, torch.ones(1001, 1)), 1), kept[:, None], torch.where(t < FULL, 1.0, 30.0), 1e-12)[:, 0]
    print("kept of the picture at", {int(at): round(float(hidden[at] @ column[:-1] + column[-1]), 3) for at in (0, 50, 100, 150, 200, 400, 700, 800, 1000)}, flush=True)
    for dimensions, sign in ((sum(groups[1], []), 1), (sum(groups[0], []), -1)):
        embedder.linear_2.weight[dimensions], embedder.linear_2.bias[dimensions] = sign * column[:-1], sign * column[-1]


@torch.no_grad()
def check(net, words, autoencoder, data):
    clips = held_out(data, 4)
    src = encode(autoencoder, clips.flatten(0, 1)).view(len(clips), 4, C, 16, 16).transpose(1, 2)
    for k, name in enumerate(styles.STYLES):
        noisy = 0.2 * src + 0.8 * torch.randn(src.shape[:2] + (1, 16, 16))
        z = net(torch.cat((noisy, src), 1), torch.full((len(clips), 4), 800.0), words([name] * len(clips)))
        made = decode(autoencoder, z.transpose(1, 2).flatten(0, 1)).view_as(clips)
        print(line(k, judge(clips, made, k)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--tokenizer", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--text", help="text encoder to begin from")
    parser.add_argument("--words", help="state whose words are kept as they are")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(1)
    rng, began = random.Random(1), time.time()
    data = Pictures(args.data)
    autoencoder = pictures.fit_autoencoder(data)
    torch.save(autoencoder, f"{args.out}/autoencoder.pt")
    words, net = Words(args.tokenizer), Wan(C, DIM, HEADS, LAYERS, FFN, 128, 1)
    if args.text:
        words.encoder.load_state_dict({k: v.float() for k, v in load_file(f"{args.text}/model.safetensors").items()}, strict=False)
    blank(net)
    if args.words:
        keep_words(words, net, torch.load(args.words)["ema"])
    else:
        learn_words(words, net, rng)
    print(f"words {time.time() - began:.0f} s", flush=True)
    fit(net, words, autoencoder, data, rng)
    weights = {**{f"net.{n}": p for n, p in net.state_dict().items()}, **{f"text.{n}": p for n, p in words.encoder.state_dict().items()}}
    torch.save({"ema": weights, "config": net.config}, f"{args.out}/state.pt")
    print(f"fitted {time.time() - began:.0f} s", flush=True)
    check(net, words, autoencoder, data)


if __name__ == "__main__":
    main()
