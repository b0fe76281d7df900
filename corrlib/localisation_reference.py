"""Localisation and its crop written as the definition says. Slow; the fast path's oracle.

Loops over cells; every step is an ordinary differentiable tensor operation, so PyTorch derives the
gradients.
"""

from __future__ import annotations

import torch


def locate(
    affinity: torch.Tensor, reference: tuple[int, int], target: tuple[int, int], stride: int = 1
) -> torch.Tensor:
    """As :func:`corrlib.localisation.locate`, with the same shapes."""
    x = y = torch.zeros_like(affinity[:, 0])
    for row in range(reference[0]):
        for column in range(reference[1]):
            share = affinity[:, row * reference[1] + column]
            x = x + share * (column * stride + (stride - 1) / 2)
            y = y + share * (row * stride + (stride - 1) / 2)
    return torch.stack([x, y], dim=1).unflatten(2, target)


def patch_boxes(
    coordinates: torch.Tensor, patch: tuple[int, int], frame: tuple[int, int]
) -> torch.Tensor:
    """As :func:`corrlib.localisation.patch_boxes`."""
    boxes = []
    for x, y in coordinates:
        left = x.mean() - patch[1] / 2
        top = y.mean() - patch[0] / 2
        left = left.clamp(-0.5, frame[1] - 0.5 - patch[1])
        top = top.clamp(-0.5, frame[0] - 0.5 - patch[0])
        boxes.append(torch.stack([left, top, left + patch[1], top + patch[0]]))
    return torch.stack(boxes)


def crop(
    maps: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], stride: int = 1
) -> torch.Tensor:
    """As :func:`corrlib.localisation.crop`."""
    height, width = maps.shape[2:]
    cropped = []
    for image, (left, top, right, bottom) in zip(maps, boxes, strict=True):
        rows = []
        for row in range(size[0]):
            y = top + (row + 0.5) * (bottom - top) / size[0]
            y = ((y - (stride - 1) / 2) / stride).clamp(0, height - 1)
            above = min(int(y), max(height - 2, 0))
            below = min(above + 1, height - 1)
            cells = []
            for column in range(size[1]):
                x = left + (column + 0.5) * (right - left) / size[1]
                x = ((x - (stride - 1) / 2) / stride).clamp(0, width - 1)
                before = min(int(x), max(width - 2, 0))
                after = min(before + 1, width - 1)
                upper = image[:, above, before] * (1 - (x - before))
                upper = upper + image[:, above, after] * (x - before)
                lower = image[:, below, before] * (1 - (x - before))
                lower = lower + image[:, below, after] * (x - before)
                cells.append(upper * (1 - (y - above)) + lower * (y - above))
            rows.append(torch.stack(cells, dim=1))
        cropped.append(torch.stack(rows, dim=1))
    return torch.stack(cropped)
