"""No motion at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from corrlib.masks import check_mask


def identity(frames: Iterable[torch.Tensor], mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """The first mask ``(H, W)`` for every frame: what a video scores in which nothing moves."""
    for index, frame in enumerate(frames):
        if index == 0:
            check_mask(mask, *frame.shape[1:])
        yield mask
