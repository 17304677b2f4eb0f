"""Second stage: the denoising network (PixArt transformer or U-Net), with the text encoder at a low rate.

    train_denoiser.py --data emoji.pt --start PIPELINE --text CHECKPOINT --out FOLDER --minutes 100 [--until HH:MM]

Writes FOLDER/state.pt (everything that is needed to go on; called again with the same --out it does go on) and FOLDER/log.csv.
The learning rate follows the wall clock, since the processor may be shared: warm-up, flat, and a fall to almost nothing over the last
40 %. Start with jemalloc preloaded (see the README of this folder)."""
import argparse
import copy
import csv
import datetime
import os
import random
import time

import torch
import torch.distributed
from diffusers import DDIMScheduler

import pair
from common import LATENT_STD, caption
from families import family, text_states, tokenize

KEEP = 0.995  # decay of the averaged weights


def draw_times(count):
    """More than a third of the steps at the noisy end, where the words decide the picture, a third in the middle, a third for detail."""
    which = torch.rand(count)
    noisy = torch.randint(880, 1000, (count,))
    middle = torch.randint(450, 880, (count,))
    detail = torch.sigmoid(torch.randn(count) * 1.2 - 0.5).mul(1000).long().clamp(0, 999)
    t = torch.where(which < 0.38, noisy, torch.where(which < 0.68, middle, detail))
    return torch.where(which < 0.07, torch.full_like(t, 999), t)


class Recognition:
    """The figure of recognition.py on a few names, cheap enough to be taken while training."""

    def __init__(self, kind, data, tokenizer, scheduler, names, rank, count):
        self.kind = kind
        plain = data["latents"].float().flatten(1) / LATENT_STD
        variant = torch.tensor(data["variant"])
        self.sides = plain[variant == 0], plain[variant == 1]
        self.total, self.rank = names, rank
        self.chosen = random.Random(0).sample(range(len(data["names"])), names)[rank::count]
        words = [data["names"][i] for i in self.chosen] + [""] * len(self.chosen)
        self.tokens = tokenize(tokenizer, words)
        self.scheduler = copy.deepcopy(scheduler)

    @torch.no_grad()
    def __call__(self, model, encoder, steps=10, scale=3.5):
        count = len(self.chosen)
        self.scheduler.set_timesteps(steps)
        x = torch.randn(count, 32, 16, 16, generator=torch.Generator().manual_seed(self.rank))
        mask = self.tokens["attention_mask"]
        text = text_states(self.kind, encoder, self.tokens)
        with torch.autocast("cpu", torch.bfloat16):
            for t in self.scheduler.timesteps:
                v = self.kind.predict(model, x.repeat(2, 1, 1, 1), t.expand(2 * count), text, mask).float()
                named, empty = v.chunk(2)
                x = self.scheduler.step(empty + scale * (named - empty), t, x).prev_sample
        x = x.flatten(1)
        order = torch.minimum(torch.cdist(x, self.sides[0]), torch.cdist(x, self.sides[1])).argsort(1)[:, :5].tolist()
        hits = torch.tensor([sum(o[0] == i for o, i in zip(order, self.chosen)), sum(i in o for o, i in zip(order, self.chosen))], dtype=torch.float64)
        torch.distributed.all_reduce(hits)
        return tuple(round(h, 3) for h in (hits / self.total).tolist())


def work(rank, count, args):
    torch.manual_seed(args.seed + rank)
    chance = random.Random(args.seed + rank)
    os.makedirs(args.out, exist_ok=True)
    data = torch.load(args.data)
    latents = data["latents"].float() / LATENT_STD
    variant, owners, grounds = torch.tensor(data["variant"]), data["owner"], data["background"]
    white = torch.tensor([i for i in range(len(owners)) if grounds[i] == "white" and variant[i] != 1])
    coloured = torch.tensor([i for i in range(len(owners)) if grounds[i] != "white"])
    kind = family(args.start)
    tokenizer = kind.tokenizer(f"{args.start}/tokenizer")
    scheduler = DDIMScheduler.from_pretrained(f"{args.start}/scheduler")
    model = kind.network.from_pretrained(f"{args.start}/{kind.part}").float().train()
    encoder = kind.encoder.from_pretrained(args.text or f"{args.start}/text_encoder").float().train()
    alphas = scheduler.alphas_cumprod

    matrices = [p for n, p in model.named_parameters() if kind.is_block_matrix(n, p)]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    owners_of = [i % count for i in range(len(matrices))]  # each process orthogonalises its share of the matrices
    muon = torch.optim.Muon([m for m, o in zip(matrices, owners_of) if o == rank], lr=2e-3 * args.rate, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW([dict(params=rest, lr=1e-3 * args.rate), dict(params=list(encoder.parameters()), lr=2.5e-4 * args.rate)], betas=(0.9, 0.98), weight_decay=0.0)
    groups = muon.param_groups + adam.param_groups
    peaks = [g["lr"] for g in groups]
    trained = list(model.parameters()) + list(encoder.parameters())
    mean_model, mean_encoder = copy.deepcopy(model).eval(), copy.deepcopy(encoder).eval()
    averaged = list(mean_model.parameters()) + list(mean_encoder.parameters())
    begin, step, seen, warm = pair.agreed_number(time.time()), 0, 0.0, 0

    path = f"{args.out}/state.pt"
    if os.path.exists(path):
        state = torch.load(path, weights_only=False)
        model.load_state_dict(state["model"]), encoder.load_state_dict(state["encoder"])
        mean_model.load_state_dict(state["mean_model"]), mean_encoder.load_state_dict(state["mean_encoder"])
        adam.load_state_dict(state["adam"])
        begin, step, seen = state["begin"], state["step"], state["seen"]
        own = torch.load(f"{args.out}/own{rank}.pt", weights_only=False)
        muon.load_state_dict(own["muon"]), torch.set_rng_state(own["torch_random"]), chance.setstate(own["random"])
        warm = step
        if rank == 0:
            print("goes on from step", step, flush=True)
    end = begin + 60 * args.minutes

    def clock(text):
        hour, minute = map(int, text.strip().split(":"))
        return datetime.datetime.now().replace(hour=hour, minute=minute, second=0).timestamp()

    if args.until:
        end = clock(args.until)

    def save():
        def put(content, where):
            torch.save(content, where + ".part")
            os.replace(where + ".part", where)

        put(dict(muon=muon.state_dict(), torch_random=torch.get_rng_state(), random=chance.getstate()), f"{args.out}/own{rank}.pt")
        if rank == 0:
            put(dict(model=model.state_dict(), encoder=encoder.state_dict(), mean_model=mean_model.state_dict(), mean_encoder=mean_encoder.state_dict(),
                     adam=adam.state_dict(), begin=begin, step=step, seen=seen), path)

    compiled = torch.compile(model)
    test = Recognition(kind, data, tokenizer, scheduler, args.test_names, rank, count)
    table = open(f"{args.out}/log.csv" if rank == 0 else os.devnull, "a", newline="")
    log = csv.writer(table)
    if rank == 0 and table.tell() == 0:
        log.writerow(["seconds", "step", "pictures", "loss", "loss_noisy", "top1", "top5"])
    saved = tested = pair.agreed_number(time.time())
    sums, spent = [], [0.0, 0.0, 0.0]
    share = args.batch // count
    while (now := pair.agreed_number(time.time())) < end:
        done = (now - begin) / (end - begin)
        scale = min(1, (step - warm + 1) / (20 if warm else 60)) * (1 if done < 0.6 else max(0.01, (1 - done) / 0.4))
        for group, peak in zip(groups, peaks):
            group["lr"] = peak * scale
        marks = [time.process_time()]
        few = int(share * 0.45)
        index = torch.cat([white[torch.randint(0, len(white), (few,))], coloured[torch.randint(0, len(coloured), (share - few,))]])
        x, t = latents[index], draw_times(share)
        a, noise = alphas[t].view(-1, 1, 1, 1), torch.randn_like(x)
        noisy, target = a.sqrt() * x + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x
        words = [caption(data, owners[i], grounds[i], chance) for i in index.tolist()]
        tokens = tokenize(tokenizer, words)
        text = text_states(kind, encoder, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            output = kind.predict(compiled, noisy, t, text, tokens["attention_mask"])
        each = (output.float() - target).square().mean((1, 2, 3))
        loss = each.mean()
        loss.backward()
        marks.append(time.process_time())
        pair.mean_gradients(trained, count)
        marks.append(time.process_time())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        muon.step(), adam.step()
        pair.share(matrices, owners_of)
        for p in trained:
            p.grad = None
        with torch.no_grad():
            torch._foreach_lerp_(averaged, trained, 1 - min(KEEP, (1 + step) / (10 + step)))
        marks.append(time.process_time())
        spent = [s + b - a for s, a, b in zip(spent, marks, marks[1:])]
        step, seen = step + 1, seen + args.batch
        sums.append((loss.item(), each[t >= 880].mean().item()))
        if step % 20 == 0:
            mean = [sum(c) / len(c) for c in zip(*sums)]
            sums, top = [], ("", "")
            if now - tested > 60 * args.test_every:
                top, tested = test(mean_model, mean_encoder), now
            log.writerow([round(time.time() - begin), step, int(seen), round(mean[0], 5), round(mean[1], 5), *top])
            table.flush()
            if rank == 0:
                print(f"{(time.time() - begin) / 60:.1f} min, step {step}: loss {mean[0]:.4f}, noisy end {mean[1]:.4f}, processor seconds a step (network, meeting, steps): {', '.join(f'{s / 20:.2f}' for s in spent)} {top if top[0] != '' else ''}", flush=True)
            spent = [0.0, 0.0, 0.0]
            if os.path.exists(f"{args.out}/until"):  # a file with HH:MM moves the end while training
                end = clock(open(f"{args.out}/until").read())
            if now - saved > 300:
                save()
                saved = now
    save()
    top = test(mean_model, mean_encoder)
    log.writerow([round(time.time() - begin), step, int(seen), "", "", *top])
    raw = test(model, encoder)
    if rank == 0:
        print("end", step, "averaged", top, "raw", raw)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--start", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--text")
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--until", help="wall clock time HH:MM that overrides --minutes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--test-every", type=float, default=12, help="minutes between recognition tests")
    parser.add_argument("--test-names", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    pair.run(work, args, args.processes)


if __name__ == "__main__":
    main()
