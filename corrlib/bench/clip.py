"""A made-up clip that is quick to draw: ellipses with their own textures over a moving ground."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def moving_ellipses(
    frames: int, height: int, width: int, objects: int, seed: int = 0, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames ``(T, 3, H, W)`` and masks ``(T, H, W)``, both uint8.

    Each object circles around a place of its own, one turn in 40 frames, and passes the border or
    another object on its way; the ground drifts. ``scale`` makes the objects smaller, and their
    circles not.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(height, dtype=torch.float32)[:, None]
    x = torch.arange(width, dtype=torch.float32)
    ground = _texture(height, width + 2 * frames, generator)
    textures = [_texture(height, width, generator) for _ in range(objects)]
    centres = torch.rand(objects, 2, generator=generator) * 0.5 + 0.25
    pictures, masks = [], []
    for index in range(frames):
        picture = ground[:, :, 2 * index : 2 * index + width].clone()
        mask = torch.zeros(height, width, dtype=torch.uint8)
        for number, (centre, texture) in enumerate(zip(centres, textures, strict=True), start=1):
            angle = 2 * math.pi * (index / 40 + number / 5)
            dy, dx = round(0.2 * height * math.sin(angle)), round(0.2 * width * math.cos(angle))
            cy, cx = centre[0] * height + dy, centre[1] * width + dx
            ry, rx = 0.16 * scale * height, 0.11 * scale * width
            inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            picture = torch.where(inside, texture.roll((dy, dx), (1, 2)), picture)
            mask[inside] = number
        pictures.append(picture)
        masks.append(mask)
    return torch.stack(pictures), torch.stack(masks)


def _texture(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Noise at three scales about a colour, uint8 ``(3, h, w)``."""
    picture = torch.rand(3, 1, 1, generator=generator)
    for grain, strength in ((64, 0.5), (16, 0.3), (5, 0.2)):
        noise = torch.rand(1, 3, height // grain + 2, width // grain + 2, generator=generator)
        noise = F.interpolate(noise, (height, width), mode="bilinear")[0]
        picture = picture + strength * (noise - 0.5)
    return (255 * picture.clamp(0, 1)).to(torch.uint8)
