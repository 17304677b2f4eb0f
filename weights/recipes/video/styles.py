"""The ten procedural styles: exact pictures for any frame, `[n, 3, h, w]` in [0, 1] to the same. Twin of `crates/metrics/src/styles`."""
import torch
import torch.nn.functional as F

STYLES = ("plain", "sepia", "pencil sketch", "ink edges", "posterised cartoon", "oil painting", "thermal camera", "night vision", "blueprint", "pixel art")


def luma(x):
    return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def blur(x, radius):
    """Box mean of (2 radius + 1)^2 pixels, edges repeated."""
    n = 2 * radius + 1
    x = F.pad(x, (radius, radius, 0, 0), mode="replicate")
    x = F.avg_pool2d(x, (1, n), stride=1)
    x = F.pad(x, (0, 0, radius, radius), mode="replicate")
    return F.avg_pool2d(x, (n, 1), stride=1)


def smoothstep(x, low, high):
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def edges(y):
    """Sobel magnitude of the luma after one box blur of radius 1."""
    p = F.pad(blur(y, 1), (1, 1, 1, 1), mode="replicate")
    a, b, c = p[:, :, :-2], p[:, :, 1:-1], p[:, :, 2:]
    v = (c[..., :-2] + 2 * c[..., 1:-1] + c[..., 2:]) - (a[..., :-2] + 2 * a[..., 1:-1] + a[..., 2:])
    h = (a[..., 2:] + 2 * b[..., 2:] + c[..., 2:]) - (a[..., :-2] + 2 * b[..., :-2] + c[..., :-2])
    return (v * v + h * h + 1e-8).sqrt()


def saturate(x, amount):
    y = luma(x)
    return (y + amount * (x - y)).clamp(0, 1)


def stairs(x, levels):
    """Soft staircase: `levels` flat values from 0 to 1 with steep, continuous risers."""
    t = x.clamp(0, 1) * (levels - 1)
    k = t.floor().clamp(max=levels - 2)
    return (k + smoothstep(t - k, 0.3, 0.7)) / (levels - 1)


def kuwahara(x, radius):
    """Mean of the four quadrants, weighted by the inverse square of their luma variance (a soft Kuwahara filter)."""
    n = radius + 1
    y = luma(x)
    stack = torch.cat((x, y * y), 1)
    p = F.pad(stack, (radius,) * 4, mode="replicate")
    m = F.avg_pool2d(p, n, stride=1)
    h, w = x.shape[-2:]
    total, weight = 0, 0
    for dy in (0, radius):
        for dx in (0, radius):
            q = m[:, :, dy:dy + h, dx:dx + w]
            variance = (q[:, 3:4] - luma(q[:, :3]) ** 2).clamp(min=0) + 1e-3
            g = 1 / (variance * variance)
            total, weight = total + g * q[:, :3], weight + g
    return total / weight


def ramp(t, stops):
    """Piecewise linear colour map with evenly spaced stops."""
    t = t.clamp(0, 1) * (len(stops) - 1)
    out = 0
    for i, stop in enumerate(stops):
        out = out + (1 - (t - i).abs()).clamp(min=0) * torch.tensor(stop, dtype=t.dtype).view(1, 3, 1, 1)
    return out


def colours(light, dark, t):
    dark = torch.tensor(dark, dtype=t.dtype).view(1, 3, 1, 1)
    light = torch.tensor(light, dtype=t.dtype).view(1, 3, 1, 1)
    return dark + (light - dark) * t


def plain(x):
    return x


def sepia(x):
    m = torch.tensor(((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)), dtype=x.dtype)
    return torch.einsum("ij,njhw->nihw", m, x).clamp(0, 1)


def pencil(x):
    y = luma(x)
    dodge = (blur(y, 1) + 0.02) / (blur(y, 5) + 0.02)
    line = smoothstep(dodge, 0.55, 1.0)
    tone = 0.55 + 0.45 * smoothstep(blur(y, 2), 0.0, 0.6)
    return colours((0.98, 0.97, 0.94), (0.12, 0.12, 0.14), line * tone)


def ink(x):
    y = luma(x)
    line = 1 - smoothstep(edges(y), 0.25, 0.7)
    fill = smoothstep(blur(y, 2), 0.12, 0.24)
    return colours((1.0, 1.0, 1.0), (0.03, 0.03, 0.08), line * fill)


def cartoon(x):
    flat = stairs(saturate(kuwahara(x, 3), 1.6), 4)
    line = 1 - 0.8 * smoothstep(edges(luma(x)), 0.45, 1.0)
    return flat * line


def oil(x):
    smooth = kuwahara(kuwahara(x, 4), 4)
    varnish = torch.tensor((1.08, 0.96, 0.76), dtype=x.dtype).view(1, 3, 1, 1)
    return (saturate((0.5 + 1.35 * (smooth - 0.5)).clamp(0, 1), 1.7) * varnish).clamp(0, 1)


def thermal(x):
    return ramp(blur(luma(x), 1), ((0.0, 0.0, 0.12), (0.25, 0.0, 0.55), (0.75, 0.1, 0.45), (0.98, 0.45, 0.1), (1.0, 0.85, 0.25), (1.0, 1.0, 0.9)))


def night(x):
    y = blur(luma(x), 1)
    y = 0.08 + 0.92 * y.clamp(min=1e-6).sqrt()
    rows = (torch.arange(x.shape[-2]) % 4 < 2).to(x.dtype).view(1, 1, -1, 1)
    y = y * (0.88 + 0.12 * rows)
    return torch.cat((0.25 * y * y, y, 0.3 * y * y), 1)


def blueprint(x):
    h, w = x.shape[-2:]
    line = smoothstep(edges(luma(x)), 0.12, 0.7)
    shade = 0.18 * blur(luma(x), 2)
    grid = ((torch.arange(h) % 16 == 0).view(-1, 1) | (torch.arange(w) % 16 == 0).view(1, -1)).to(x.dtype)
    t = (0.85 * line + shade + 0.12 * grid).clamp(0, 1)
    return colours((0.95, 0.98, 1.0), (0.03, 0.16, 0.42), t)


def pixel(x, cell=8):
    n, c, h, w = x.shape
    p = F.pad(x, (0, -w % cell, 0, -h % cell), mode="replicate")
    m = F.avg_pool2d(p, cell)
    m = stairs(saturate((0.5 + 1.3 * (m - 0.5)).clamp(0, 1), 1.6), 5)
    return m.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, :, :h, :w]


APPLY = (plain, sepia, pencil, ink, cartoon, oil, thermal, night, blueprint, pixel)


def restyle(x, style):
    """`style` is an index into `STYLES`."""
    return APPLY[style](x)
