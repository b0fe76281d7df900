"""Affinity: how much each reference cell explains each target cell, and copying through it.

For features f (L2-normalised by :func:`normalise` or as they are) and temperature τ, ::

    A[i, j] = exp(f_ref[:, i] · f_tar[:, j] / τ) / Σ_k exp(f_ref[:, k] · f_tar[:, j] / τ)

so every target column sums to 1 (Li et al. 2019, §3.1). *Full* affinity lets k run over all cells
of all references; *restricted* affinity only over the ``(2M+1)²`` cells around the target's own
position (Lai & Xie 2019, §3.2). :func:`transport` copies any values through either.

The authors of CorrFlow use features as they are and τ = 1; later work normalises and divides by
τ = 0.05-0.07.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from corrlib import tiles
from corrlib.errors import InputError


def normalise(features: torch.Tensor) -> torch.Tensor:
    """Scale every feature vector of ``(..., C, h, w)`` to length 1; dot products become cosines."""
    return F.normalize(features, dim=-3)


def full_affinity(
    reference: torch.Tensor, target: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Softmax over all reference cells, for every target cell.

    Args:
        reference: ``(B, C, h, w)``, or ``(B, R, C, h, w)`` for R references at once.
        target: ``(B, C, h', w')``; the size may differ from the reference's.
        temperature: τ > 0; smaller is sharper.

    Returns:
        ``(B, R·h·w, h'·w')``; every column sums to 1. Memory grows with the square of the map.
    """
    reference = _as_references(reference, target)
    _check_temperature(temperature)
    cells = reference.transpose(1, 2).flatten(2)  # (B, C, R·h·w)
    scores = cells.transpose(1, 2) @ (target.flatten(2) / temperature)
    return scores.softmax(dim=1)


def restricted_affinity(
    reference: torch.Tensor, target: torch.Tensor, radius: int, temperature: float = 1.0
) -> torch.Tensor:
    """Softmax over the reference cells at most ``radius`` rows and columns away.

    Args:
        reference: ``(B, C, h, w)``, or ``(B, R, C, h, w)`` for R references at once.
        target: ``(B, C, h, w)``, same size.
        radius: M ≥ 1, in cells.
        temperature: τ > 0.

    Returns:
        ``(B, R·(2M+1)², h, w)``: the references outermost, then offsets in row-major (dy, dx)
        order from (-M, -M). Cells outside the image are exactly 0; a true correlation of zero is
        not mistaken for one.
    """
    reference = _as_references(reference, target)
    _check_temperature(temperature)
    if radius < 1:
        raise InputError(f"expected a radius of at least 1 cell, got {radius}")
    if reference.shape[-2:] != target.shape[-2:]:
        raise InputError(
            f"restricted affinity compares maps of one size, got reference "
            f"{tuple(reference.shape[-2:])} and target {tuple(target.shape[-2:])}"
        )
    batch, count = reference.shape[:2]
    targets = (target / temperature).unsqueeze(1).expand_as(reference)
    scores = tiles.correlate(targets.flatten(0, 1), reference.flatten(0, 1), radius)
    scores = _ExcludeOutside.apply(scores, radius)  # (B·R, h, w, K)
    scores = scores.unflatten(0, (batch, count)).movedim(1, 3).flatten(3)  # (B, h, w, R·K)
    return scores.softmax(dim=-1).permute(0, 3, 1, 2)


def keep_top(affinity: torch.Tensor, k: int) -> torch.Tensor:
    """Keep each target's ``k`` largest affinities and rescale them to sum to 1.

    The same as a softmax over the k best scores alone. Works on full and restricted affinity.
    """
    if k < 1:
        raise InputError(f"expected to keep at least 1 reference cell, got {k}")
    if k >= affinity.shape[1]:
        return affinity
    weight, index = affinity.topk(k, dim=1)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return torch.zeros_like(affinity).scatter(1, index, weight)


def transport(
    values: torch.Tensor, affinity: torch.Tensor, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Copy reference values to the target: each target cell gets its weighted mean.

    Values can be anything that lives on the reference grid: colours, one-hot labels, heat maps,
    coordinates (Li et al. 2019, eq. 2).

    Args:
        values: ``(B, D, h, w)``, or ``(B, R, D, h, w)`` for R references at once.
        affinity: full ``(B, R·h·w, n_tar)`` or restricted ``(B, R·(2M+1)², h, w)``.
        size: height and width of the target map, for a full affinity between maps of two sizes;
            the reference's own by default.

    Returns:
        ``(B, D, h', w')``.
    """
    if (
        values.dim() not in (4, 5)
        or affinity.dim() not in (3, 4)
        or values.shape[0] != affinity.shape[0]
    ):
        raise InputError(
            "expected values (B, D, h, w) or (B, R, D, h, w) and affinity (B, R·h·w, n_tar) or "
            f"(B, R·(2M+1)², h, w), got {tuple(values.shape)} and {tuple(affinity.shape)}"
        )
    if values.dim() == 4:
        values = values.unsqueeze(1)
    count, _, height, width = values.shape[1:]
    if affinity.dim() == 3:
        return _transport_full(values, affinity, size or (height, width))
    side = math.isqrt(affinity.shape[1] // count)
    if count * side**2 != affinity.shape[1] or side % 2 == 0:
        raise InputError(
            f"expected {count} x (2M+1)² restricted affinities for {count} reference(s), "
            f"got {affinity.shape[1]}"
        )
    if affinity.shape[2:] != values.shape[3:]:
        raise InputError(
            f"expected values of the affinity's size {tuple(affinity.shape[2:])}, "
            f"got {tuple(values.shape[3:])}"
        )
    weights = affinity.unflatten(1, (count, -1)).permute(0, 1, 3, 4, 2).flatten(0, 1)
    copied = tiles.gather(weights, values.flatten(0, 1), (side - 1) // 2)
    return copied.unflatten(0, (-1, count)).sum(dim=1)


def _transport_full(
    values: torch.Tensor, affinity: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    cells = values.transpose(1, 2).flatten(2)  # (B, D, R·h·w)
    if cells.shape[2] != affinity.shape[1]:
        raise InputError(
            f"expected an affinity over {cells.shape[2]} reference cells, got {affinity.shape[1]}"
        )
    if size[0] * size[1] != affinity.shape[2]:
        raise InputError(
            f"the affinity has {affinity.shape[2]} targets, which is not {size[0]} x {size[1]}: "
            "give the target's size=(height, width)"
        )
    return (cells @ affinity).unflatten(2, size)


class _ExcludeOutside(torch.autograd.Function):
    """Set scores of cells outside the image to -inf, in place, before a softmax.

    Only the border is touched. The softmax's own derivative is exactly 0 there, so the gradient
    passes unchanged.
    """

    @staticmethod
    def forward(ctx, scores, radius):
        ctx.mark_dirty(scores)
        _, height, width, _ = scores.shape
        window = scores.unflatten(3, (2 * radius + 1, 2 * radius + 1))
        for y in range(height):
            window[:, y, :, : max(radius - y, 0)] = -torch.inf
            window[:, y, :, radius + height - y :] = -torch.inf
        for x in range(width):
            window[:, :, x, :, : max(radius - x, 0)] = -torch.inf
            window[:, :, x, :, radius + width - x :] = -torch.inf
        return scores

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def _as_references(reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Check shapes and return the reference as ``(B, R, C, h, w)``."""
    references = reference.unsqueeze(1) if reference.dim() == 4 else reference
    if (
        references.dim() != 5
        or target.dim() != 4
        or references.shape[0] != target.shape[0]
        or references.shape[2] != target.shape[1]
    ):
        raise InputError(
            "expected reference (B, C, h, w) or (B, R, C, h, w) and target (B, C, h, w), "
            f"got {tuple(reference.shape)} and {tuple(target.shape)}"
        )
    return references


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"expected a temperature above 0, got {temperature}")
