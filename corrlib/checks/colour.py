"""Checks of lesson 04: colour words, their shares in a cell, and the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib.checks import Check, Mistake
from corrlib.reconstruction import colour_loss as _colour_loss
from corrlib.reconstruction import reduce_labels as _reduce_labels


def _differences(ab: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """``(B, K, 2, H, W)``: from every centroid to every pixel."""
    return ab[:, None] - centroids[None, :, :, None, None]


def _nearest_word(ab: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return _differences(ab, centroids).square().sum(dim=2).argmin(dim=1)


def _word_cases(generator: torch.Generator) -> list[tuple]:
    return [
        (
            30 * torch.randn(batch, 2, height, width, generator=generator),
            30 * torch.randn(count, 2, generator=generator),
        )
        for batch, count, height, width in ((2, 16, 5, 7), (3, 4, 8, 3))
    ]


nearest_word = Check(
    "nearest_word",
    _nearest_word,
    _word_cases,
    (
        Mistake(
            "these are the farthest centroids: take the argmin of a distance, not the argmax",
            lambda ab, c: _differences(ab, c).square().sum(dim=2).argmax(dim=1),
        ),
        Mistake(
            "the largest dot product is not the nearest centroid, as long centroids win: "
            "compare |ab - c|²",
            lambda ab, c: torch.einsum("bdhw,kd->bkhw", ab, c).argmax(dim=1),
        ),
        Mistake(
            "reshape(-1, 2) of (B, 2, H, W) pairs values of different pixels; bring a and b to the "
            "last dimension first: movedim(1, -1)",
            lambda ab, c: torch.cdist(ab.reshape(-1, 2), c).argmin(dim=1).view_as(ab[:, 0]),
        ),
        Mistake(
            "a and b are swapped in one of the two",
            lambda ab, c: _nearest_word(ab.flip(1), c),
        ),
        Mistake(
            "this is the nearest by |Δa| + |Δb|; use the Euclidean distance, as k-means did",
            lambda ab, c: _differences(ab, c).abs().sum(dim=2).argmin(dim=1),
        ),
        Mistake(
            "you compare a only: sum the squared differences over both a and b",
            lambda ab, c: _differences(ab, c)[:, :, 0].square().argmin(dim=1),
        ),
    ),
)


def _share_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, count, height, width, stride in ((2, 5, 3, 4, 4), (1, 16, 2, 5, 8)):
        labels = torch.randint(count, (batch, height * stride, width * stride), generator=generator)
        cases.append((F.one_hot(labels, count).movedim(-1, 1).float(), stride))
    return cases


label_shares = Check(
    "label_shares",
    _reduce_labels,
    _share_cases,
    (
        Mistake(
            "this keeps one pixel of each cell and forgets the others: average over the cell",
            lambda labels, s: labels[..., ::s, ::s],
        ),
        Mistake(
            "the maximum says whether a word occurs in the cell, not how much of it: average",
            lambda labels, s: F.max_pool2d(labels, s),
        ),
        Mistake(
            "these are counts; divide by the number of pixels in a cell, so that they sum to 1",
            lambda labels, s: F.avg_pool2d(labels, s) * s**2,
        ),
        Mistake(
            "bilinear resizing without antialiasing looks at the middle of the cell only: "
            "average over all its pixels",
            lambda labels, s: F.interpolate(labels, scale_factor=1 / s, mode="bilinear"),
        ),
    ),
)


def _loss_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, count, height, width, stride in ((2, 16, 3, 5, 4), (3, 4, 4, 2, 2)):
        copied = (2 * torch.randn(batch, count, height, width, generator=generator)).softmax(dim=1)
        size = (batch, height * stride, width * stride)
        cases.append((copied, torch.randint(count, size, generator=generator)))
    copied, labels = cases.pop()
    copied[:, 0] = 0  # a word that no reference has, and that some pixels are
    return [*cases, (copied / copied.sum(dim=1, keepdim=True), labels)]


def _of_true_word(copied: torch.Tensor, labels: torch.Tensor, mode: str, **how) -> torch.Tensor:
    fine = F.interpolate(copied, labels.shape[1:], mode=mode, **how)
    return fine.gather(1, labels.unsqueeze(1)) + 1e-8


def _without_constant(copied: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    fine = F.interpolate(copied, labels.shape[1:], mode="bilinear")
    return -fine.gather(1, labels.unsqueeze(1)).log().mean()


def _at_feature_size(copied: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    stride = labels.shape[-1] // copied.shape[-1]
    return _colour_loss(copied, labels[:, ::stride, ::stride])


colour_loss = Check(
    "colour_loss",
    _colour_loss,
    _loss_cases,
    (
        Mistake(
            "the sign: a probability's logarithm is negative, a loss falls as it rises",
            lambda copied, labels: -_colour_loss(copied, labels),
        ),
        Mistake(
            "the upsampling is nearest neighbour: use mode='bilinear'",
            lambda copied, labels: -_of_true_word(copied, labels, "nearest").log().mean(),
        ),
        Mistake(
            "a word without any probability makes the loss infinite: add 1e-8 inside the logarithm",
            _without_constant,
        ),
        Mistake(
            "align_corners=True takes the middles of the outer cells for the picture's corners; "
            "leave it out",
            lambda copied, labels: (
                -_of_true_word(copied, labels, "bilinear", align_corners=True).log().mean()
            ),
        ),
        Mistake(
            "the logarithms are enlarged; enlarge the probabilities, then take the logarithm",
            lambda copied, labels: (
                -(_of_true_word((copied + 1e-8).log(), labels, "bilinear").mean() - 1e-8)
            ),
        ),
        Mistake(
            "you take the logarithm of the mean probability: take it of each pixel, then the mean",
            lambda copied, labels: -_of_true_word(copied, labels, "bilinear").mean().log(),
        ),
        Mistake(
            "the logarithm is missing: this is the mean of -p",
            lambda copied, labels: -_of_true_word(copied, labels, "bilinear").mean(),
        ),
        Mistake(
            "F.cross_entropy takes a softmax first, but these are probabilities already: "
            "take their logarithm yourself",
            lambda copied, labels: F.cross_entropy(
                F.interpolate(copied, labels.shape[1:], mode="bilinear"), labels
            ),
        ),
        Mistake(
            "this is in bits: use the natural logarithm",
            lambda copied, labels: -_of_true_word(copied, labels, "bilinear").log2().mean(),
        ),
        Mistake(
            "this is the sum over pixels: take the mean, so that image size does not matter",
            lambda copied, labels: _colour_loss(copied, labels) * labels.numel(),
        ),
        Mistake(
            "you compare one pixel of each cell: bring the distributions to the labels' size "
            "instead",
            _at_feature_size,
        ),
    ),
)
