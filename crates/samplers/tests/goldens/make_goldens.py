"""Golden values of the noise schedules, samplers and noise, computed with diffusers 0.42.1 and torch on the CPU.

Usage: make_goldens.py [OUT_DIR]   (default: this folder; needs diffusers, torch, numpy, safetensors)

cases.json            what was run: scheduler_config.json, sampler name and request of every case
samplers.safetensors  per case: timesteps, sigmas, init_noise_sigma, trajectory [evaluations, ..] and, where the
                      scheduler gives it, denoised; `start` (unit noise) and `constant` of the toy denoiser, and the
                      `clean` latents of the cases with a strength, which begin as an image-to-image pipeline does
schedules.safetensors alphas_cumprod per noise schedule
randn.safetensors     torch.randn of several seeds and sizes

The toy denoiser is `0.3 * sin(timestep / 100) * input + constant`.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import save_file

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
SHAPE = (1, 2, 3, 4)
CLASSES = {
    "ddim": DDIMScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "pndm": PNDMScheduler,
    "euler_flow": FlowMatchEulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "ddim_invert": DDIMInverseScheduler,
}

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Stable Diffusion 1.5, the built-in emoji model, PixArt-alpha: what a folder's scheduler_config.json says.
SD15 = {"_class_name": "PNDMScheduler", **LATENT, "clip_sample": False, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
EMOJI = {"_class_name": "DDIMScheduler", **LATENT, "clip_sample": False, "clip_sample_range": 1.0,
         "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "set_alpha_to_one": True,
         "steps_offset": 0, "thresholding": False, "timestep_spacing": "trailing", "trained_betas": None}
PIXART = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "beta_end": 0.02,
          "beta_schedule": "linear", "beta_start": 0.0001, "euler_at_final": False, "lambda_min_clipped": -math.inf,
          "lower_order_final": True, "prediction_type": "epsilon", "solver_order": 2, "solver_type": "midpoint",
          "timestep_spacing": "linspace", "use_karras_sigmas": False, "use_lu_lambdas": False, "variance_type": None}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
         "flow_shift": 3.0, "num_train_timesteps": 1000}
COSINE = {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}


def case(name, sampler, config, steps, **request):
    return {"name": name, "sampler": sampler, "config": config, "steps": steps, "request": request}


CASES = [
    case("ddim-sd15", "ddim", SD15, 10),
    case("ddim-emoji", "ddim", EMOJI, 20),
    case("ddim-emoji-7", "ddim", EMOJI, 7),
    case("ddim-emoji-eta", "ddim", EMOJI, 8, eta=0.7),
    case("ddim-clip-defaults", "ddim", {"_class_name": "DDIMScheduler"}, 6),
    case("ddim-clip-range", "ddim", {**SD15, "clip_sample": True, "clip_sample_range": 0.4}, 6, eta=1.0),
    case("ddim-cosine-linspace", "ddim", {**COSINE, "timestep_spacing": "linspace"}, 9),
    case("ddim-sample", "ddim", {**COSINE, "prediction_type": "sample"}, 8),
    case("ddim-trained-betas", "ddim", {"_class_name": "DDIMScheduler", "num_train_timesteps": 5, "clip_sample": False,
                                        "trained_betas": [0.01, 0.05, 0.1, 0.3, 0.5]}, 5),
    case("ddim-from-pixart", "ddim", PIXART, 6),
    case("dpm-pixart", "dpm++2m", PIXART, 20),
    case("dpm-pixart-4", "dpm++2m", PIXART, 4),
    case("dpm-pixart-1", "dpm++2m", PIXART, 1),
    case("dpm-emoji", "dpm++2m", EMOJI, 12),
    case("dpm-emoji-karras", "dpm++2m", {**EMOJI, "use_karras_sigmas": True}, 10),
    case("dpm-emoji-lu", "dpm++2m", {**EMOJI, "use_lu_lambdas": True}, 10),
    case("dpm-sd15", "dpm++2m", SD15, 16),
    case("dpm-sd15-leading", "dpm++2m", {**SD15, "timestep_spacing": "leading"}, 8),
    case("dpm-sd15-trailing", "dpm++2m", {**SD15, "timestep_spacing": "trailing"}, 8),
    case("dpm-sd15-karras", "dpm++2m", {**SD15, "use_karras_sigmas": True}, 12),
    case("dpm-sd15-lu", "dpm++2m", {**SD15, "use_lu_lambdas": True}, 12),
    case("dpm-sd15-exponential", "dpm++2m", {**SD15, "use_exponential_sigmas": True}, 8),
    case("dpm-sd15-karras-range", "dpm++2m", {**SD15, "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0}, 6),
    case("dpm-sd15-first-order", "dpm++2m", {**SD15, "solver_order": 1}, 6),
    case("dpm-sd15-heun", "dpm++2m", {**SD15, "solver_type": "heun"}, 9),
    case("dpm-sd15-sigma-min", "dpm++2m", {**SD15, "final_sigmas_type": "sigma_min"}, 16),
    case("dpm-sd15-sigma-min-few", "dpm++2m", {**SD15, "final_sigmas_type": "sigma_min"}, 6),
    case("dpm-sd15-sigma-min-euler", "dpm++2m", {**SD15, "final_sigmas_type": "sigma_min", "euler_at_final": True,
                                                 "lower_order_final": False}, 6),
    case("dpm-cosine-clipped", "dpm++2m", {**COSINE, "lambda_min_clipped": -5.1, "prediction_type": "v_prediction"}, 8),
    case("dpm-cosine-karras", "dpm++2m", {**COSINE, "use_karras_sigmas": True, "prediction_type": "sample"}, 8),
    case("dpm-flow", "dpm++2m", {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction",
                                 "use_flow_sigmas": True, "flow_shift": 3.0}, 12),
    case("euler-sd15", "euler", SD15, 10),
    case("euler-sd15-leading", "euler", {**SD15, "timestep_spacing": "leading"}, 7),
    case("euler-emoji", "euler", EMOJI, 12),
    case("euler-emoji-karras", "euler", {**EMOJI, "use_karras_sigmas": True}, 8),
    case("euler-sd15-karras", "euler", {**SD15, "use_karras_sigmas": True}, 10),
    case("euler-sd15-karras-range", "euler", {**SD15, "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0}, 6),
    case("euler-sd15-exponential", "euler", {**SD15, "use_exponential_sigmas": True}, 8),
    case("euler-sample", "euler", {**COSINE, "prediction_type": "sample"}, 8),
    case("euler-sigma-min", "euler", {**SD15, "final_sigmas_type": "sigma_min", "prediction_type": "v_prediction"}, 8),
    case("heun-sd15", "heun", SD15, 8),
    case("heun-emoji", "heun", EMOJI, 8),
    case("heun-sd15-karras", "heun", {**SD15, "use_karras_sigmas": True}, 8),
    case("heun-sd15-karras-range", "heun", {**SD15, "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0}, 5),
    case("heun-leading-clip", "heun", {**SD15, "timestep_spacing": "leading", "clip_sample": True}, 5),
    case("heun-sample-defaults", "heun", {"_class_name": "HeunDiscreteScheduler", "prediction_type": "sample"}, 4),
    case("heun-one", "heun", SD15, 1),
    case("pndm-sd15", "pndm", SD15, 10),
    case("pndm-sd15-trailing", "pndm", {**SD15, "timestep_spacing": "trailing"}, 7),
    case("pndm-velocity-linspace", "pndm", {**SD15, "prediction_type": "v_prediction", "timestep_spacing": "linspace", "set_alpha_to_one": True}, 6),
    case("pndm-one", "pndm", SD15, 1),
    case("pndm-two", "pndm", SD15, 2),
    case("pndm-runge-kutta", "pndm", {**SD15, "skip_prk_steps": False}, 8),
    case("pndm-runge-kutta-four", "pndm", {"_class_name": "PNDMScheduler"}, 4),
    case("pndm-from-emoji", "pndm", EMOJI, 9),
    case("flow-plain", "euler_flow", FLOW, 10),
    case("flow-shift", "euler_flow", {**FLOW, "shift": 3.0}, 12),
    case("flow-dynamic", "euler_flow", {**FLOW, "use_dynamic_shifting": True}, 8, image_tokens=1024),
    case("flow-dynamic-linear", "euler_flow", {**FLOW, "use_dynamic_shifting": True, "time_shift_type": "linear"}, 6,
         image_tokens=300),
    case("flow-terminal", "euler_flow", {**FLOW, "shift": 2.0, "shift_terminal": 0.1}, 6),
    case("flow-karras", "euler_flow", {**FLOW, "shift": 2.0, "use_karras_sigmas": True}, 6),
    case("flow-one", "euler_flow", FLOW, 1),
    case("unipc-wan", "unipc", UNIPC, 12),
    case("unipc-plain", "unipc", {**UNIPC, "flow_shift": 1.0}, 5),
    case("unipc-third-order", "unipc", {**UNIPC, "solver_order": 3, "flow_shift": 5.0}, 9),
    case("unipc-first-order", "unipc", {**UNIPC, "solver_order": 1}, 4),
    case("unipc-uncorrected", "unipc", {**UNIPC, "disable_corrector": [0, 2]}, 6),
    case("unipc-one", "unipc", UNIPC, 1),
    case("part-ddim", "ddim", EMOJI, 20, strength=0.6),
    case("part-ddim-whole", "ddim", SD15, 6, strength=1.0),
    case("part-dpm", "dpm++2m", PIXART, 16, strength=0.55),
    case("part-dpm-sigma-min", "dpm++2m", {**SD15, "final_sigmas_type": "sigma_min"}, 20, strength=0.5),
    case("part-euler", "euler", SD15, 10, strength=0.75),
    case("part-heun", "heun", SD15, 7, strength=0.5),
    case("part-flow", "euler_flow", {**FLOW, "shift": 3.0}, 9, strength=0.4),
    case("invert-sd15", "ddim_invert", SD15, 10),
    case("invert-emoji", "ddim_invert", {**EMOJI, "rescale_betas_zero_snr": False}, 8),
]


def dynamic_mu(config, tokens):
    """The line through (256 tokens, base_shift) and (4096 tokens, max_shift), as the pipelines compute it."""
    few, many = config.base_image_seq_len, config.max_image_seq_len
    slope = (config.max_shift - config.base_shift) / (many - few)
    return config.base_shift + slope * (tokens - few)


def begin(scheduler, strength, steps, clean, start):
    """As StableDiffusionImg2ImgPipeline: the last `strength` of the steps, from noised clean latents."""
    first = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    if hasattr(scheduler, "scale_noise"):
        return first, timesteps, scheduler.scale_noise(clean, timesteps[:1], start)
    return first, timesteps, scheduler.add_noise(clean, start, timesteps[:1])


def run(entry, start, constant, clean):
    scheduler = CLASSES[entry["sampler"]].from_config(dict(entry["config"]))
    request, extra = entry["request"], {}
    if "image_tokens" in request:
        extra["mu"] = dynamic_mu(scheduler.config, request["image_tokens"])
    scheduler.set_timesteps(entry["steps"], **extra)
    if hasattr(scheduler, "set_begin_index"):
        # Otherwise a run whose first two timesteps are equal begins at the second and leaves its table at the end.
        scheduler.set_begin_index(0)
    options = {}
    if "eta" in request:
        generator = torch.Generator().manual_seed(5)
        options = {"eta": request["eta"], "generator": generator}
    first, timesteps = 0, scheduler.timesteps
    latents = start * getattr(scheduler, "init_noise_sigma", 1.0)
    if "strength" in request:
        first, timesteps, latents = begin(scheduler, request["strength"], entry["steps"], clean, start)
    trajectory, denoised = [], []
    for timestep in timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        output = 0.3 * math.sin(float(timestep) / 100) * scale(latents, timestep) + constant
        step = scheduler.step(output, timestep, latents, **options)
        latents = step.prev_sample
        trajectory.append(latents.clone())
        if "pred_original_sample" in step and step.pred_original_sample is not None:
            denoised.append(step.pred_original_sample.clone())
    result = {"timesteps": timesteps.float(), "trajectory": torch.stack(trajectory)}
    result["init_noise_sigma"] = torch.tensor([float(getattr(scheduler, "init_noise_sigma", 1.0))])
    if denoised:
        result["denoised"] = torch.stack(denoised)
    if entry["sampler"] not in ("ddim", "ddim_invert", "pndm"):
        result["sigmas"] = scheduler.sigmas[first:].float()
    return result


def schedules():
    configs = {
        "linear": {},
        "scaled_linear": LATENT,
        "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
        "scaled_linear-zero-snr": {**LATENT, "rescale_betas_zero_snr": True},
        "linear-zero-snr": {"rescale_betas_zero_snr": True},
        "linear-250": {"num_train_timesteps": 250},
    }
    return {name: DDIMScheduler(**config).alphas_cumprod for name, config in configs.items()}


def randn():
    tensors = {}
    for seed in (0, 42, 1234567890123, 2**32 - 1):
        for size in (1, 15, 16, 17, 100):
            tensors[f"{seed}/{size}"] = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    tensors["42/8192"] = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(42))
    generator = torch.Generator().manual_seed(7)
    for index, size in enumerate((3, 20, 2, 700, 16)):
        tensors[f"stream/{index}/{size}"] = torch.randn(size, generator=generator)
    return tensors


def main():
    generator = torch.Generator().manual_seed(1)
    start, constant = torch.randn(SHAPE, generator=generator), 0.5 * torch.randn(SHAPE, generator=generator)
    clean = torch.randn(SHAPE, generator=generator)
    tensors = {"start": start, "constant": constant, "clean": clean}
    for entry in CASES:
        for key, value in run(entry, start, constant, clean).items():
            tensors[f"{entry['name']}/{key}"] = value.contiguous()
    save_file(tensors, OUT / "samplers.safetensors")
    save_file(schedules(), OUT / "schedules.safetensors")
    save_file(randn(), OUT / "randn.safetensors")
    text = ",\n".join("  " + json.dumps(entry) for entry in CASES)
    (OUT / "cases.json").write_text(f"[\n{text}\n]\n")


main()
