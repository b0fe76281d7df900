"""Checks of lesson 01: which channels to hide, and how."""

from __future__ import annotations

import torch

from corrlib.bottleneck import NEUTRAL
from corrlib.checks import Check, Mistake


def _seen(clips: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return NEUTRAL + (clips - NEUTRAL) * scale[:, None, :, None, None]


def _scale(keep: torch.Tensor) -> torch.Tensor:
    return keep * 3 / keep.sum(dim=1, keepdim=True)


def _apply_mask(clips: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return _seen(clips, _scale(keep))


def _values_rescaled(clips: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    scale = _scale(keep)[:, None, :, None, None]
    return torch.where(scale > 0, clips * scale, NEUTRAL)


def _mask_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, height, width in ((4, 3, 5), (2, 6, 4)):
        clips = torch.rand(batch, 3, 3, height, width, generator=generator)
        hidden = torch.randint(0, 3, (batch, 1), generator=generator)
        hidden[0] = 2
        order = torch.rand(batch, 3, generator=generator).argsort(dim=1)
        cases.append((clips, order >= hidden))
    return cases


apply_mask = Check(
    "apply_mask",
    _apply_mask,
    _mask_cases,
    (
        Mistake(
            "the right channels are hidden, but what is left must make up for them: multiply the "
            "deviations from 0.5 by 3 / (number of kept channels)",
            lambda clips, keep: _seen(clips, keep.float()),
        ),
        Mistake(
            "a hidden channel is mid-grey, not black, and it is the deviation from 0.5 that grows: "
            "0.5 + (clips - 0.5) * scale",
            lambda clips, keep: clips * _scale(keep)[:, None, :, None, None],
        ),
        Mistake(
            "hidden channels are mid-grey (0.5), not black (0), and the others' deviations from "
            "0.5 grow by 3 / (number of kept channels)",
            lambda clips, keep: clips * keep[:, None, :, None, None],
        ),
        Mistake(
            "k counts the hidden channels: the factor is 3 / (number of kept channels), here it is "
            "3 / (number of hidden ones)",
            lambda clips, keep: _seen(clips, keep * 3 / (~keep).sum(dim=1, keepdim=True)),
        ),
        Mistake(
            "hidden channels are right; of the kept ones, scale the deviation from 0.5, not the "
            "value itself, so that mid-grey stays mid-grey",
            _values_rescaled,
        ),
        Mistake(
            "you hide what should be kept: keep is True where the channel stays",
            lambda clips, keep: _seen(clips, ~keep * 3 / keep.sum(dim=1, keepdim=True)),
        ),
        Mistake(
            "the mask runs over the frames: every frame of a clip must lose the same channels; "
            "put the new dimension for time between batch and channels",
            lambda clips, keep: NEUTRAL + (clips - NEUTRAL) * _scale(keep)[:, :, None, None, None],
        ),
    ),
)


def _draw_mask(draws: torch.Tensor, p: float) -> torch.Tensor:
    hidden = torch.where(draws[:, 1] < 0.5, 1, 2) * (draws[:, 0] < p)
    rank = draws[:, 2:].argsort(dim=1).argsort(dim=1)
    return rank >= hidden[:, None]


def _rank_by_argsort(draws: torch.Tensor, p: float) -> torch.Tensor:
    hidden = torch.where(draws[:, 1] < 0.5, 1, 2) * (draws[:, 0] < p)
    return draws[:, 2:].argsort(dim=1) >= hidden[:, None]


def _other_coin(draws: torch.Tensor) -> torch.Tensor:
    return torch.cat([draws[:, :1], 1 - draws[:, 1:2], draws[:, 2:]], dim=1)


draw_mask = Check(
    "draw_mask",
    _draw_mask,
    lambda generator: [
        (torch.rand(count, 5, generator=generator), p) for count, p in ((60, 0.7), (40, 0.3))
    ],
    (
        Mistake(
            "you decide for each channel by itself: all three can vanish, or none; first decide "
            "whether to hide, then how many, then which",
            lambda draws, p: draws[:, 2:] >= p,
        ),
        Mistake(
            "the answer is upside down: True where a channel is kept",
            lambda draws, p: ~_draw_mask(draws, p),
        ),
        Mistake(
            "every clip loses channels: only those with draws[:, 0] < p should",
            lambda draws, p: _draw_mask(draws, 1.0),
        ),
        Mistake(
            "channels are hidden with probability 1 - p: hide where draws[:, 0] < p",
            lambda draws, p: _draw_mask(torch.cat([1 - draws[:, :1], draws[:, 1:]], 1), p),
        ),
        Mistake(
            "only ever one channel is hidden: where draws[:, 1] is at least 0.5 it is two",
            lambda draws, p: _draw_mask(draws * torch.tensor([1.0, 0, 1, 1, 1]), p),
        ),
        Mistake(
            "one and two are swapped: below 0.5 one channel is hidden, otherwise two",
            lambda draws, p: _draw_mask(_other_coin(draws), p),
        ),
        Mistake(
            "you hide the channels with the largest draws; hide those with the smallest",
            lambda draws, p: _draw_mask(torch.cat([draws[:, :2], 1 - draws[:, 2:]], 1), p),
        ),
        Mistake(
            "argsort gives the channel at each rank, not the rank of each channel: argsort twice",
            _rank_by_argsort,
        ),
    ),
)
