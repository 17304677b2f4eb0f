"""Pipeline folders of full size with random weights: speed does not depend on the values."""

import json
import os

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def small_autoencoder():
    return AutoencoderKL(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
                         down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


def dit_xl_2():
    """DiT-XL/2 for 256x256 (arXiv 2212.09748), 675 million weights."""
    transformer = DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32,
                                        patch_size=2, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000)
    return DiTPipeline(transformer=transformer, vae=small_autoencoder(), scheduler=DDIMScheduler())


def sd_1_5(scratch):
    """The U-Net of Stable Diffusion 1.5 (860 million weights); a text encoder of its width."""
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    os.makedirs(scratch, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    tokens = letters + [letter + "</w>" for letter in letters] + ["re", "<|startoftext|>", "<|endoftext|>"]
    with open(f"{scratch}/vocab.json", "w", encoding="utf-8") as file:
        json.dump({token: index for index, token in enumerate(tokens)}, file)
    with open(f"{scratch}/merges.txt", "w", encoding="utf-8") as file:
        file.write("#version: 0.2\nr e\n")
    with open(f"{scratch}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>",
                   "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}, file)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens) + 1, hidden_size=768, intermediate_size=768, num_hidden_layers=1, num_attention_heads=12))
    return StableDiffusionPipeline(unet=unet, text_encoder=text, tokenizer=CLIPTokenizer.from_pretrained(scratch), vae=small_autoencoder(),
                                   scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def write(folder, build):
    """The folder, made if it is not there yet; weights in bf16, repeated from a million random numbers."""
    if os.path.exists(f"{folder}/model_index.json"):
        return folder
    generator = torch.Generator().manual_seed(0)
    pool = (torch.randn(1 << 20, generator=generator) * 0.02).to(torch.bfloat16)
    with torch.device("meta"):
        pipeline = build()
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(torch.bfloat16).to_empty(device="cpu")
            for parameter in component.parameters():
                flat = parameter.data.view(-1)
                for start in range(0, flat.numel(), pool.numel()):
                    part = flat[start:start + pool.numel()]
                    part.copy_(pool[:part.numel()])
    pipeline.save_pretrained(folder)
    return folder
