"""Exercises of notebook 13: a gain paired by seed, drift over sequences that end, decay."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake
from corrlib.metrics import statistics

# -- paired gain --


def gain_and_spread(
    row: torch.Tensor, row_seeds: torch.Tensor, full: torch.Tensor, full_seeds: torch.Tensor
) -> torch.Tensor:
    """Mean and sample standard deviation of a row's differences to the full method.

    Args:
        row, full: scores, one a run, ``(R,)`` and ``(S,)``.
        row_seeds, full_seeds: the seeds of those runs, in any order. Runs whose seed the other
            side lacks do not count.

    Returns:
        ``(2,)``: gain and spread.
    """
    differences = _paired(row, row_seeds, full, full_seeds)
    return torch.stack([differences.mean(), differences.std()])


def _paired(row, row_seeds, full, full_seeds):
    runs, partners = (row_seeds[:, None] == full_seeds).nonzero().T
    return row[runs] - full[partners]


def _shared(row, row_seeds, full, full_seeds):
    """The scores of either side under the seeds that both have."""
    return row[torch.isin(row_seeds, full_seeds)], full[torch.isin(full_seeds, row_seeds)]


def _run_cases(generator: torch.Generator) -> list[tuple]:
    """Seeds in another order on either side, and one that the other lacks."""
    cases = []
    for row_seeds, full_seeds in (((2, 0, 1, 5), (0, 1, 2, 4, 3)), ((7, 3, 4), (4, 9, 8, 3, 7))):
        luck = 0.05 * torch.rand(10, generator=generator)  # of the seed: shared by both sides
        scores = [
            level + luck[list(seeds)] + 0.02 * torch.rand(len(seeds), generator=generator)
            for level, seeds in ((0.5, row_seeds), (0.55, full_seeds))
        ]
        cases.append((scores[0], torch.tensor(row_seeds), scores[1], torch.tensor(full_seeds)))
    return cases


def _by_place(row, row_seeds, full, full_seeds):
    count = min(len(row), len(full))
    differences = row[:count] - full[:count]
    return torch.stack([differences.mean(), differences.std()])


def _population(*runs):
    differences = _paired(*runs)
    return torch.stack([differences.mean(), differences.std(correction=0)])


def _standard_error(*runs):
    differences = _paired(*runs)
    return torch.stack([differences.mean(), differences.std() / len(differences) ** 0.5])


def _pooled(row, row_seeds, full, full_seeds):
    return torch.stack([row.mean() - full.mean(), (row.var() + full.var()).sqrt()])


def _unpaired_spread(*runs):
    row, full = _shared(*runs)
    return torch.stack([row.mean() - full.mean(), (row.var() + full.var()).sqrt()])


def _spread_of_row(*runs):
    differences = _paired(*runs)
    return torch.stack([differences.mean(), _shared(*runs)[0].std()])


paired_gain = Check(
    name="paired_gain",
    solution=gain_and_spread,
    cases=_run_cases,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "the sign is turned round: a row that scores less than the full method has a gain "
            "below 0",
            lambda row, row_seeds, full, full_seeds: gain_and_spread(
                full, full_seeds, row, row_seeds
            ),
        ),
        Mistake(
            "runs are paired by their place in the list; a pair has the same *seed*, wherever "
            "it stands",
            _by_place,
        ),
        Mistake(
            "that is the deviation of a whole population (divided by N); a few seeds are a sample "
            "of all there are: divide by N - 1",
            _population,
        ),
        Mistake(
            "that is the standard error, which says how well the *mean* is known; the spread of "
            "the differences is asked for, so do not divide by the root of their number",
            _standard_error,
        ),
        Mistake(
            "all runs of either side are pooled, those without a partner too; subtract within a "
            "seed first, then take mean and deviation of the differences",
            _pooled,
        ),
        Mistake(
            "the gain is right, its spread is that of two sides that have nothing in common; what "
            "a seed does to both cancels if you take the deviation of the differences",
            _unpaired_spread,
        ),
        Mistake(
            "the gain is right, but the spread is that of the row's scores; take the deviation of "
            "the differences",
            _spread_of_row,
        ),
    ),
)


# -- drift --


def mean_of_those_that_last(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean J on each frame, over the sequences that have it.

    Args:
        values: J of each sequence, ``(S, T)``; zeros after its end.
        lengths: how many frames each sequence has, ``(S,)``; the longest has T.

    Returns:
        ``(T,)``
    """
    lasts = _lasts(values, lengths)
    return (values * lasts).sum(dim=0) / lasts.sum(dim=0)


def _lasts(values, lengths):
    return torch.arange(values.shape[1]) < lengths[:, None]


def _sequence_cases(generator: torch.Generator) -> list[tuple]:
    """In both cases a sequence is lost for good before its end: zeros that count."""
    cases = []
    for lengths in ((5, 9, 7, 9), (8, 6, 3)):
        lengths = torch.tensor(lengths)
        values = 0.2 + 0.8 * torch.rand(len(lengths), int(lengths.max()), generator=generator)
        values[1, lengths[1] - 3 :] = 0
        cases.append((values * _lasts(values, lengths), lengths))
    return cases


def _to_the_shortest(values, lengths):
    return values[:, : lengths.min()].mean(dim=0)


def _where_not_zero(values, lengths):
    return values.sum(dim=0) / (values > 0).sum(dim=0).clamp(min=1)


def _last_value_held(values, lengths):
    frames = torch.arange(values.shape[1]).minimum(lengths[:, None] - 1)
    return values.gather(1, frames).mean(dim=0)


def _longest_only(values, lengths):
    return values[lengths == lengths.max()].mean(dim=0)


drift_curve = Check(
    name="drift_curve",
    solution=mean_of_those_that_last,
    cases=_sequence_cases,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "the zeros after a sequence's end are counted as J of 0; divide by the number of "
            "sequences that have the frame",
            lambda values, lengths: values.mean(dim=0),
        ),
        Mistake(
            "every sequence is cut to the shortest; a longer one counts for as long as it lasts",
            _to_the_shortest,
        ),
        Mistake(
            "a J of 0 before the end is a lost object, and counts; only what comes *after* the end "
            "does not, and the lengths say where that is",
            _where_not_zero,
        ),
        Mistake(
            "the last J of a sequence is kept up to the end of the longest; nobody measured it "
            "there",
            _last_value_held,
        ),
        Mistake(
            "only the longest sequences are averaged; the others count for as long as they last",
            _longest_only,
        ),
        Mistake(
            "that is one mean for each sequence; a mean for each frame is asked for",
            lambda values, lengths: values.sum(dim=1) / lengths,
        ),
    ),
)


# -- decay --


def decay_of(values: torch.Tensor) -> torch.Tensor:
    """Mean of the first quarter less mean of the last, of each row: ``(N, T)`` -> ``(N,)``."""
    return torch.tensor([statistics(row.double().numpy())["decay"] for row in values])


def _curve_cases(generator: torch.Generator) -> list[tuple]:
    """Numbers of frames that 4 does not divide."""
    return [
        (torch.rand(count, frames, generator=generator),) for count, frames in ((3, 10), (2, 15))
    ]


def _difference(values, first, last):
    return values[:, :first].mean(dim=1) - values[:, -last:].mean(dim=1)


def _cuts(values):
    """Frames at which the quarters are cut: five indices from 0."""
    return ((values.shape[1] - 1) * torch.arange(5) / 4 + 0.5).long()


def _end_excluded(values):
    cuts = _cuts(values)
    return values[:, : cuts[1]].mean(dim=1) - values[:, cuts[3] : cuts[4]].mean(dim=1)


def _share_lost(values):
    return decay_of(values) / values[:, : _cuts(values)[1] + 1].mean(dim=1)


decay = Check(
    name="decay",
    solution=decay_of,
    cases=_curve_cases,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "the sign is turned round: what is lost on the way is a decay above 0",
            lambda values: -decay_of(values),
        ),
        Mistake(
            "that is the first frame less the last; one frame is an accident, so quarters are "
            "averaged",
            lambda values: values[:, 0] - values[:, -1],
        ),
        Mistake(
            "those are the halves; the first and the last quarter are asked for",
            lambda values: _difference(values, values.shape[1] // 2, values.shape[1] // 2),
        ),
        Mistake(
            "a quarter ends with the frame of its cut, and that frame is included: cut at 0-based "
            "a and b, it is values[:, a : b + 1]",
            _end_excluded,
        ),
        Mistake(
            "T // 4 frames are too few where 4 does not divide T; cut at "
            "round(linspace(1, T, 5) + 1e-10) - 1, both ends included",
            lambda values: _difference(values, values.shape[1] // 4, values.shape[1] // 4),
        ),
        Mistake(
            "that is the share of the first quarter that is lost; decay is the plain difference",
            _share_lost,
        ),
    ),
)
