"""Writes a training state as the folder that the program reads.

    export.py --state STATE.pt --autoencoder AUTOENCODER.pt --tokenizer TOKENIZER_FOLDER --out weights/style-video"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

TEXT = {"architectures": ["T5EncoderModel"], "d_ff": 256, "d_kv": 32, "d_model": 128, "dense_act_fn": "gelu_new", "dropout_rate": 0.0, "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu", "is_encoder_decoder": False, "is_gated_act": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_heads": 4,
        "num_layers": 2, "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "tie_word_embeddings": True,
        "use_cache": False, "vocab_size": 2476}


def write(path, tensors, config, name):
    os.makedirs(path, exist_ok=True)
    save_file({k: v.to(torch.float16).contiguous() for k, v in tensors.items()}, f"{path}/{name}", {"format": "pt"})
    with open(f"{path}/config.json", "w") as file:
        json.dump(config, file, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--state", "--autoencoder", "--tokenizer", "--out"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    state = torch.load(args.state)
    weights, ae = state["ema"], torch.load(args.autoencoder)
    part = lambda prefix: {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}
    text = part("text.")
    text.pop("encoder.embed_tokens.weight", None)
    write(f"{args.out}/text_encoder", text, TEXT, "model.safetensors")
    config = {"_class_name": "WanTransformer3DModel", **state["config"]}
    write(f"{args.out}/transformer", part("net."), config, "diffusion_pytorch_model.safetensors")
    std, basis, mean = ae["std"][:, None], ae["basis"], ae["mean"]
    channels = len(basis)
    tensors = {"encoder.weight": (basis / std).view(channels, 3, 8, 8), "encoder.bias": -(basis @ mean) / ae["std"],
               "decoder.weight": (basis * std).view(channels, 3, 8, 8), "decoder.bias": mean.view(3, 8, 8)}
    os.makedirs(f"{args.out}/vae", exist_ok=True)
    # Half precision would cost what the transform is there to keep; it is 74 kB.
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{args.out}/vae/diffusion_pytorch_model.safetensors", {"format": "pt"})
    with open(f"{args.out}/vae/config.json", "w") as file:
        json.dump({"_class_name": "PatchAutoencoder", "in_channels": 3, "latent_channels": channels, "patch_size": 8}, file, indent=2)
    os.makedirs(f"{args.out}/scheduler", exist_ok=True)
    with open(f"{args.out}/scheduler/scheduler_config.json", "w") as file:
        json.dump({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0, "prediction_type": state.get("prediction", "sample"), "noise_scale": 0.8}, file, indent=2)
    shutil.copytree(args.tokenizer, f"{args.out}/tokenizer", dirs_exist_ok=True)
    with open(f"{args.out}/model_index.json", "w") as file:
        json.dump({"_class_name": "WanVideoToVideoPipeline", "sample_size": 128, "max_sequence_length": 24, "num_kv_cache": 2, "num_sink_tokens": 0,
                   "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "text_encoder": ["transformers", "T5EncoderModel"],
                   "tokenizer": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["refrain", "PatchAutoencoder"]}, file, indent=2)


main()
