"""Orthogonality: the way back is the affinity transposed.

Frame 2 holds what frame 1 held, moved: f_2 = f_1 A12 and f_1 = f_2 A21. If nothing is gained or
lost on the way, f_1 f_1ᵀ = f_2 f_2ᵀ, which holds when A12 A12ᵀ is the identity; then
A21 = A12⁻¹ = A12ᵀ (Li et al. 2019, §3.2). A matching of one cell to one cell, a permutation, is
orthogonal; an affinity that sends many cells to one is not, nor is one that blurs.

Two losses ask for it: colours of frame 2 that are carried back have to be those of frame 1, and
coordinates that go there and back have to be where they were. The authors weigh each by 0.1.
"""

from __future__ import annotations

import torch

from corrlib.affinity import transport
from corrlib.errors import InputError
from corrlib.geometry import cell_centres


def carry_back(
    values: torch.Tensor, affinity: torch.Tensor, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Copy values of frame 2 to frame 1 by the transposed affinity: f̂_1 = f_2 A12ᵀ.

    How far what arrives is from frame 1 is the colour cycle's loss. Cells of frame 1 that explain
    several of frame 2 receive the sum, those that explain none receive nothing.

    Args:
        values: ``(B, D, h', w')`` of frame 2: colours, or codes of them.
        affinity: full, from frame 1 to frame 2, ``(B, h·w, h'·w')``.
        size: height and width of frame 1's map; frame 2's by default.

    Returns:
        ``(B, D, h, w)``.
    """
    _check(affinity)
    return transport(values, affinity.transpose(1, 2), size)


def coordinate_cycle(
    outward: torch.Tensor, homeward: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """How far from home coordinates come back: the mean of |l A12 A21 - l| over cells and axes.

    ``homeward = outward.transpose(1, 2)`` asks for orthogonality; a homeward affinity with a
    softmax of its own asks only that each cell comes home.

    Args:
        outward: full affinity A12 from frame 1 to frame 2, ``(B, h·w, n)``.
        homeward: A21, from frame 2 to frame 1, ``(B, n, h·w)``.
        size: h and w.

    Returns:
        ``(B,)`` in cells.
    """
    _check(outward)
    if homeward.shape != outward.transpose(1, 2).shape or outward.shape[1] != size[0] * size[1]:
        raise InputError(
            f"expected affinities (B, {size[0] * size[1]}, n) out and (B, n, "
            f"{size[0] * size[1]}) home, got {tuple(outward.shape)} and {tuple(homeward.shape)}"
        )
    home = cell_centres(*size).to(outward).flatten(1)  # (2, h·w)
    return (home @ outward @ homeward - home).abs().mean(dim=(1, 2))


def _check(affinity: torch.Tensor) -> None:
    if affinity.dim() != 3:
        raise InputError(
            f"expected a full affinity (B, n_ref, n_tar), got shape {tuple(affinity.shape)}"
        )
