"""Golden tensors that the tests compare with, computed by diffusers in f32 from the f16 weights.

    make_goldens.py PIPELINE OUT

A folder for each case: case.json says what was asked; latents.safetensors holds `latents` (noise of unit variance);
expected.safetensors holds `latents` (final) and `image` (0..1), in the first case also `prompt_embeds`, `prompt_mask`, `first_output`
(the transformer's answer at the first step, batch order [negative, prompt]) and `trajectory` (latents after every step). Of a
StableDiffusionPipeline there is one case, its final latents alone."""
import argparse
import json
import os

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PixArtAlphaPipeline, StableDiffusionPipeline
from safetensors.torch import save_file

CASES = [  # name, scheduler, its name for `gen image`, prompts, negative prompt, steps, guidance scale
    ("emoji-ddim20", DDIMScheduler, "ddim", ["a red fox on a blue background", "pizza"], "", 20, 4.0),
    ("emoji-dpm12", DPMSolverMultistepScheduler, "dpm++2m", ["smiling cat face with heart-eyes"], "", 12, 4.0),
    ("emoji-nocfg", DDIMScheduler, "ddim", ["guitar on a yellow background"], None, 10, 1.0),
]


def write(folder, noise, expected, asked):
    os.makedirs(folder, exist_ok=True)
    save_file({"latents": noise}, os.path.join(folder, "latents.safetensors"))
    save_file({k: v.float().contiguous() for k, v in expected.items()}, os.path.join(folder, "expected.safetensors"))
    prompts, negative, steps, scale, sampler = asked
    with open(os.path.join(folder, "case.json"), "w") as file:
        json.dump({"kind": "image", "prompts": prompts, "negative": negative, "steps": steps, "cfg": scale, "sampler": sampler,
                   "flags": ["--sampling-method", sampler]}, file, indent=1)
    print(os.path.basename(folder), tuple(expected["latents"].shape), "spread", round(expected["latents"].std().item(), 4))


def unet(pipeline, out):
    pipe = StableDiffusionPipeline.from_pretrained(pipeline).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise, prompt = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(3)), "an owl on a teal background"
    final = pipe(prompt=[prompt], negative_prompt=[""], num_inference_steps=10, guidance_scale=4.0, latents=noise.clone(), height=128, width=128,
                 output_type="latent").images
    write(os.path.join(out, "emoji-unet-ddim10"), noise, {"latents": final}, ([prompt], "", 10, 4.0, "ddim"))


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("out")
    args = parser.parse_args()
    if os.path.exists(os.path.join(args.pipeline, "unet")):
        return unet(args.pipeline, args.out)
    pipe = PixArtAlphaPipeline.from_pretrained(args.pipeline).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    settings = pipe.scheduler.config
    for number, (name, scheduler, sampler, prompts, negative, steps, scale) in enumerate(CASES):
        pipe.scheduler = scheduler.from_config(settings)
        noise = torch.randn(len(prompts), 32, 16, 16, generator=torch.Generator().manual_seed(number))
        path, answers = [], []
        hook = pipe.transformer.register_forward_hook(lambda module, given, output: answers.append(output[0].float().clone()) if not answers else None)
        final = pipe(prompt=prompts, negative_prompt=negative or "", num_inference_steps=steps, guidance_scale=scale, latents=noise.clone(),
                     height=128, width=128, use_resolution_binning=False, clean_caption=False, max_sequence_length=20, output_type="latent",
                     callback=lambda i, t, latents: path.append(latents.clone()), callback_steps=1).images
        hook.remove()
        image = (pipe.vae.decode(final / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        expected = {"latents": final, "image": image}
        if number == 0:
            embeds, mask, _, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, clean_caption=False, max_sequence_length=20)
            expected |= {"prompt_embeds": embeds, "prompt_mask": mask, "first_output": answers[0], "trajectory": torch.stack(path)}
        write(os.path.join(args.out, name), noise, expected, (prompts, negative, steps, scale, sampler))


if __name__ == "__main__":
    main()
