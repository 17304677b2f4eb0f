"""An untrained StableDiffusionPipeline folder in the latent space of the built-in autoencoder, to begin the training from.

    start_unet.py --data emoji.pt --emoji weights/emoji --out FOLDER

The tokenizer is byte-pair encoding in CLIP's own format (vocab.json, merges.txt), learned from the captions of the training set."""
import argparse
import collections
import json
import os
import random
import re
import shutil

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from common import TOKENS, caption

MERGES = 1500


def byte_letters():
    """The printable stand-in of every byte, as byte-level encodings write it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in plain}
    for b in range(256):
        letters.setdefault(b, chr(256 + len(letters) - len(plain)))
    return [letters[b] for b in plain + [b for b in range(256) if b not in plain]], letters


def learn_merges(counts, letters):
    """Byte-pair merges by frequency; ties go to the alphabetically first pair, so the result is the same every time."""
    words = {tuple(letters[b] for b in w.encode()[:-1]) + (letters[w.encode()[-1]] + "</w>",): c for w, c in counts.items()}
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        merged = {}
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == best:
                    out.append(word[i] + word[i + 1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + count
        words = merged
    return merges


def write_tokenizer(data, folder):
    chance, counts = random.Random(0), collections.Counter()
    for _ in range(40):
        for owner, background in zip(data["owner"], data["background"]):
            counts.update(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", caption(data, owner, background, chance).lower()))
    order, letters = byte_letters()
    merges = learn_merges(counts, letters)
    tokens = order + [c + "</w>" for c in order] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    os.makedirs(folder, exist_ok=True)
    json.dump({t: i for i, t in enumerate(tokens)}, open(f"{folder}/vocab.json", "w", encoding="utf-8"), ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    config = dict(tokenizer_class="CLIPTokenizer", model_max_length=TOKENS, bos_token="<|startoftext|>", eos_token="<|endoftext|>",
                  unk_token="<|endoftext|>", pad_token="<|endoftext|>", do_lower_case=True, add_prefix_space=False)
    json.dump(config, open(f"{folder}/tokenizer_config.json", "w"), indent=2)
    special = {k: config[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    json.dump(special, open(f"{folder}/special_tokens_map.json", "w"), indent=2)
    return len(tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--emoji", "--out"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    count = write_tokenizer(torch.load(args.data), f"{args.out}/tokenizer")
    text = CLIPTextConfig(vocab_size=count, hidden_size=256, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=TOKENS,
                          hidden_act="quick_gelu", projection_dim=256, bos_token_id=count - 2, eos_token_id=count - 1, pad_token_id=count - 1)
    CLIPTextModel(text).save_pretrained(f"{args.out}/text_encoder")
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=32, out_channels=32, block_out_channels=(96, 160, 192), layers_per_block=1, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=256, attention_head_dim=(3, 5, 6), use_linear_projection=True)
    unet.save_pretrained(f"{args.out}/unet")
    print(f"{count} tokens, U-Net {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters")
    for part in ("vae", "scheduler"):
        shutil.copytree(f"{args.emoji}/{part}", f"{args.out}/{part}", dirs_exist_ok=True)
    index = dict(_class_name="StableDiffusionPipeline", _diffusers_version="0.42.1", feature_extractor=[None, None], image_encoder=[None, None],
                 requires_safety_checker=False, safety_checker=[None, None], scheduler=["diffusers", "DDIMScheduler"],
                 text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"],
                 unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"])
    json.dump(index, open(f"{args.out}/model_index.json", "w"), indent=2)


if __name__ == "__main__":
    main()
