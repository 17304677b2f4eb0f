"""WanTransformer3DModel with frame-causal attention and a timestep per frame, parameter names as in diffusers."""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class RMS(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim)); self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, dim, heads, eps):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = RMS(dim, eps), RMS(dim, eps)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def qkv(self, x, context):
        return self.split(self.norm_q(self.to_q(x))), self.split(self.norm_k(self.to_k(context))), self.split(self.to_v(context))


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)


class Act(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.proj = nn.Linear(i, o)

    def forward(self, x):
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.net = nn.ModuleList([Act(dim, inner), nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    def __init__(self, dim, ffn, heads, eps=1e-6):
        super().__init__()
        self.attn1, self.attn2 = Attention(dim, heads, eps), Attention(dim, heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.ffn = FeedForward(dim, ffn)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.eps = eps

    def forward(self, x, text, temb, rope, frames, window):
        """x `[b, f*n, d]`; temb `[b, f, 6, d]`; a frame attends to the last `window` frames, itself included."""
        b, n, d = x.shape
        def mod(y, scale, shift):
            y = F.layer_norm(y, (d,), eps=self.eps).unflatten(1, (frames, -1))
            return torch.addcmul(shift, y, 1 + scale).flatten(1, 2)
        m = (self.scale_shift_table[:, None] + temb).unsqueeze(3).unbind(2)  # six of [b, f, 1, d]
        normed = mod(x, m[1], m[0])
        q, k, v = self.attn1.qkv(normed, normed)
        q, k = rotate(q, *rope).to(v.dtype), rotate(k, *rope).to(v.dtype)
        t = n // frames
        out = torch.cat([sdpa(q[:, i * t:(i + 1) * t], k[:, max(0, i + 1 - window) * t:(i + 1) * t], v[:, max(0, i + 1 - window) * t:(i + 1) * t]) for i in range(frames)], 1)
        x = x + (self.attn1.to_out[0](out).unflatten(1, (frames, -1)) * m[2]).flatten(1, 2)
        q, k, v = self.attn2.qkv(self.norm2(x), text)
        x = x + self.attn2.to_out[0](sdpa(q, k, v))
        x = x + (self.ffn(mod(x, m[4], m[3])).unflatten(1, (frames, -1)) * m[5]).flatten(1, 2)
        return x


class TimestepEmbedding(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(i, o), nn.Linear(o, o)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class TextProjection(TimestepEmbedding):
    def forward(self, x):
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


class Condition(nn.Module):
    def __init__(self, dim, freq, text):
        super().__init__()
        self.time_embedder = TimestepEmbedding(freq, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = TextProjection(text, dim)
        self.freq = freq

    def sinusoids(self, t):
        half = self.freq // 2
        a = t.float()[..., None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        return torch.cat((a.cos(), a.sin()), -1)

    def forward(self, t):
        e = self.time_embedder(self.sinusoids(t))
        return e, self.time_proj(F.silu(e)).unflatten(-1, (6, -1))


def rope_tables(f, h, w, dim, theta=10000.0):
    s = 2 * (dim // 6)
    parts = []
    for axis, (n, d) in enumerate(((f, dim - 2 * s), (h, s), (w, s))):
        a = torch.outer(torch.arange(n, dtype=torch.float64), 1 / theta ** (torch.arange(0, d, 2, dtype=torch.float64) / d))
        shape = [1, 1, 1, d // 2]; shape[axis] = n
        parts.append(a.view(shape).expand(f, h, w, d // 2))
    a = torch.cat(parts, -1).reshape(1, f * h * w, 1, dim // 2)
    return a.cos().float(), a.sin().float()


class Wan(nn.Module):
    def __init__(self, channels=48, dim=256, heads=4, layers=5, ffn=1024, text=128, patch=1, window=2):
        super().__init__()
        self.config = dict(patch_size=[1, patch, patch], num_attention_heads=heads, attention_head_dim=dim // heads, in_channels=2 * channels, out_channels=channels,
                           text_dim=text, freq_dim=256, ffn_dim=ffn, num_layers=layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6, image_dim=None,
                           added_kv_proj_dim=None, rope_max_seq_len=1024, pos_embed_seq_len=None)
        p = patch
        self.patch, self.window = p, window
        self.patch_embedding = nn.Conv3d(2 * channels, dim, (1, p, p), (1, p, p))
        self.condition_embedder = Condition(dim, 256, text)
        self.blocks = nn.ModuleList([Block(dim, ffn, heads) for _ in range(layers)])
        self.proj_out = nn.Linear(dim, channels * p * p)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        nn.init.zeros_(self.proj_out.weight); nn.init.zeros_(self.proj_out.bias)
        self.rope = {}

    def forward(self, x, t, text):
        """x `[b, 2c, f, h, w]`, t `[b, f]` in 0..1000, text `[b, words, text]` -> velocity `[b, c, f, h, w]`."""
        b, _, f, h, w = x.shape
        p = self.patch
        if (f, h, w) not in self.rope:
            self.rope[f, h, w] = rope_tables(f, h // p, w // p, self.config["attention_head_dim"])
        e, temb = self.condition_embedder(t)
        text = self.condition_embedder.text_embedder(text)
        y = self.patch_embedding(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            y = block(y, text, temb, self.rope[f, h, w], f, self.window)
        shift, scale = (self.scale_shift_table[:, None] + e.unsqueeze(2)).chunk(2, 2)
        y = F.layer_norm(y, y.shape[-1:], eps=1e-6).unflatten(1, (f, -1))
        y = self.proj_out((y * (1 + scale) + shift).flatten(1, 2))
        y = y.view(b, f, h // p, w // p, p, p, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return y.reshape(b, -1, f, h, w)
