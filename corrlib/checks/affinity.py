"""Exercises of notebook 02: every pair of cells compared, and values copied through the result."""

from __future__ import annotations

import torch

from corrlib import affinity as library
from corrlib.checks import Check, Mistake
from corrlib.geometry import cell_centres


def copy(values: torch.Tensor, affinity: torch.Tensor) -> torch.Tensor:
    """Copy ``(B, D, h, w)`` through a full affinity ``(B, n, n)`` between maps of one size."""
    return library.transport(values, affinity)


def locations(affinity: torch.Tensor, height: int, width: int, stride: int) -> torch.Tensor:
    """Where in the reference each target cell comes from, on average.

    Args:
        affinity: ``(B, h·w, n_tar)``.
        height, width: h and w of the reference, in cells.
        stride: pixels per cell.

    Returns:
        ``(B, 2, n_tar)``, pixels (x, y).
    """
    return cell_centres(height, width, stride).flatten(1) @ affinity


def _scores(reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return reference.flatten(2).transpose(1, 2) @ target.flatten(2)


def _feature_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for shapes, temperature in ((((2, 3, 4, 6),) * 2, 0.5), (((1, 5, 3, 5), (1, 5, 4, 2)), 0.2)):
        reference, target = (torch.randn(shape, generator=generator) for shape in shapes)
        cases.append((reference, target, temperature))
    return cases


def _copy_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, channels, height, width in ((2, 3, 4, 6), (1, 2, 5, 3)):
        values = torch.randn(batch, channels, height, width, generator=generator)
        cells = height * width
        scores = 2 * torch.randn(batch, cells, cells, generator=generator)
        cases.append((values, scores.softmax(dim=1)))
    return cases


def _location_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, height, width, targets, stride in ((2, 3, 5, 7, 8), (1, 6, 4, 10, 4)):
        scores = 2 * torch.randn(batch, height * width, targets, generator=generator)
        cases.append((scores.softmax(dim=1), height, width, stride))
    return cases


def _over_targets(reference, target, temperature):
    return (_scores(reference, target) / temperature).softmax(dim=2)


def _without_temperature(reference, target, temperature):
    return _scores(reference, target).softmax(dim=1)


def _times_temperature(reference, target, temperature):
    return (_scores(reference, target) * temperature).softmax(dim=1)


def _turned(reference, target, temperature):
    return library.full_affinity(reference, target, temperature).transpose(1, 2)


def _shares_of_everything(reference, target, temperature):
    scores = _scores(reference, target) / temperature
    return scores.flatten(1).softmax(dim=1).view_as(scores)


def _other_rows(reference, target, temperature):
    return library.full_affinity(target, reference, temperature)


def _without_softmax(reference, target, temperature):
    return _scores(reference, target) / temperature


def _cosines(reference, target, temperature):
    pair = library.normalise(reference), library.normalise(target)
    return library.full_affinity(*pair, temperature)


def _mixed_channels(reference, target, temperature):
    batch, channels = reference.shape[:2]
    cells = reference.reshape(batch, -1, channels)
    return (cells @ target.flatten(2) / temperature).softmax(dim=1)


def _copied_backwards(values, affinity):
    return (values.flatten(2) @ affinity.transpose(1, 2)).view_as(values)


def _columns_first(values, affinity):
    return (values.transpose(2, 3).flatten(2) @ affinity).view_as(values)


def _columns_first_back(values, affinity):
    copied = values.flatten(2) @ affinity
    return copied.unflatten(2, (values.shape[3], values.shape[2])).transpose(2, 3)


def _best_only(values, affinity):
    best = affinity.argmax(dim=1, keepdim=True).expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, best).view_as(values)


def _mixed_values(values, affinity):
    batch, channels = values.shape[:2]
    cells = values.reshape(batch, -1, channels).transpose(1, 2)
    return (cells @ affinity).view_as(values)


def _rows_first(affinity, height, width, stride):
    return locations(affinity, height, width, stride).flip(1)


def _corners(affinity, height, width, stride):
    return locations(affinity, height, width, stride) - (stride - 1) / 2


def _half_a_cell(affinity, height, width, stride):
    return locations(affinity, height, width, stride) + 0.5


def _in_cells(affinity, height, width, stride):
    return locations(affinity, height, width, 1)


def _rows_first_corners(affinity, height, width, stride):
    return _corners(affinity, height, width, stride).flip(1)


def _column_by_column(affinity, height, width, stride):
    return cell_centres(height, width, stride).transpose(1, 2).flatten(1) @ affinity


def _strongest(affinity, height, width, stride):
    centres = cell_centres(height, width, stride).flatten(1)
    return centres[:, affinity.argmax(dim=1)].transpose(0, 1)


full_affinity = Check(
    name="full affinity",
    solution=library.full_affinity,
    cases=_feature_cases,
    mistakes=(
        Mistake(
            "your rows sum to 1, not your columns: each target shares out its weight over the "
            "references, so the softmax runs over dimension 1",
            _over_targets,
        ),
        Mistake("the temperature is not used: divide the scores by it", _without_temperature),
        Mistake(
            "the scores are multiplied by the temperature; divide by it, so that a small one "
            "makes the softmax sharper",
            _times_temperature,
        ),
        Mistake(
            "right numbers, turned round: references are dimension 1, targets dimension 2",
            _turned,
        ),
        Mistake(
            "all entries together sum to 1; each target has one unit of its own to share out, so "
            "the softmax runs over dimension 1 alone",
            _shares_of_everything,
        ),
        Mistake(
            "your rows are targets and your columns references; rows are references (dimension 1)",
            _other_rows,
        ),
        Mistake("these are the scores; the softmax over references is missing", _without_softmax),
        Mistake(
            "the features are compared as they are given; whoever wants cosines normalises them "
            "before calling this",
            _cosines,
        ),
        Mistake(
            "reshape(B, n, C) of (B, C, h, w) mixes the channels of different cells; "
            "flatten(2).transpose(1, 2) gives one row per cell",
            _mixed_channels,
        ),
    ),
)

copy_values = Check(
    name="copying",
    solution=copy,
    cases=_copy_cases,
    mistakes=(
        Mistake(
            "the affinity is used the wrong way round: column j of A has target j's weights, so "
            "it is values @ A, without a transpose",
            _copied_backwards,
        ),
        Mistake(
            "cells are numbered row by row: flatten the values without swapping height and width",
            _columns_first,
        ),
        Mistake(
            "cells are numbered row by row: the n copied cells go back to (h, w), not to (w, h) "
            "turned round",
            _columns_first_back,
        ),
        Mistake(
            "that copies the strongest reference only; every reference counts, by its weight",
            _best_only,
        ),
        Mistake(
            "reshape(B, n, D) of (B, D, h, w) mixes the channels of different cells; "
            "flatten(2) keeps them apart",
            _mixed_values,
        ),
    ),
)

expected_location = Check(
    name="expected location",
    solution=locations,
    cases=_location_cases,
    mistakes=(
        Mistake("rows and columns are swapped: x (columns) comes first", _rows_first),
        Mistake(
            "that is the top-left pixel of each cell; its centre is (s - 1)/2 further right and "
            "down",
            _corners,
        ),
        Mistake(
            "pixel centres are at whole numbers: the centre of cell u is s·u + (s - 1)/2, "
            "not s·(u + 1/2)",
            _half_a_cell,
        ),
        Mistake(
            "two things: x (columns) comes first, and the centre of a cell is (s - 1)/2 further "
            "right and down than its first pixel",
            _rows_first_corners,
        ),
        Mistake(
            "the places are listed column by column, but cells are numbered row by row: "
            'torch.meshgrid(..., indexing="ij") with the rows first',
            _column_by_column,
        ),
        Mistake("these are cells; the answer is wanted in pixels", _in_cells),
        Mistake(
            "that is the place of the strongest reference; the mean weighs every place",
            _strongest,
        ),
    ),
    tolerance=1e-3,
)
