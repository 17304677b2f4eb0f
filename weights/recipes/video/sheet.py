"""Contact sheet of held-out clips in all styles: the input on the left, then every style as the model (above) and its formula (below) make it.

    sheet.py --data data.pt --state STATE.pt --autoencoder AUTOENCODER.pt --tokenizer TOKENIZER_FOLDER --out sheet.png [--clips 0,2,3]"""
import argparse

import torch
from PIL import Image

import styles
from judge import held_out
from layout import C, DIM, FFN, HEADS, LAYERS
from model import Wan
from pictures import Pictures, decode, encode
from prompts import Words


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--state", "--autoencoder", "--tokenizer", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--clips", default="0,2,4")
    args = parser.parse_args()
    torch.manual_seed(0)
    weights, autoencoder = torch.load(args.state)["ema"], torch.load(args.autoencoder)
    words, net = Words(args.tokenizer), Wan(C, DIM, HEADS, LAYERS, FFN, 128, 1)
    net.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("net.")})
    words.encoder.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("text.")})
    clips = held_out(Pictures(args.data), 3)[[int(clip) for clip in args.clips.split(",")]]
    src = encode(autoencoder, clips.flatten(0, 1)).unflatten(0, (-1, 3)).transpose(1, 2)
    columns = [torch.cat([torch.cat((clip[-1], torch.ones_like(clip[-1])), 1) for clip in clips], 1)]
    for k, name in enumerate(styles.STYLES):
        noisy = 0.2 * src + 0.8 * torch.randn(src[:, :, :1].shape)
        made = net(torch.cat((noisy, src), 1), torch.full((len(clips), 3), 800.0), words([name] * len(clips)))
        made, exact = decode(autoencoder, made[:, :, -1]), styles.restyle(clips[:, -1], k)
        columns.append(torch.cat([torch.cat((a, b), 1) for a, b in zip(made, exact)], 1))
    sheet = (torch.cat(columns, 2).clamp(0, 1) * 255).round().byte()
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(args.out, optimize=True)


main()
