"""Restricted affinity and transport written as the definition says. Slow; the fast path's oracle.

One shifted copy of the reference per offset. Every step is an ordinary differentiable tensor
operation, so PyTorch derives the gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def restricted_affinity(
    reference: torch.Tensor, target: torch.Tensor, radius: int, temperature: float = 1.0
) -> torch.Tensor:
    """As :func:`corrlib.affinity.restricted_affinity`, with the same shapes."""
    if reference.dim() == 4:
        reference = reference.unsqueeze(1)
    scores = []
    for index in range(reference.shape[1]):
        inside = torch.ones_like(target[:1, :1])
        for dy, dx in offsets(radius):
            shifted = shift(reference[:, index], dy, dx)
            score = (shifted * target).sum(dim=1) / temperature
            outside = shift(inside, dy, dx)[:, 0] == 0
            scores.append(score.masked_fill(outside, -torch.inf))
    return torch.stack(scores, dim=1).softmax(dim=1)


def transport(values: torch.Tensor, affinity: torch.Tensor, radius: int) -> torch.Tensor:
    """As :func:`corrlib.affinity.transport` for a restricted affinity."""
    if values.dim() == 4:
        values = values.unsqueeze(1)
    copied = torch.zeros_like(values[:, 0])
    place = 0
    for index in range(values.shape[1]):
        for dy, dx in offsets(radius):
            copied = copied + affinity[:, place : place + 1] * shift(values[:, index], dy, dx)
            place += 1
    return copied


def offsets(radius: int) -> list[tuple[int, int]]:
    """All (dy, dx) with |dy|, |dx| ≤ radius, row-major."""
    steps = range(-radius, radius + 1)
    return [(dy, dx) for dy in steps for dx in steps]


def shift(maps: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """The map whose cell p holds ``maps`` at p + (dy, dx), and 0 where that is outside."""
    height, width = maps.shape[-2:]
    reach_y, reach_x = abs(dy), abs(dx)
    padded = F.pad(maps, (reach_x, reach_x, reach_y, reach_y))
    top, left = reach_y + dy, reach_x + dx
    return padded[..., top : top + height, left : left + width]
