"""The five held-out clips, judged as `refrain bench stream` does: PSNR to the exact style, and flicker over the style's own."""
import torch

import styles
from pictures import resize


def held_out(data, frames=8):
    """`[clips, frames, 3, 128, 128]`: the middle of the first frames of each held-out clip."""
    clips = []
    for name in data.held:
        x = data.clips[name]
        x = x[:frames].permute(0, 3, 1, 2).float() / 255
        side, (h, w) = min(x.shape[-2:]), x.shape[-2:]
        top, left = (h - side) // 2, (w - side) // 2
        clips.append(resize(x[..., top:top + side, left:left + side]))
    return (torch.stack(clips).clamp(0, 1) * 255).round() / 255


def psnr(a, b):
    """dB of each frame, `[..., 3, h, w]` to `[...]`."""
    return -10 * torch.log10((a - b).square().mean((-3, -2, -1)).clamp(min=1e-10))


def flicker(x):
    """Root mean square step from frame to frame, `[frames, 3, h, w]`."""
    return (x[1:] - x[:-1]).square().mean().sqrt().clamp(min=0.5 / 255)


def judge(clips, restyled, kind):
    """`restyled` is `[clips, frames, 3, h, w]`: dB before and after, gain and flicker clip by clip."""
    target = torch.stack([styles.restyle(clip, kind) for clip in clips])
    quantised = (restyled.clamp(0, 1) * 255).round() / 255
    before, after = psnr(clips, target).mean(1), psnr(quantised, target).mean(1)
    excess = torch.stack([flicker(a) / flicker(b) for a, b in zip(quantised, target)])
    return {"before": before, "after": after, "gain": after - before, "flicker": excess}


def line(kind, figures):
    gain, excess = figures["gain"].tolist(), figures["flicker"].tolist()
    return (f"{styles.STYLES[kind]:20s} {figures['before'].mean():5.1f} -> {figures['after'].mean():5.1f} dB; gain "
            + " ".join(f"{g:+5.1f}" for g in gain) + "; flicker " + " ".join(f"{e:4.2f}" for e in excess))
