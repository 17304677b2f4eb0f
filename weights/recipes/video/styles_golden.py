"""Writes the fixture that holds the styles of `crates/metrics/src/styles` to those of `styles.py`.

    styles_golden.py ../../../crates/metrics/src/styles/golden.f32

One frame of smooth waves, a hard edge and some texture, then every style of it: `[11, 24, 24, 3]` f32, little endian."""
import sys

import torch

import styles

SIDE = 24
y, x = torch.meshgrid(torch.arange(SIDE) / SIDE, torch.arange(SIDE) / SIDE, indexing="ij")
frame = torch.stack((0.5 + 0.5 * torch.sin(7 * x + 3 * y), 0.2 + 0.8 * y, (0.9 - 0.7 * x * y)))
frame[:, :, SIDE // 2:] *= 0.35
frame[:, 4:9, 5:10] = torch.tensor((0.95, 0.15, 0.2)).view(3, 1, 1)
frame = (frame + 0.03 * torch.sin(40 * x * y)).clamp(0, 1)[None]
pictures = [frame] + [styles.restyle(frame, style) for style in range(len(styles.STYLES))]
torch.cat(pictures).permute(0, 2, 3, 1).contiguous().numpy().astype("<f4").tofile(sys.argv[1])
