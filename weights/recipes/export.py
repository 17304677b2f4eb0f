"""Checkpoint -> diffusers folder in f16.

    export.py --state FOLDER/state.pt --start PIPELINE --out PIPELINE [--raw] [--vae FOLDER]

Takes configuration, tokenizer and scheduler from --start, the averaged weights of the checkpoint (or with --raw the last ones) and the
autoencoder from --vae (default: that of --start)."""
import argparse
import glob
import json
import os
import shutil

import torch
from diffusers import AutoencoderKL

from families import family


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--state", "--start", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--vae")
    parser.add_argument("--raw", action="store_true")
    args = parser.parse_args()
    state = torch.load(args.state, weights_only=False)
    kind = "" if args.raw else "mean_"
    sort = family(args.start)
    for network, part, weights in ((sort.network, sort.part, "model"), (sort.encoder, "text_encoder", "encoder")):
        trained = network.from_pretrained(f"{args.start}/{part}")
        trained.load_state_dict(state[kind + weights])
        trained.half().save_pretrained(f"{args.out}/{part}")
    AutoencoderKL.from_pretrained(args.vae or f"{args.start}/vae").half().save_pretrained(f"{args.out}/vae")
    for part in ("tokenizer", "scheduler"):
        if os.path.abspath(args.start) != os.path.abspath(args.out):
            shutil.copytree(f"{args.start}/{part}", f"{args.out}/{part}", dirs_exist_ok=True)
    if not os.path.exists(f"{args.out}/model_index.json"):
        shutil.copy(f"{args.start}/model_index.json", args.out)
    for part in (sort.part, "vae", "text_encoder"):  # a path of the machine that trained has no place in a configuration
        path = f"{args.out}/{part}/config.json"
        config = json.load(open(path))
        config.pop("_name_or_path", None)
        json.dump(config, open(path, "w"), indent=2)
    size = sum(os.path.getsize(path) for path in glob.glob(f"{args.out}/*/*.safetensors"))
    print(f"{sort.part}, text encoder and autoencoder: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
