"""Exercises of notebook 08: colours within -1 and 1, and the loss that compares them."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake
from corrlib.colour_autoencoder import AB_SCALE, AB_WEIGHT, LIGHTNESS_SCALE, lab_l1

# -- the range --


def scaled(lab: torch.Tensor) -> torch.Tensor:
    """Lab images to the range of a tanh: L from 0..100 and a, b from -128..128 to -1..1.

    Args:
        lab: ``(B, 3, H, W)`` in Lab units.
    """
    return _scaled(lab, 1.0, AB_SCALE)


def _scaled(lab, offset, ab_scale):
    lightness, a, b = lab.unbind(1)
    return torch.stack([lightness / LIGHTNESS_SCALE - offset, a / ab_scale, b / ab_scale], dim=1)


def _lab_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, height, width in ((2, 4, 6), (1, 5, 3)):
        lab = torch.rand(batch, 3, height, width, generator=generator)
        low, high = torch.tensor([[0.0, -90.0, -100.0], [100.0, 95.0, 90.0]])[..., None, None]
        cases.append((low + (high - low) * lab,))
    return cases


def _all_like_lightness(lab):
    return lab / LIGHTNESS_SCALE - 1


scale_lab = Check(
    name="scale_lab",
    solution=scaled,
    cases=_lab_cases,
    mistakes=(
        Mistake("L now begins at 0; take 1 off", lambda lab: _scaled(lab, 0.0, AB_SCALE)),
        Mistake(
            "L goes from 0 to 100, not to 128: divide it by 50 and take 1 off",
            lambda lab: lab / AB_SCALE,
        ),
        Mistake(
            "L ends in 0..1; -1..1 is wanted: divide by 50 and take 1 off",
            lambda lab: lab / torch.tensor([100.0, AB_SCALE, AB_SCALE])[:, None, None],
        ),
        Mistake(
            "a and b have a zero of their own, grey: they are divided only", _all_like_lightness
        ),
        Mistake(
            "a and b reach as far as ±128: with 100 a strong colour would leave -1..1, where no "
            "tanh can follow",
            lambda lab: _scaled(lab, 1.0, 100.0),
        ),
    ),
)


# -- the loss --


def loss(estimate: torch.Tensor, lab: torch.Tensor) -> torch.Tensor:
    """L1 on L, plus 10 times L1 on a, plus 10 times L1 on b.

    Args:
        estimate, lab: scaled Lab ``(B, 3, H, W)``.

    Returns:
        ``(B,)``: of each image, the mean over its pixels.
    """
    return lab_l1(estimate, lab)


def _loss_cases(generator: torch.Generator) -> list[tuple]:
    return [
        tuple(2 * torch.rand(2, batch, 3, height, width, generator=generator) - 1)
        for batch, height, width in ((2, 4, 6), (3, 5, 3))
    ]


def _weighted(difference, weights=(1.0, AB_WEIGHT, AB_WEIGHT)):
    return (difference.mean(dim=(2, 3)) * torch.tensor(weights)).sum(dim=1)


colour_loss = Check(
    name="colour_loss",
    solution=loss,
    cases=_loss_cases,
    mistakes=(
        Mistake(
            "all channels count alike; a and b vary much less than L and weigh 10 times as much",
            lambda estimate, lab: _weighted((estimate - lab).abs(), (1.0, 1.0, 1.0)),
        ),
        Mistake(
            "L weighs 1, a and b weigh 10; here it is the other way round",
            lambda estimate, lab: _weighted((estimate - lab).abs(), (10.0, 1.0, 1.0)),
        ),
        Mistake(
            "that is squared; L1 takes the absolute difference, which forgives an edge that cannot "
            "be rebuilt",
            lambda estimate, lab: _weighted((estimate - lab).square()),
        ),
        Mistake(
            "the absolute value is taken too late: errors of either sign cancel in the mean",
            lambda estimate, lab: _weighted((estimate - lab).mean(dim=(2, 3), keepdim=True).abs()),
        ),
        Mistake(
            "the pixels are added up; bars are means over pixels, so that size does not matter",
            lambda estimate, lab: loss(estimate, lab) * lab[0, 0].numel(),
        ),
        Mistake(
            "the channels are summed: L1 on L + 10·L1 on a + 10·L1 on b, not their mean",
            lambda estimate, lab: loss(estimate, lab) / 3,
        ),
        Mistake(
            "one number for the whole batch; each image needs its own, so that those that were "
            "not found can be dropped",
            lambda estimate, lab: loss(estimate, lab).mean(),
        ),
    ),
)
