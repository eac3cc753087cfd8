"""Qwen2.5-VL in plain PyTorch, for training: batches of images of one size, one layout of tokens.

State-dict names are those of transformers' modules, so export.py only renames prefixes. Checked
against transformers by tests/tools/train_nano/model_test.py.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    vision_width: int = 192
    vision_depth: int = 8
    vision_heads: int = 4
    vision_mlp: int = 576
    patch: int = 14
    merge: int = 2
    window: int = 112  # px
    full_blocks: tuple[int, ...] = (2, 5, 7)  # the others attend within windows
    width: int = 256
    depth: int = 8
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 768
    vocab: int = 4096
    theta: float = 10000.0
    sections: tuple[int, ...] = (8, 12, 12)  # of head_dim / 2: time, height, width
    eps: float = 1e-6

    @property
    def cell(self) -> int:
        """px of an image's side per image token."""
        return self.patch * self.merge


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), -1) * sin.to(x.dtype)


class GatedMlp(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias)
        self.up_proj = nn.Linear(width, inner, bias)
        self.down_proj = nn.Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        groups, length, width = x.shape
        qkv = self.qkv(x).view(groups, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(groups, length, width))


class VisionBlock(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(c.vision_width, c.eps), RMSNorm(c.vision_width, c.eps)
        self.attn = VisionAttention(c.vision_width, c.vision_heads)
        self.mlp = GatedMlp(c.vision_width, c.vision_mlp, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """x [groups, length, width]; a group is an image, or one window of an image."""
        x = x + self.attn(self.norm1(x), cos, sin, mask)
        return x + self.mlp(self.norm2(x))


class PatchLayout:
    """Index maps of one patch grid. Patches go merge block by merge block, as transformers has them;
    windows are padded to equal length so that they batch."""

    _known: dict[tuple, "PatchLayout"] = {}

    def __init__(self, grid_h: int, grid_w: int, c: Config, device: torch.device):
        m, half = c.merge, c.vision_width // c.vision_heads // 2
        rows = torch.arange(grid_h)[:, None].expand(grid_h, grid_w)
        columns = torch.arange(grid_w)[None].expand(grid_h, grid_w)

        def by_block(t: Tensor) -> Tensor:
            return t.reshape(grid_h // m, m, grid_w // m, m).permute(0, 2, 1, 3).reshape(-1)

        frequency = 1 / (10000 ** (torch.arange(0, half, 2).float() / half))
        angle = torch.cat([by_block(rows)[:, None] * frequency, by_block(columns)[:, None] * frequency], -1)
        angle = torch.cat([angle, angle], -1)
        self.cos, self.sin = angle.cos().to(device), angle.sin().to(device)

        cells_h, cells_w, side = grid_h // m, grid_w // m, c.window // c.patch // m
        pad_h, pad_w = -cells_h % side, -cells_w % side
        cells = F.pad(torch.arange(cells_h * cells_w).reshape(cells_h, cells_w), (0, pad_w, 0, pad_h), value=-1)
        cells = cells.reshape((cells_h + pad_h) // side, side, (cells_w + pad_w) // side, side)
        cells = cells.permute(0, 2, 1, 3).reshape(-1, side * side, 1)
        patches = torch.where(cells >= 0, cells * m * m + torch.arange(m * m), -1)
        patches = patches.reshape(patches.shape[0], -1)
        self.windows, self.window_length = patches.shape
        real = patches.reshape(-1) >= 0
        back = torch.empty(grid_h * grid_w, dtype=torch.long)
        back[patches.reshape(-1)[real]] = torch.arange(patches.numel())[real]
        self.to_windows, self.from_windows = patches.clamp(min=0).reshape(-1).to(device), back.to(device)
        self.window_mask = None if bool(real.all()) else (patches >= 0)[:, None, None].to(device)
        shape = self.windows, 1, self.window_length, -1
        self.window_cos, self.window_sin = (t[self.to_windows].view(shape) for t in (self.cos, self.sin))

    @classmethod
    def of(cls, grid_h: int, grid_w: int, c: Config, device: torch.device) -> "PatchLayout":
        key = grid_h, grid_w, c, str(device)
        if key not in cls._known:
            cls._known[key] = cls(grid_h, grid_w, c, device)
        return cls._known[key]


class Vision(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        kernel = (2, c.patch, c.patch)
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv3d(3, c.vision_width, kernel, stride=kernel, bias=False)})
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.vision_depth))
        joined = c.vision_width * c.merge**2
        self.merger = nn.ModuleDict({
            "ln_q": RMSNorm(c.vision_width, c.eps),
            "mlp": nn.Sequential(nn.Linear(joined, joined), nn.GELU(), nn.Linear(joined, c.width))})

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised, sides multiples of config.cell -> [B, image tokens, width], raster."""
        c = self.config
        b, _, height, width = images.shape
        p, m, grid_h, grid_w = c.patch, c.merge, height // c.patch, width // c.patch
        layout = PatchLayout.of(grid_h, grid_w, c, images.device)
        x = images.reshape(b, 3, grid_h // m, m, p, grid_w // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        x = x.reshape(b, grid_h * grid_w, 3, 1, p * p).expand(-1, -1, -1, 2, -1)  # a still: both frames
        kernel = self.patch_embed["proj"].weight
        x = F.linear(x.reshape(b, grid_h * grid_w, -1), kernel.flatten(1).to(x.dtype))
        windowed = False
        for i, block in enumerate(self.blocks):
            if (i not in c.full_blocks) != windowed:
                x, windowed = self._leave(x, b, layout) if windowed else self._enter(x, layout), not windowed
            if windowed:
                cos, sin = (t.repeat(b, 1, 1, 1) for t in (layout.window_cos, layout.window_sin))
                mask = None if layout.window_mask is None else layout.window_mask.repeat(b, 1, 1, 1)
                x = block(x, cos, sin, mask)
            else:
                x = block(x, layout.cos[None, None], layout.sin[None, None], None)
        if windowed:
            x = self._leave(x, b, layout)
        return self.merger["mlp"](self.merger["ln_q"](x).reshape(b, -1, c.vision_width * m * m))

    @staticmethod
    def _enter(x: Tensor, layout: PatchLayout) -> Tensor:
        return x[:, layout.to_windows].reshape(-1, layout.window_length, x.shape[-1])

    @staticmethod
    def _leave(x: Tensor, b: int, layout: PatchLayout) -> Tensor:
        return x.reshape(b, layout.windows * layout.window_length, -1)[:, layout.from_windows]


class TextAttention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config, self.head = c, c.width // c.heads
        self.q_proj = nn.Linear(c.width, c.heads * self.head)
        self.k_proj = nn.Linear(c.width, c.kv_heads * self.head)
        self.v_proj = nn.Linear(c.width, c.kv_heads * self.head)
        self.o_proj = nn.Linear(c.heads * self.head, c.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, length, _ = x.shape
        q, k, v = (f(x).view(b, length, -1, self.head).transpose(1, 2)
                   for f in (self.q_proj, self.k_proj, self.v_proj))
        group = self.config.heads // self.config.kv_heads
        k, v = _rotate(k, cos, sin).repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        out = F.scaled_dot_product_attention(_rotate(q, cos, sin), k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, length, -1))


class TextBlock(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c.width, c.eps), RMSNorm(c.width, c.eps)
        self.self_attn = TextAttention(c)
        self.mlp = GatedMlp(c.width, c.mlp, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Text(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed_tokens = nn.Embedding(c.vocab, c.width)
        self.layers = nn.ModuleList(TextBlock(c) for _ in range(c.depth))
        self.norm = RMSNorm(c.width, c.eps)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[3, S] -> cos, sin [1, 1, S, head]: M-RoPE, each section of the head from its own axis."""
        c = self.config
        head = c.width // c.heads
        steps = torch.arange(0, head, 2, device=positions.device).float()
        angle = positions[:, :, None].float() / c.theta ** (steps / head)
        angle = torch.cat([part[axis] for axis, part in enumerate(angle.split(c.sections, -1))], -1)
        angle = torch.cat([angle, angle], -1)[None, None]
        return angle.cos(), angle.sin()


def positions(before: int, cells_h: int, cells_w: int, after: int, device: torch.device) -> Tensor:
    """[3, S] (time, height, width) of `before` tokens, one image, `after` tokens."""
    at = lambda n: torch.arange(n, device=device)
    row = at(cells_h)[:, None].expand(cells_h, cells_w).reshape(-1)
    column = at(cells_w)[None].expand(cells_h, cells_w).reshape(-1)
    image = torch.stack([torch.zeros_like(row), row, column]) + before
    text = lambda n, start: (at(n) + start).expand(3, n)
    return torch.cat([text(before, 0), image, text(after, before + max(cells_h, cells_w))], 1)


class Nano(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.model = nn.ModuleDict({"visual": Vision(c), "language_model": Text(c)})
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02 if "embed_tokens" in name else (0.4 / p[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, images: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """before [P]: the ids up to <|vision_start|>, the same for all; after [B, T]: the ids from
        <|vision_end|> on. -> hidden states of `after` [B, T, width], image tokens [B, N, width]."""
        text, cell = self.model["language_model"], self.config.cell
        seen = self.model["visual"](images)
        head = text.embed_tokens(before).expand(len(images), -1, -1)
        x = torch.cat([head.to(seen.dtype), seen, text.embed_tokens(after).to(seen.dtype)], 1)
        cos, sin = text.rope(positions(len(before), images.shape[2] // cell, images.shape[3] // cell,
                                       after.shape[1], images.device))
        for layer in text.layers:
            x = layer(x, cos, sin)
        return text.norm(x[:, -after.shape[1]:]), seen

    def logits(self, hidden: Tensor) -> Tensor:
        """The head is the embedding table."""
        return F.linear(hidden, self.model["language_model"].embed_tokens.weight.to(hidden.dtype))
