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


def ways_home(
    outward: Sequence[torch.Tensor], homeward: Sequence[torch.Tensor]
) -> list[list[torch.Tensor]]:
    """Labels on their way home, for every turning point.

    Args:
        outward: labels ``(B, K, h, w)`` that walked to frame 1, 2, ... by their own copies; what
            :func:`walk` returns.
        homeward: affinities back: ``homeward[t]`` copies frame t + 1 to frame t.

    Returns:
        For those that turn at frame 1, at frame 2, ...: the labels at every frame they come to,
        the one before the turning point first and frame 0 last.
    """
    return [walk(labels, homeward[: turn + 1][::-1]) for turn, labels in enumerate(outward)]


def round_trip(
    outward: Sequence[torch.Tensor], homeward: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Labels back at frame 0 after turning at frame 1, at frame 2, ...; see :func:`ways_home`."""
    return [way[-1] for way in ways_home(outward, homeward)]
