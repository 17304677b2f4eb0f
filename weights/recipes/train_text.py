"""First stage: the text encoder learns to tell the names apart, without the transformer.

    train_text.py --data emoji.pt --start PIPELINE --out CHECKPOINT --minutes 8

From the mean of a caption's token vectors one linear head has to predict the picture's latents (pooled to 8x8 and 4x4, standardised),
a second one the emoji, a third one the background. The heads are thrown away; the encoder comes out with vectors that carry the picture."""
import argparse
import random
import time

import torch
import torch.nn.functional as F
from torch import nn

import pair
from common import COLOURS, LATENT_STD, TOKENS, caption
from families import family, text_states


def work(rank, count, args):
    torch.manual_seed(args.seed)
    chance = random.Random(args.seed + rank)
    data = torch.load(args.data)
    colours = list(COLOURS)
    usable = torch.tensor([i for i, v in enumerate(data["variant"]) if v != 1])
    ground = torch.tensor([colours.index(b) for b in data["background"]])
    owner = torch.tensor(data["owner"])
    latents = data["latents"].float() / LATENT_STD
    coarse = torch.cat([F.adaptive_avg_pool2d(latents, 8).flatten(1), 2 * F.adaptive_avg_pool2d(latents, 4).flatten(1)], 1)
    coarse = (coarse - coarse.mean(0)) / coarse.std(0).clamp_min(1e-3)
    kind = family(args.start)
    tokenizer = kind.tokenizer(f"{args.start}/tokenizer")
    encoder = kind.encoder.from_pretrained(f"{args.start}/text_encoder").float().train()
    heads = nn.ModuleList([nn.Linear(256, coarse.shape[1]), nn.Linear(256, len(data["names"])), nn.Linear(256, len(colours))])
    adam = torch.optim.AdamW([dict(params=encoder.parameters(), lr=1.5e-3), dict(params=heads.parameters(), lr=3e-3)], betas=(0.9, 0.98), weight_decay=0.0)
    peaks = [g["lr"] for g in adam.param_groups]
    torch.manual_seed(args.seed + rank)
    trained = list(encoder.parameters()) + list(heads.parameters())
    begin, step = time.time(), 0
    while (done := pair.agreed_number((time.time() - begin) / 60 / args.minutes)) < 1:
        for group, peak in zip(adam.param_groups, peaks):
            group["lr"] = peak * min(1, (step + 1) / 40) * (1 if done < 0.5 else max(0.03, 2 * (1 - done)))
        index = usable[torch.randint(0, len(usable), (args.batch // count,))]
        words = [caption(data, data["owner"][i], data["background"][i], chance) for i in index.tolist()]
        tokens = tokenizer(words, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        mask = tokens["attention_mask"]
        hidden = text_states(kind, encoder, tokens)
        mean = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        picture, which, colour = heads[0](mean), heads[1](mean), heads[2](mean)
        full = torch.tensor([bool(w) for w in words])
        named = torch.tensor([any(n.lower() in w.lower() for n in [data["names"][data["owner"][i]]] + data["others"][data["owner"][i]]) for w, i in zip(words, index.tolist())])
        error = F.mse_loss(picture[full], coarse[index[full]])
        loss = error + 0.15 * F.cross_entropy(which[named], owner[index[named]]) + 0.1 * F.cross_entropy(colour[full], ground[index[full]])
        loss.backward()
        pair.mean_gradients(trained, count)
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        step += 1
        if rank == 0 and step % 20 == 0:
            right = (which[named].argmax(1) == owner[index[named]]).float().mean().item()
            print(f"{time.time() - begin:.0f} s, step {step}: coarse error {error.item():.3f}, names right {right:.3f}", flush=True)
        if rank == 0 and step % 200 == 0:
            encoder.save_pretrained(args.out)
    if rank == 0:
        encoder.save_pretrained(args.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--start", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    pair.run(work, args, args.processes)


if __name__ == "__main__":
    main()
