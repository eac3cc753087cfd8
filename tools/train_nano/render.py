"""Draws batches of scenes on the training device: plain, fast, different every time.

The images that people look at come from draw.py.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Renderer:
    """atlas uint8 [N, 4, A, A] premultiplied RGBA; photos uint8 [P, 3, H, W] or None."""

    def __init__(self, atlas: Tensor, photos: Tensor | None, device: torch.device, photo_share: float = 0.5):
        self.atlas = atlas.to(device)
        self.photos = None if photos is None else photos.to(device)
        self.device, self.photo_share = device, photo_share

    @torch.no_grad()
    def __call__(self, height: int, width: int, sprites: Tensor, affine: Tensor, tints: Tensor,
                 tinted: Tensor, random: torch.Generator, cell: int = 28) -> tuple[Tensor, Tensor]:
        """sprites [B, K] (-1: none), affine [B, K, 5] = x, y, size, angle, flip, tints [B, K, 3] 0-1,
        tinted [B, K] bool -> images [B, 3, H, W] in 0-1, and [B, K, H/cell, W/cell]: how much of
        each image token's cell shows each object."""
        b, count = sprites.shape
        uniform = lambda *shape: torch.rand(*shape, device=self.device, generator=random)
        canvas = self._background(b, height, width, random)
        shown = torch.zeros(b, count, height // cell, width // cell, device=self.device)
        for k in range(count):
            present = (sprites[:, k] >= 0).float()[:, None, None, None]
            if not present.any():
                continue
            image = self._warped(height, width, sprites[:, k].clamp(min=0), affine[:, k])
            color, alpha = image[:, :3], image[:, 3:]
            plain = alpha * tints[:, k, :, None, None] * (0.85 + 0.15 * color / alpha.clamp(min=1e-3))
            color = torch.where(tinted[:, k, None, None, None], plain, color)
            canvas = canvas * (1 - alpha * present) + color * present
            part = F.avg_pool2d(alpha * present, cell)[:, 0]
            shown *= (1 - part)[:, None]
            shown[:, k] = part
        canvas = (canvas - 0.5) * (0.8 + 0.4 * uniform(b, 1, 1, 1)) + 0.5 + (uniform(b, 1, 1, 1) - 0.5) * 0.16
        grain = torch.randn(canvas.shape, device=self.device, generator=random)
        return (canvas + grain * 0.03 * uniform(b, 1, 1, 1)).clamp(0, 1), shown

    def _warped(self, height: int, width: int, sprites: Tensor, affine: Tensor) -> Tensor:
        """[B, 4, H, W] premultiplied; sprites under their atlas size blend in a coarser copy."""
        x, y, size, angle, flip = affine.unbind(-1)
        scale, sign = 2 / size.clamp(min=1), torch.where(flip > 0.5, -1.0, 1.0)
        c, s = scale * angle.cos(), scale * angle.sin()
        dx, dy = width / 2 - x, height / 2 - y
        to_sprite = torch.stack([
            torch.stack([c * width / 2, s * height / 2, c * dx + s * dy], -1) * sign[:, None],
            torch.stack([-s * width / 2, c * height / 2, c * dy - s * dx], -1)], 1)
        grid = F.affine_grid(to_sprite, [len(sprites), 4, height, width], align_corners=False)
        fine = self.atlas[sprites].float() / 255
        coarse = F.avg_pool2d(fine, 2)
        blend = (fine.shape[-1] / size.clamp(min=1)).log2().clamp(0, 1)[:, None, None, None]
        return torch.lerp(F.grid_sample(fine, grid, align_corners=False),
                          F.grid_sample(coarse, grid, align_corners=False), blend)

    def _background(self, b: int, height: int, width: int, random: torch.Generator) -> Tensor:
        """Colour, noise of four scales and waves; in part of the images a photograph."""
        uniform = lambda *shape: torch.rand(*shape, device=self.device, generator=random)
        canvas = uniform(b, 3, 1, 1).expand(b, 3, height, width).clone()
        for knots in (2, 4, 9, 24):
            noise = torch.randn(b, 3, knots, knots, device=self.device, generator=random)
            noise = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
            canvas += noise * (uniform(b, 1, 1, 1) * 0.22 * (uniform(b, 1, 1, 1) < 0.5))
        down = torch.linspace(0, 1, height, device=self.device)[:, None]
        across = torch.linspace(0, 1, width, device=self.device)[None]
        turn, pace = uniform(b, 1, 1, 1) * 2 * math.pi, uniform(b, 1, 1, 1) * 30 + 4
        wave = torch.sin((across * turn.cos() + down * turn.sin()) * pace * 2 * math.pi)
        canvas += wave * (uniform(b, 3, 1, 1) * 0.12) * (uniform(b, 1, 1, 1) < 0.2)
        if self.photos is not None:
            use = (uniform(b, 1, 1, 1) < self.photo_share).float()
            canvas = torch.lerp(canvas, self._photographs(b, height, width, random), use)
        return canvas.clamp(0, 1)

    def _photographs(self, b: int, height: int, width: int, random: torch.Generator) -> Tensor:
        uniform = lambda *shape: torch.rand(*shape, device=self.device, generator=random)
        chosen = torch.randint(len(self.photos), (b,), device=self.device, generator=random)
        scale = uniform(b) * 0.6 + 0.35
        x, y = ((uniform(b) * 2 - 1) * (1 - scale) for _ in range(2))
        sign, zero = torch.where(uniform(b) < 0.5, 1.0, -1.0), torch.zeros_like(scale)
        crop = torch.stack([torch.stack([scale * sign, zero, x], -1), torch.stack([zero, scale, y], -1)], 1)
        grid = F.affine_grid(crop, [b, 3, height, width], align_corners=False)
        photo = F.grid_sample(self.photos[chosen].float() / 255, grid, padding_mode="reflection",
                              align_corners=False)
        return photo * (0.6 + 0.4 * uniform(b, 1, 1, 1)) + uniform(b, 3, 1, 1) * 0.15
