"""One way to draw for all the checks: the pipeline of diffusers, in f32 or (`--bf16`, three times faster) with bf16 products."""
import torch
from diffusers import DiffusionPipeline


class Drawer:
    def __init__(self, folder, bf16=False):
        torch.set_num_threads(1)
        self.bf16 = bf16
        self.pipe = DiffusionPipeline.from_pretrained(folder).to(torch.float32)
        self.own = dict(use_resolution_binning=False, clean_caption=False, max_sequence_length=20) if hasattr(self.pipe, "transformer") else {}
        self.pipe.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def latents(self, prompts, seeds, steps, scale):
        """Latents in the teacher's scale. seeds: one number for a batch of noise, or one for every prompt."""
        if isinstance(seeds, int):
            noise = torch.randn(len(prompts), 32, 16, 16, generator=torch.Generator().manual_seed(seeds))
        else:
            noise = torch.stack([torch.randn(32, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            final = self.pipe(list(prompts), negative_prompt=[""] * len(prompts), num_inference_steps=steps, guidance_scale=scale, latents=noise, height=128, width=128,
                              output_type="latent", **self.own).images
        return final.float() / self.pipe.vae.config.scaling_factor

    @torch.no_grad()
    def pictures(self, latents):
        """[n, 3, 128, 128] in 0..1"""
        parts = [self.pipe.vae.decode(part).sample for part in latents.split(8)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
