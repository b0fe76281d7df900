"""Exercises of notebook 00: the score of a mask, and labels copied by colour."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake
from corrlib.metrics import region_similarity


def jaccard(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Region similarity J of each frame: bool ``(T, H, W)`` twice -> ``(T,)`` in 0..1."""
    return torch.tensor([region_similarity(p, t) for p, t in zip(prediction, truth, strict=True)])


def copy_by_colour(
    reference: torch.Tensor, target: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Give every target pixel the label of the reference pixel with the nearest colour.

    Args:
        reference, target: colours ``(3, h, w)``.
        labels: of the reference, ``(h, w)``.

    Returns:
        ``(h, w)``, of the labels' type.
    """
    cells = reference.flatten(1).T  # (n, 3)
    wanted = target.flatten(1).T
    distance = torch.cdist(wanted, cells, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.argmin(dim=1)  # (n,), for every target the reference
    return labels.flatten()[nearest].view(target.shape[1:])


def _mask_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for count, height, width in ((3, 5, 8), (4, 7, 4)):
        prediction = torch.rand(count, height, width, generator=generator) < 0.5
        truth = torch.rand(count, height, width, generator=generator) < 0.3
        cases.append((prediction, truth))
    nothing = torch.zeros(2, 4, 6, dtype=torch.bool)
    missed = nothing.clone()
    missed[1, 1:3, 2:5] = True
    cases.append((nothing, missed))
    return cases


def _colour_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for height, width in ((5, 8), (7, 4)):
        reference = torch.rand(3, height, width, generator=generator)
        target = torch.rand(3, height, width, generator=generator)
        labels = torch.randint(0, 5, (height, width), generator=generator)
        cases.append((reference, target, labels))
    return cases


def _overlap(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (prediction & truth).sum(dim=(1, 2))


def _dice(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    areas = prediction.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
    return torch.where(areas == 0, 1.0, 2 * _overlap(prediction, truth) / areas.clamp(min=1))


def _sum_of_areas(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    areas = prediction.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
    return torch.where(areas == 0, 1.0, _overlap(prediction, truth) / areas.clamp(min=1))


def _accuracy(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (prediction == truth).float().mean(dim=(1, 2))


def _zero_by_zero(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return _overlap(prediction, truth) / (prediction | truth).sum(dim=(1, 2))


def _of_the_prediction(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return _overlap(prediction, truth) / prediction.sum(dim=(1, 2))


def _of_the_truth(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return _overlap(prediction, truth) / truth.sum(dim=(1, 2))


def _empty_is_zero(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    union = (prediction | truth).sum(dim=(1, 2))
    return _overlap(prediction, truth) / union.clamp(min=1)


def _farthest(reference: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    distance = torch.cdist(target.flatten(1).T, reference.flatten(1).T)
    return labels.flatten()[distance.argmax(dim=1)].view(target.shape[1:])


def _largest_product(
    reference: torch.Tensor, target: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    product = target.flatten(1).T @ reference.flatten(1)
    return labels.flatten()[product.argmax(dim=1)].view(target.shape[1:])


def _wrong_way(reference: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return copy_by_colour(target, reference, labels)


def _numbers(reference: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return copy_by_colour(reference, target, torch.arange(labels.numel()).view_as(labels))


def _mixed_channels(
    reference: torch.Tensor, target: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    distance = torch.cdist(target.reshape(-1, 3), reference.reshape(-1, 3))
    return labels.flatten()[distance.argmin(dim=1)].view(target.shape[1:])


OVERLAP_MISTAKES = (
    Mistake(
        "that is twice the overlap over the two areas added up (Dice); J divides the overlap "
        "by the union, in which shared pixels count once",
        _dice,
    ),
    Mistake(
        "the two areas added up count shared pixels twice; the union counts them once",
        _sum_of_areas,
    ),
    Mistake(
        "that is the share of pixels on which the masks agree; most of them are background, "
        "which J leaves out",
        _accuracy,
    ),
    Mistake(
        "where both masks are empty that is 0 / 0, NaN; they agree that nothing is there, so J "
        "is 1",
        _zero_by_zero,
    ),
    Mistake(
        "that divides by what was predicted alone (precision); J divides by all that either covers",
        _of_the_prediction,
    ),
    Mistake(
        "that divides by the true mask alone (recall), which the whole frame would get right; J "
        "divides by all that either covers",
        _of_the_truth,
    ),
    Mistake(
        "where both masks are empty they agree that nothing is there: J is 1, not 0",
        _empty_is_zero,
    ),
)

region_overlap = Check(
    name="region_overlap",
    solution=jaccard,
    cases=_mask_cases,
    mistakes=OVERLAP_MISTAKES,
)

nearest_colour = Check(
    name="nearest_colour",
    solution=copy_by_colour,
    cases=_colour_cases,
    mistakes=(
        Mistake(
            "that picks the colour farthest away: distances want argmin",
            _farthest,
        ),
        Mistake(
            "a plain dot product favours bright pixels, not similar ones; compare distances",
            _largest_product,
        ),
        Mistake(
            "the search goes the wrong way: every target pixel looks for its reference pixel",
            _wrong_way,
        ),
        Mistake(
            "those are the numbers of the nearest reference pixels; now look their labels up",
            _numbers,
        ),
        Mistake(
            "reshape(-1, 3) of (3, h, w) mixes the channels of different pixels; "
            "flatten(1).T gives one row (r, g, b) per pixel",
            _mixed_channels,
        ),
    ),
)
