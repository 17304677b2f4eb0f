"""Checkpoint -> diffusers folder in f16.

    export.py --state FOLDER/state.pt --start PIPELINE --out PIPELINE [--raw] [--vae FOLDER]

Takes configuration, tokenizer and scheduler from --start, the averaged weights of the checkpoint (or with --raw the last ones) and the
autoencoder from --vae (default: that of --start)."""
import argparse
import json
import os
import shutil

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel
from transformers import T5EncoderModel


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--state", "--start", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--vae")
    parser.add_argument("--raw", action="store_true")
    args = parser.parse_args()
    state = torch.load(args.state, weights_only=False)
    kind = "" if args.raw else "mean_"
    model = PixArtTransformer2DModel.from_pretrained(f"{args.start}/transformer")
    model.load_state_dict(state[kind + "model"])
    model.half().save_pretrained(f"{args.out}/transformer")
    encoder = T5EncoderModel.from_pretrained(f"{args.start}/text_encoder")
    encoder.load_state_dict(state[kind + "encoder"])
    encoder.half().save_pretrained(f"{args.out}/text_encoder")
    AutoencoderKL.from_pretrained(args.vae or f"{args.start}/vae").half().save_pretrained(f"{args.out}/vae")
    for part in ("tokenizer", "scheduler"):
        if os.path.abspath(args.start) != os.path.abspath(args.out):
            shutil.copytree(f"{args.start}/{part}", f"{args.out}/{part}", dirs_exist_ok=True)
    if not os.path.exists(f"{args.out}/model_index.json"):
        shutil.copy(f"{args.start}/model_index.json", args.out)
    for part in ("transformer", "vae", "text_encoder"):  # a path of the machine that trained has no place in a configuration
        path = f"{args.out}/{part}/config.json"
        config = json.load(open(path))
        config.pop("_name_or_path", None)
        json.dump(config, open(path, "w"), indent=2)
    size = sum(os.path.getsize(f"{args.out}/{p}") for p in ("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"))
    print(f"transformer, text encoder and autoencoder: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
