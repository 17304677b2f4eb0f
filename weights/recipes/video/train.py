"""Stage 2 of the restyler: gradient descent from the weights of `fit.py`, all styles and all weights together.

    train.py --data data.pt --tokenizer TOKENIZER_FOLDER --run run --until HH:MM

Clips of one or two frames, each frame at a noise level of its own, the second attends to the first as a stream's window does. The loss counts decibels: the logarithm of
each frame's error over decoded pixels (the decoder is linear with orthogonal rows, so latents times deviations are enough), and that of the error of the step between the
frames, which is what flickers. It saves as it goes, goes on from where it was, and lowers its rate towards the end of its time."""
import argparse
import datetime
import math
import os
import random
import time

import torch

import pictures
import styles
from judge import held_out, judge, line
from layout import C, CODE, CONST, DIM, FFN, FULL, HEADS, LAYERS, N, U
from model import Wan
from pictures import Pictures, decode, encode
from prompts import Words, prompt

# Styles of a batch: one of each, and further chances for those with most left to learn.
EXTRA = ("posterised cartoon", "posterised cartoon", "oil painting", "pencil sketch", "blueprint", "ink edges")
MORE, CLIPS, TOGETHER, FLICKER = 2, 6, 4, 0.3


def steps_of(name, weight):
    """How far a step of Adam at rate 1 may move each value: about the size of its row, so that fitted units of very different sizes move alike. Zero for what the fit
    already settled: the words, the code, the constant, where blocks 0 and 1 look, and what time does."""
    rows = lambda x: x.abs().mean(1, keepdim=True).clamp(min=0.2 * float(x.abs().mean()))
    still = [*range(CODE.start, CODE.stop), *U]
    if name.endswith("ffn.net.0.proj.weight"):
        out = rows(weight[:, :N.stop]).expand_as(weight).clone()
    elif name.endswith(("ffn.net.2.weight", "attn1.to_out.0.weight", "proj_out.weight", "patch_embedding.weight")):
        out = rows(weight.flatten(1)).clamp(min=1e-3).expand_as(weight.flatten(1)).clone()
        if len(out) == DIM:
            out[still] = 0
        out = out.view_as(weight)
    elif name.endswith("attn1.to_v.weight") or (name.endswith(("attn1.to_q.weight", "attn1.to_k.weight")) and name[11] in "23"):
        out = rows(weight).clamp(min=5e-3).expand_as(weight).clone()
    elif name.endswith(("ffn.net.0.proj.bias", "attn1.to_v.bias", "proj_out.bias")):
        out = torch.full_like(weight, 0.01)
    else:
        return torch.zeros_like(weight)
    if weight.dim() == 2 and weight.shape[1] == DIM:
        # The norm hands the constant on some hundred times larger than the rest.
        out[:, list(U)] /= CONST
    return out


class Adam:
    """Adam whose steps are relative to the size of what they change (as Adafactor's are, arXiv 1804.04235)."""

    def __init__(self, named, mean=0.9, square=0.98):
        self.parameters, self.mean, self.square, self.count = list(named.values()), mean, square, 0
        self.sizes = [steps_of(name, p.detach()) for name, p in named.items()]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, rate):
        self.count += 1
        gradients = [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.first, gradients, 1 - self.mean)
        torch._foreach_mul_(self.second, self.square)
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - self.square)
        size = torch._foreach_sqrt(self.second)
        torch._foreach_add_(size, 1e-12)
        update = torch._foreach_div(self.first, size)
        torch._foreach_mul_(update, self.sizes)
        correction = (1 - self.square ** self.count) ** 0.5 / (1 - self.mean ** self.count)
        torch._foreach_add_(self.parameters, update, alpha=-rate * correction)

    def state(self):
        return {"first": self.first, "second": self.second, "count": self.count, "sizes": self.sizes}

    def load(self, state):
        self.first, self.second, self.count, self.sizes = state["first"], state["second"], state["count"], state["sizes"]


def deck(rng):
    """Styles in the order they come, for ever."""
    while True:
        cards = list(range(10)) + [styles.STYLES.index(name) for name in rng.sample(EXTRA, MORE)]
        rng.shuffle(cards)
        yield from cards


def batch(data, autoencoder, kinds, frames):
    """Latents of pictures and styled pictures `[clips, C, frames, 16, 16]`."""
    sources = [pictures.source(data, frames) for _ in kinds]
    targets = [styles.restyle(x, k) for x, k in zip(sources, kinds)]
    latents = lambda x: encode(autoencoder, torch.cat(x)).unflatten(0, (-1, frames)).transpose(1, 2)
    return latents(sources), latents(targets)


def noised(clean, level):
    # A stream holds its noise from frame to frame; now and then it is drawn anew.
    noise = torch.randn(clean.shape)
    held = torch.rand(clean.shape[0], 1, 1, 1, 1) < 0.7
    return (1 - level) * clean + level * torch.where(held, noise[:, :, :1], noise)


def forced(net, src, target, text):
    """Noisy latents, levels `[clips, frames]` and the latents wanted: each frame at a level of its own (diffusion forcing, arXiv 2407.01392), beginning as a stream does with
    the picture and noise; in a third of the batches one step further, with the model's own prediction in the picture's place (self-forcing, arXiv 2506.08009)."""
    shape = (src.shape[0], 1, src.shape[2], 1, 1)
    level = torch.where(torch.rand(shape) < 0.75, 0.6 + 0.4 * torch.rand(shape), 0.02 + 0.58 * torch.rand(shape))
    noisy = noised(src, level)
    if float(torch.rand(())) < 0.33:
        with torch.no_grad():
            made = net(torch.cat((noisy, src), 1), 1000 * level[:, 0, :, 0, 0], text)
        level = level / 2
        noisy = noised(made, level)
    kept = (1 - 1000 * level / FULL).clamp(min=0)
    return noisy, level[:, 0, :, 0, 0], target + kept * (src - target)


def losses(made, wanted, std):
    """Logarithm of the error of the frames and of the steps between them; the error of each clip."""
    difference = (made - wanted) * std
    # 48 of 192 pixel values a latent, in -1..1.
    frame = difference.square().mean((1, 3, 4)) / 16
    loss = torch.log(frame + 2e-5).mean()
    if frame.shape[1] > 1:
        change = lambda x: (x[:, :, 1:] - x[:, :, :-1]).square().mean((1, 2, 3, 4)) / 16
        loss = loss + FLICKER * torch.log1p(change(difference) / (change(wanted * std) + 4e-6)).mean()
    return loss, frame.detach().mean(1)


@torch.no_grad()
def check(net, words, autoencoder, data, frames=5):
    clips = held_out(data, frames)
    src = encode(autoencoder, clips.flatten(0, 1)).unflatten(0, (-1, frames)).transpose(1, 2)
    noise = torch.randn(src[:, :, :1].shape)
    for k, name in enumerate(styles.STYLES):
        z = net(torch.cat((0.2 * src + 0.8 * noise, src), 1), torch.full((len(clips), frames), 800.0), words([name] * len(clips)))
        print("   ", line(k, judge(clips, decode(autoencoder, z.transpose(1, 2).flatten(0, 1)).view_as(clips), k)), flush=True)


def load(run, net, words):
    """The weights to go on from; the state they were saved in."""
    path = f"{run}/trained.pt"
    state = torch.load(path if os.path.exists(path) else f"{run}/state.pt")
    weights = state.get("weights", state["ema"])
    net.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("net.")})
    words.encoder.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("text.")})
    return state


def work(rank, args, end):
    """One of `args.workers` processes of one thread; they average their weights every `TOGETHER` steps (local SGD, arXiv 1805.09767), which suffers a busy machine
    better than threads do."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{args.run}/meeting-{os.getppid()}", rank=rank, world_size=args.workers)
    seed = int(time.time()) + 1000 * rank
    torch.manual_seed(seed); pictures.rng.seed(seed)
    rng = random.Random(seed)
    data, autoencoder = Pictures(args.data), torch.load(f"{args.run}/autoencoder.pt")
    words, net = Words(args.tokenizer), Wan(C, DIM, HEADS, LAYERS, FFN, 128, 1)
    state = load(args.run, net, words)
    named = {f"net.{n}": p for n, p in net.named_parameters()}
    named = {n: p for n, p in named.items() if steps_of(n, p.detach()).any()}
    for n, p in net.named_parameters():
        p.requires_grad_(f"net.{n}" in named)
    parameters, everything = list(named.values()), {f"net.{n}": p.detach() for n, p in net.named_parameters()} | {f"text.{n}": p.detach() for n, p in words.encoder.state_dict().items()}
    optimiser, average = Adam(named), [p.detach().clone() for p in parameters]
    if "optimiser" in state:
        optimiser.load(state["optimiser"])
        average = [state["ema"][n].clone() for n in named]
    began, std, cards = state.get("began", time.time()), autoencoder["std"].view(1, C, 1, 1, 1), deck(rng)
    checked = saved = time.time()
    tally, done = torch.zeros(2, 10), False
    while not done:
        for _ in range(TOGETHER):
            frames = 1 + optimiser.count % 2
            kinds = [next(cards) for _ in range(CLIPS * 2 // frames)]
            src, target = batch(data, autoencoder, kinds, frames)
            with torch.no_grad():
                text = words([prompt(styles.STYLES[k], rng) for k in kinds])
            noisy, level, wanted = forced(net, src, target, text)
            made = net(torch.cat((noisy, src), 1), 1000 * level, text)
            loss, error = losses(made, wanted, std)
            loss.backward()
            # Warm-up, then a cosine over the time there is.
            part = min(1.0, (time.time() - began) / (end - began))
            rate = args.rate * min(1.0, 0.03 + optimiser.count / 40) * (0.02 + 0.49 * (1 + math.cos(math.pi * part)))
            optimiser.step(rate)
            for p in parameters:
                p.grad = None
            for k, e in zip(kinds, error):
                tally[:, k] += torch.tensor((-10 * math.log10(e), 1.0))
        flat = torch.cat([p.detach().flatten() for p in parameters] + [torch.tensor([float(time.time() >= end)])])
        torch.distributed.all_reduce(flat)
        flat /= args.workers
        done = float(flat[-1]) > 0
        with torch.no_grad():
            for p, values in zip(parameters, flat[:-1].split([p.numel() for p in parameters])):
                p.copy_(values.view_as(p))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], max(1 / (1 + optimiser.count / TOGETHER), 0.05))
        if rank > 0:
            continue
        if optimiser.count % (4 * TOGETHER) == 0:
            print(f"{datetime.datetime.now():%H:%M:%S} step {optimiser.count} rate {rate:.1e} dB " + " ".join(f"{v:.1f}" for v in tally[0] / tally[1].clamp(min=1)), flush=True)
            tally.zero_()
        now = time.time()
        if now - saved > 120 or done:
            contents = {"ema": everything | dict(zip(named, average)), "weights": everything, "config": net.config, "optimiser": optimiser.state(), "began": began}
            torch.save(contents, f"{args.run}/trained.pt.part")
            os.replace(f"{args.run}/trained.pt.part", f"{args.run}/trained.pt")
            saved = now
        if now - checked > 60 * args.check_minutes or done:
            current = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                torch._foreach_copy_(parameters, average)
                check(net, words, autoencoder, data)
                torch._foreach_copy_(parameters, current)
            checked = time.time()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--tokenizer", "--run", "--until"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check-minutes", type=float, default=10)
    args = parser.parse_args()
    end = datetime.datetime.combine(datetime.date.today(), datetime.time.fromisoformat(args.until)).timestamp()
    torch.multiprocessing.spawn(work, (args, end), args.workers)


if __name__ == "__main__":
    main()
