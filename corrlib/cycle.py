"""Cycle consistency: labels that walk along a clip and back should come home.

No frame in between is compared with anything, so the walk is judged over any distance, even where
light or pose have changed the colours that reconstruction relies on (Lai & Xie 2019, §3.3). Every
step copies what the step before copied, softly; gradients run through the whole walk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from corrlib.affinity import transport


def walk(values: torch.Tensor, affinities: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy ``values (B, D, h, w)`` along a chain of affinities; returns them after each step."""
    steps = []
    for affinity in affinities:
        values = transport(values, affinity)
        steps.append(values)
    return steps


def round_trip(
    outward: Sequence[torch.Tensor], homeward: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Labels that went out and came home, once for every turning point.

    Args:
        outward: labels ``(B, K, h, w)`` that walked to frame 1, 2, ... by their own copies; what
            :func:`walk` returns.
        homeward: affinities back: ``homeward[t]`` copies frame t + 1 to frame t.

    Returns:
        Labels back at frame 0 after turning at frame 1, at frame 2, ...
    """
    return [
        walk(labels, homeward[: turn + 1][::-1])[-1] for turn, labels in enumerate(outward)
    ]
