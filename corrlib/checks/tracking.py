"""Exercises of notebook 14: a box that changes slowly, and objects that are carried one by one."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake

# -- the box from frame to frame --


def followed(before: torch.Tensor, found: torch.Tensor, growth: float) -> torch.Tensor:
    """The boxes to believe, of those before and those that were found.

    Args:
        before, found: ``(K, 4)`` x0, y0, x1, y1 in pixels.
        growth: the factor above 1 by which a side may become longer or shorter.

    Returns:
        ``(K, 4)``: the found centres; each side as found, but not too far from what it was.
    """
    limits = _sides(before) / growth, _sides(before) * growth
    return _box(_centre(found), _sides(found).clamp(*limits))


def _sides(boxes):
    return boxes[:, 2:] - boxes[:, :2]


def _centre(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _box(centre, sides):
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1)


def _box_cases(generator: torch.Generator) -> list[tuple]:
    """Boxes that move, and whose sides grow, shrink or stay, each axis for itself."""
    cases = []
    for count, growth in ((6, 1.1), (9, 1.3)):
        sides = 10 + 50 * torch.rand(count, 2, generator=generator)
        centre = 100 * torch.rand(count, 2, generator=generator)
        moved = centre + 20 * torch.randn(count, 2, generator=generator)
        factors = torch.exp(0.5 * torch.randn(count, 2, generator=generator))
        factors[0] = 1.05
        cases.append((_box(centre, sides), _box(moved, factors * sides), growth))
    return cases


def _edges_limited(before, found, growth):
    room = (growth - 1) * _sides(before).repeat(1, 2) / 2
    return before + (found - before).clamp(-room, room)


def _by_area(before, found, growth):
    change = (_sides(found) / _sides(before)).prod(dim=1, keepdim=True)
    return _box(_centre(found), _sides(found) * (change.clamp(1 / growth, growth) / change).sqrt())


bounded_box = Check(
    name="bounded_box",
    solution=followed,
    cases=_box_cases,
    mistakes=(
        Mistake(
            "a box may move as far as it was found; only its size is held back, so take the found "
            "centre",
            lambda before, found, growth: _box(
                _centre(before), _sides(followed(before, found, growth))
            ),
        ),
        Mistake(
            "each edge is held back for itself, and so the box cannot follow; limit the sides, and "
            "put them around the found centre",
            _edges_limited,
        ),
        Mistake(
            "a box can shrink too fast as well: the other limit is the side before divided by "
            "growth",
            lambda before, found, growth: _box(
                _centre(found), torch.minimum(_sides(found), _sides(before) * growth)
            ),
        ),
        Mistake(
            "growth is a factor: the lower limit is the side before divided by it, not times "
            "(2 - growth)",
            lambda before, found, growth: _box(
                _centre(found),
                _sides(found).clamp(_sides(before) * (2 - growth), _sides(before) * growth),
            ),
        ),
        Mistake(
            "that limits the area; width and height have their limits each for itself",
            _by_area,
        ),
        Mistake(
            "that is the box as it was found; hold its sides back",
            lambda before, found, growth: found,
        ),
    ),
)

# -- objects that were carried independently --


def merged(shares: torch.Tensor) -> torch.Tensor:
    """The id of every pixel, of soft labels that know nothing of one another.

    Args:
        shares: ``(K, H, W)`` in [0, 1]: how far each pixel belongs to objects 1, 2, ... K.

    Returns:
        ``(H, W)`` int64: the object of the largest share if that is more than the share of
        belonging to none, the product of what each object leaves; else 0.
    """
    return _largest(shares, (1 - shares).prod(dim=0))


def _largest(shares, none):
    most, number = shares.max(dim=0)
    return torch.where(most > none, number + 1, 0)


def _share_cases(generator: torch.Generator) -> list[tuple]:
    """Shares of two and three objects, many of them where several compete."""
    sizes = (2, 9, 12), (3, 11, 8)
    return [(torch.rand(*size, generator=generator) ** 1.5,) for size in sizes]


merge = Check(
    name="merge",
    solution=merged,
    cases=_share_cases,
    mistakes=(
        Mistake(
            "objects count from 1 on, as 0 is the background",
            lambda shares: (merged(shares) - 1).clamp(min=0),
        ),
        Mistake(
            "some pixels belong to none: compare with the product of 1 - share over the objects",
            lambda shares: shares.max(dim=0)[1] + 1,
        ),
        Mistake(
            "that asks for a share above one half; none has the product of 1 - share, which is "
            "less than one half where two objects each have a third",
            lambda shares: _largest(shares, torch.full_like(shares[0], 0.5)),
        ),
        Mistake(
            "shares of objects that were carried independently do not sum to 1, so none is not "
            "what is left of 1; it is the product of 1 - share",
            lambda shares: _largest(shares, 1 - shares.sum(dim=0)),
        ),
        Mistake(
            "that takes the mean of 1 - share; every further object makes none less likely, so "
            "take the product",
            lambda shares: _largest(shares, (1 - shares).mean(dim=0)),
        ),
    ),
)
