"""Exercises of notebook 09: pixels that stay together, and coordinates that come home."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake
from corrlib.concentration import concentration as library_concentration
from corrlib.geometry import cell_centres

# -- concentration --


def concentrated(coordinates: torch.Tensor, width: float, height: float) -> torch.Tensor:
    """The piecewise concentration loss of located patches.

    Args:
        coordinates: x and y of each pixel, ``(B, 2, h, w)``.
        width, height: how far from the mean of its patch a pixel may lie in x and in y.

    Returns:
        ``(B,)``: 0 for a patch all of whose pixels keep to that, else the mean of their distances
        (L2) to the centre.
    """
    return library_concentration(coordinates, (width, height))


def _offsets(coordinates: torch.Tensor, width: float, height: float):
    """Offsets from the centre ``(B, 2, h, w)``, and which pixels lie in the box ``(B, h, w)``."""
    offset = coordinates - coordinates.mean(dim=(2, 3), keepdim=True)
    inside = offset.abs() <= torch.tensor([width, height])[:, None, None]
    return offset, inside


def _piecewise(distance: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The loss by distances and insides ``(B, h, w)``."""
    return torch.where(inside.all(dim=2).all(dim=1), 0.0, distance.mean(dim=(1, 2)))


def _patch_cases(generator: torch.Generator) -> list[tuple]:
    """Patches that keep to their box, leave it on one axis or both, or fit it turned round."""
    cases = []
    for rows, columns, width, height in ((3, 5, 4.0, 2.0), (4, 2, 3.0, 6.0)):
        unit = 2 * torch.rand(4, 2, rows, columns, generator=generator) - 1
        box = torch.tensor([width, height])
        tall = box * torch.tensor([0.7, 3.0])
        extents = torch.stack([0.7 * box, tall, 3 * box, 0.8 * box.flip(0)])
        middle = torch.tensor([[20.0, 8.0], [3.0, 40.0], [9.0, 9.0], [30.0, 5.0]])
        cases.append((middle[..., None, None] + extents[..., None, None] * unit, width, height))
    return cases


def _by_pixel(coordinates, width, height):
    offset, inside = _offsets(coordinates, width, height)
    return torch.where(inside.all(dim=1), 0.0, offset.norm(dim=1)).mean(dim=(1, 2))


def _either_axis(coordinates, width, height):
    offset, inside = _offsets(coordinates, width, height)
    kept = inside.flatten(2).all(dim=2).any(dim=1)
    return torch.where(kept, 0.0, offset.norm(dim=1).mean(dim=(1, 2)))


def _all_outside(coordinates, width, height):
    offset, inside = _offsets(coordinates, width, height)
    some = inside.all(dim=1).flatten(1).any(dim=1)
    return torch.where(some, 0.0, offset.norm(dim=1).mean(dim=(1, 2)))


def _with(measure):
    def mistake(coordinates, width, height):
        offset, inside = _offsets(coordinates, width, height)
        return _piecewise(measure(offset), inside.all(dim=1))

    return mistake


def _one_centre(coordinates, width, height):
    moved = coordinates - coordinates.mean(dim=(0, 2, 3), keepdim=True)
    inside = moved.abs() <= torch.tensor([width, height])[:, None, None]
    return _piecewise(moved.norm(dim=1), inside.all(dim=1))


def _always(coordinates, width, height):
    return _offsets(coordinates, width, height)[0].norm(dim=1).mean(dim=(1, 2))


concentration = Check(
    name="concentration",
    solution=concentrated,
    cases=_patch_cases,
    mistakes=(
        Mistake(
            "each pixel is judged for itself; as soon as one leaves the box, the loss is the mean "
            "of all distances",
            _by_pixel,
        ),
        Mistake(
            "a patch has to stay within its width *and* within its height",
            _either_axis,
        ),
        Mistake(
            "one pixel outside is enough for a patch to pay; here all of them have to be outside",
            _all_outside,
        ),
        Mistake(
            "all patches cost; those that stay in their box cost nothing",
            _always,
        ),
        Mistake(
            "that is the squared distance; take its root",
            _with(lambda offset: offset.square().sum(dim=1)),
        ),
        Mistake(
            "the distance is L2, the root of x² + y²; here it is |x| + |y|",
            _with(lambda offset: offset.abs().sum(dim=1)),
        ),
        Mistake(
            "one centre for the whole batch; every patch has its own",
            _one_centre,
        ),
        Mistake(
            "width belongs to x, which is first, and height to y",
            lambda coordinates, width, height: concentrated(coordinates, height, width),
        ),
    ),
)


# -- coordinates that come home --


def cycled(places: torch.Tensor, affinity: torch.Tensor) -> torch.Tensor:
    """How far from home coordinates come back by the transposed affinity.

    Args:
        places: l, x and y of every cell, ``(2, n)``.
        affinity: A12 ``(B, n, n)``; its columns sum to 1.

    Returns:
        ``(B,)``: the mean of |l A12 A12ᵀ - l| over cells and over x and y.
    """
    return _error(places, affinity, affinity.transpose(1, 2)).abs().mean(dim=(1, 2))


def _error(places, outward, homeward):
    return places @ outward @ homeward - places


def _cycle_cases(generator: torch.Generator) -> list[tuple]:
    """Affinities that prefer the same cell, but not always."""
    cases = []
    for batch, height, width in ((2, 3, 4), (3, 5, 2)):
        cells = height * width
        scores = 2 * torch.randn(batch, cells, cells, generator=generator) + 4 * torch.eye(cells)
        cases.append((cell_centres(height, width).flatten(1), scores.softmax(dim=1)))
    return cases


def _summing_to_one(places, affinity):
    homeward = affinity.transpose(1, 2)
    homeward = homeward / homeward.sum(dim=1, keepdim=True)
    return _error(places, affinity, homeward).abs().mean(dim=(1, 2))


coordinate_cycle = Check(
    name="coordinate_cycle",
    solution=cycled,
    cases=_cycle_cases,
    mistakes=(
        Mistake(
            "the way home comes first here: out by A12, then home by its transpose, so "
            "places @ A12 @ A12ᵀ",
            lambda places, affinity: cycled(places, affinity.transpose(1, 2)),
        ),
        Mistake(
            "out by A12 and on by A12 again; home is its transpose",
            lambda places, affinity: _error(places, affinity, affinity).abs().mean(dim=(1, 2)),
        ),
        Mistake(
            "that has not come home yet: go back by A12ᵀ",
            lambda places, affinity: (places @ affinity - places).abs().mean(dim=(1, 2)),
        ),
        Mistake(
            "the transpose was made to sum to 1 again; that it does not where cells of frame 1 are "
            "copied twice or never is what the loss has to notice",
            _summing_to_one,
        ),
        Mistake(
            "that is squared; the loss is the absolute difference",
            lambda places, affinity: (
                _error(places, affinity, affinity.transpose(1, 2)).square().mean(dim=(1, 2))
            ),
        ),
        Mistake(
            "everything is summed; take the mean over cells and over x and y",
            lambda places, affinity: places.numel() * cycled(places, affinity),
        ),
        Mistake(
            "those are straight distances; take the absolute differences of x and of y, and the "
            "mean of all",
            lambda places, affinity: (
                _error(places, affinity, affinity.transpose(1, 2)).norm(dim=1).mean(dim=1)
            ),
        ),
        Mistake(
            "x and y are summed; take the mean over both",
            lambda places, affinity: 2 * cycled(places, affinity),
        ),
    ),
)
