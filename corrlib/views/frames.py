"""Frames and maps as figures take them: which ones, in colour or grey, as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from corrlib.errors import InputError
from corrlib.masks import overlay


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices spread evenly over ``range(count)``, both ends included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def masked(
    frame: torch.Tensor, masks: torch.Tensor | Mapping[int, torch.Tensor] | None, index: int
) -> np.ndarray:
    """The frame in colour, or in grey under its mask, which stands out there on any object."""
    if masks is None or (isinstance(masks, Mapping) and index not in masks):
        return rgb(frame)
    return rgb(overlay(grey(frame), masks[index]))


def grey(picture: torch.Tensor) -> torch.Tensor:
    """A picture ``(3, H, W)`` without its colours, uint8: an overlay shows on any object then."""
    return _bytes(picture).float().mean(dim=0, keepdim=True).expand(3, -1, -1).to(torch.uint8)


def _bytes(picture: torch.Tensor) -> torch.Tensor:
    if picture.dtype == torch.uint8:
        return picture
    return (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def rgb(picture: torch.Tensor) -> np.ndarray:
    """``(3, H, W)`` uint8 or float in [0, 1] to ``(H, W, 3)`` uint8."""
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise InputError(f"expected a picture (3, H, W), got shape {tuple(picture.shape)}")
    return _bytes(picture).cpu().permute(1, 2, 0).numpy()


def to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()


def aspect(picture: torch.Tensor) -> float:
    return picture.shape[-2] / picture.shape[-1]
