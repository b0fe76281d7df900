"""Exercises of notebook 03: scores within a window, and a softmax that knows the image's border."""

from __future__ import annotations

import torch

from corrlib.affinity import normalise
from corrlib.affinity_reference import offsets, shift
from corrlib.checks import Check, Mistake


def scores(reference: torch.Tensor, target: torch.Tensor, radius: int) -> torch.Tensor:
    """Dot products of each target cell with the cells of its window.

    Args:
        reference, target: features ``(B, C, h, w)``.
        radius: M, in cells.

    Returns:
        ``(B, (2M+1)², h, w)``, offsets row-major (dy, dx), 0 for cells outside the image.
    """
    moved = [shift(reference, dy, dx) for dy, dx in offsets(radius)]
    return torch.stack([(one * target).sum(dim=1) for one in moved], dim=1)


def inside(height: int, width: int, radius: int) -> torch.Tensor:
    """Whether a window's cell lies in the image: bool ``((2M+1)², h, w)``."""
    ones = torch.ones(height, width)
    return torch.stack([shift(ones, dy, dx) for dy, dx in offsets(radius)]) == 1


def weights(scores: torch.Tensor, radius: int) -> torch.Tensor:
    """Softmax of ``(B, (2M+1)², h, w)`` over the cells of each window that lie in the image."""
    outside = ~inside(*scores.shape[2:], radius)
    return scores.masked_fill(outside, -torch.inf).softmax(dim=1)


def _feature_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, channels, height, width, radius in ((2, 3, 4, 6, 1), (1, 4, 5, 3, 2)):
        shape = batch, channels, height, width
        reference, target = (torch.randn(shape, generator=generator) for _ in range(2))
        cases.append((reference, target, radius))
    return cases


def _score_cases(generator: torch.Generator) -> list[tuple]:
    """Sparse features: many true correlations are exactly 0, but never all of a window's."""
    cases = []
    for batch, height, width, radius in ((2, 4, 6, 1), (1, 5, 3, 2)):
        shape = batch, 3, height, width
        reference, target = (
            normalise(torch.randn(shape, generator=generator).relu()) for _ in range(2)
        )
        found = scores(reference, target, radius)
        here = found[:, found.shape[1] // 2]
        here[here == 0] = 0.5
        cases.append((found / 0.25, radius))
    return cases


def _columns_outermost(reference, target, radius):
    side = 2 * radius + 1
    found = scores(reference, target, radius)
    return found.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


def _other_way(reference, target, radius):
    return scores(reference, target, radius).flip(1)


def _wrapped(reference, target, radius):
    moved = [torch.roll(reference, (-dy, -dx), dims=(2, 3)) for dy, dx in offsets(radius)]
    return torch.stack([(one * target).sum(dim=1) for one in moved], dim=1)


def _wrapped_other_way(reference, target, radius):
    return _wrapped(reference, target, radius).flip(1)


def _without_last(reference, target, radius):
    steps = range(-radius, radius)
    moved = [shift(reference, dy, dx) for dy in steps for dx in steps]
    return torch.stack([(one * target).sum(dim=1) for one in moved], dim=1)


def _target_moved(reference, target, radius):
    return scores(target, reference, radius)


def _mean(reference, target, radius):
    return scores(reference, target, radius) / reference.shape[1]


def _zero_means_outside(scores, radius):
    return scores.masked_fill(scores == 0, -torch.inf).softmax(dim=1)


def _border_ignored(scores, radius):
    return scores.softmax(dim=1)


def _cleared_afterwards(scores, radius):
    return scores.softmax(dim=1) * inside(*scores.shape[2:], radius)


def _inside_excluded(scores, radius):
    is_inside = inside(*scores.shape[2:], radius)
    return scores.masked_fill(is_inside, -torch.inf).softmax(dim=1)


def _over_the_image(scores, radius):
    outside = ~inside(*scores.shape[2:], radius)
    return scores.masked_fill(outside, -torch.inf).flatten(2).softmax(dim=2).view_as(scores)


window_scores = Check(
    name="window_scores",
    solution=scores,
    cases=_feature_cases,
    mistakes=(
        Mistake(
            "the offsets come column by column; row-major means that dy is the outer loop and dx "
            "the inner one",
            _columns_outermost,
        ),
        Mistake(
            "the window is turned round: offset (dy, dx) compares target q with reference "
            "q + (dy, dx), not q - (dy, dx)",
            _other_way,
        ),
        Mistake(
            "torch.roll lets the picture's left border look at its right one; beyond the border "
            "there are only zeros",
            _wrapped,
        ),
        Mistake(
            "torch.roll lets borders look at the opposite side, and it moves the reference the "
            "wrong way: q wants what is at q + (dy, dx)",
            _wrapped_other_way,
        ),
        Mistake(
            "offsets run from -M to M, both included: 2M + 1 per axis",
            _without_last,
        ),
        Mistake(
            "reference and target are swapped: the target stays, the reference is looked up at "
            "q + (dy, dx)",
            _target_moved,
        ),
        Mistake("a dot product is the sum over channels, not their mean", _mean),
    ),
)

window_softmax = Check(
    name="window_softmax",
    solution=weights,
    cases=_score_cases,
    mistakes=(
        Mistake(
            "a score of 0 is not the mark of a cell outside: orthogonal features score 0, too. "
            "Work out from its position whether a cell is inside",
            _zero_means_outside,
        ),
        Mistake(
            "cells outside still take part with exp(0) = 1: set their scores to minus infinity "
            "before the softmax",
            _border_ignored,
        ),
        Mistake(
            "clearing cells after the softmax leaves columns that do not sum to 1: exclude them "
            "before it, by a score of minus infinity",
            _cleared_afterwards,
        ),
        Mistake(
            "you exclude the cells that lie inside, and a softmax over nothing is NaN: minus "
            "infinity belongs to those outside",
            _inside_excluded,
        ),
        Mistake(
            "the softmax runs over the image; it belongs over the window, dimension 1",
            _over_the_image,
        ),
    ),
)
