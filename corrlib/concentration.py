"""Concentration: pixels that are neighbours in one frame should be found near one another.

Two forms of one regulariser of Li et al. 2019, §3.2, on the coordinates at which an affinity
expects the pixels of a patch. The piecewise one is the paper's and asks of a whole patch to stay
within a box; the windowed one is the released code's and asks of every small window to stay
together, however far it moves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib.errors import InputError


def concentration(coordinates: torch.Tensor, extent: tuple[float, float]) -> torch.Tensor:
    """The paper's piecewise form: no loss while all pixels of a patch stay near their centre.

    Args:
        coordinates: ``(B, 2, h, w)`` x and y at which each pixel of a patch is found.
        extent: how far from the mean of all, in x and in y, a pixel may lie; in the coordinates'
            unit.

    Returns:
        ``(B,)``: 0 for a patch whose pixels all lie within ``extent``, else their mean distance
        to the centre, in the coordinates' unit.
    """
    _check(coordinates)
    if not (extent[0] > 0 and extent[1] > 0):
        raise InputError(f"expected an extent (x, y) above 0, got {tuple(extent)}")
    offset = coordinates - coordinates.mean(dim=(2, 3), keepdim=True)
    farthest = offset.abs().amax(dim=(2, 3))  # (B, 2)
    inside = (farthest <= farthest.new_tensor(extent)).all(dim=1)
    # vector_norm has a gradient, 0, where a pixel lies on the centre.
    distance = torch.linalg.vector_norm(offset, dim=1).mean(dim=(1, 2))
    return torch.where(inside, torch.zeros_like(distance), distance)


def windowed_concentration(coordinates: torch.Tensor, window: int = 8) -> torch.Tensor:
    """The released code's form: every window of neighbours stays around its own mean.

    The code adds this loss of the coordinates that the affinity gives and of those that the
    affinity in the other direction gives, a softmax of its own; in cells, at a weight of 0.3.

    Args:
        coordinates: ``(B, 2, h, w)`` x and y at which each cell is found.
        window: side of the windows, which do not overlap; those at the right and bottom edge may
            be smaller.

    Returns:
        ``(B,)``: the mean squared distance to the window's mean, in the coordinates' unit squared.
    """
    _check(coordinates)
    if window < 1:
        raise InputError(f"expected windows of at least 1 cell, got {window}")
    height, width = coordinates.shape[2:]
    mean = F.avg_pool2d(coordinates, window, ceil_mode=True)
    mean = mean.repeat_interleave(window, dim=2)[:, :, :height]
    mean = mean.repeat_interleave(window, dim=3)[:, :, :, :width]
    return (coordinates - mean).square().sum(dim=1).mean(dim=(1, 2))


def _check(coordinates: torch.Tensor) -> None:
    if coordinates.dim() != 4 or coordinates.shape[1] != 2 or not coordinates.is_floating_point():
        raise InputError(
            f"expected float coordinates (B, 2, h, w), got shape {tuple(coordinates.shape)} of "
            f"{coordinates.dtype}"
        )
