"""An AutoencoderKL that speaks the teacher's latent space.

    train_autoencoder.py --data emoji.pt --out VAE_FOLDER [--minutes 25] [--start VAE_FOLDER] [--part encoder]

The encoder's means regress the teacher's latents; the decoder turns slightly noised teacher latents into pixels, judged by L1, L2 and the
L1 of the differences between neighbours (outlines). The first half of the time on 64 px crops, the rest on whole pictures. --start goes on
from a folder (also the way to resume: the averaged weights are saved every five minutes); --part trains only one half. In the end the log-variance half of the
encoder's output is fixed to -20, so that sampling gives the mean."""
import argparse
import copy
import os
import random
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from common import LATENT_STD, pixels

PEAK = 2e-3


def fresh():
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=32, sample_size=128, scaling_factor=1 / LATENT_STD, block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=8,
        mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False)


def psnr(a, b):
    return (10 * torch.log10(4 / (a - b).square().mean((1, 2, 3)))).mean().item()


def outline(a, b):
    return sum(F.l1_loss(a.diff(dim=d), b.diff(dim=d)) for d in (-1, -2))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--start")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--part", choices=("both", "encoder", "decoder"), default="both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    chance = random.Random(args.seed)
    data = torch.load(args.data)
    images, latents = data["images"], data["latents"]
    order = torch.randperm(len(images))
    held, train = order[:32], order[32:]
    vae = (AutoencoderKL.from_pretrained(args.start).float() if args.start else fresh()).train()
    mean = copy.deepcopy(vae).eval()
    vae = vae.to(memory_format=torch.channels_last)
    trained = [p for n, p in vae.named_parameters() if args.part == "both" or n.startswith(args.part)]
    for p in vae.parameters():
        p.requires_grad_(any(p is q for q in trained))
    adam = torch.optim.AdamW(trained, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    # the half for the log-variance is only fixed at the end; a folder that is gone on from has it fixed already
    begin, saved, step = time.time(), time.time(), 0
    while (done := (time.time() - begin) / 60 / args.minutes) < 1:
        peak = PEAK * (0.2 if args.start else 1.0)
        adam.param_groups[0]["lr"] = peak * min(1, (step + 1) / 20) * (1 if done < 0.5 else max(0.02, 2 * (1 - done)))
        crops = done < 0.5 and args.part != "encoder"
        index = train[torch.randint(0, len(train), (24 if crops else 8,))]
        x, z = pixels(images[index]), latents[index].float()
        if crops:
            i, j = chance.randint(0, 8), chance.randint(0, 8)
            x, z = x[:, :, 8 * i:8 * i + 64, 8 * j:8 * j + 64], z[:, :, i:i + 8, j:j + 8]
        loss = 0
        with torch.autocast("cpu", torch.bfloat16):
            if args.part != "decoder":
                encoded = vae.encoder(x.contiguous(memory_format=torch.channels_last))
            if args.part != "encoder":
                decoded = vae.decoder((z + 0.05 * torch.randn_like(z)).contiguous(memory_format=torch.channels_last))
        if args.part != "decoder":
            encoded = encoded.float()[:, :32]
            loss = loss + F.mse_loss(encoded, z) + 0.2 * F.l1_loss(encoded, z)
        if args.part == "encoder":  # through the resting decoder, so that what it cannot mend counts most
            with torch.autocast("cpu", torch.bfloat16):
                around = vae.decoder(encoded.contiguous(memory_format=torch.channels_last))
            loss = loss + 8 * F.mse_loss(around.float(), x)
        else:
            decoded = decoded.float()
            loss = loss + F.mse_loss(decoded, x) + F.l1_loss(decoded, x) + outline(decoded, x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        adam.zero_grad()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(mean.parameters()), list(vae.parameters()), 1 - min(0.998 if args.part == 'both' else 0.98, (1 + step) / (10 + step)))
            if step % 100 == 0:
                x, z = pixels(images[held]), latents[held].float()
                print(f"{(time.time() - begin) / 60:.1f} min, step {step}: decoder {psnr(mean.decoder(z).clamp(-1, 1), x):.2f} dB, "
                      f"round trip {psnr(mean.decoder(mean.encoder(x)[:, :32]).clamp(-1, 1), x):.2f} dB", flush=True)
        if time.time() - saved > 300:
            mean.save_pretrained(args.out)
            saved = time.time()
    with torch.no_grad():
        mean.encoder.conv_out.weight[32:] = 0
        mean.encoder.conv_out.bias[32:] = -20
    os.makedirs(args.out, exist_ok=True)
    mean.save_pretrained(args.out)


if __name__ == "__main__":
    main()
