"""The exercises of lesson 13, answered as a student might."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from corrlib import ablation
from corrlib.ablation import Run
from corrlib.checks import FAILED
from corrlib.checks import ablation as checks


def differences(row, row_seeds, full, full_seeds):
    scores = dict(zip(full_seeds.tolist(), full.tolist(), strict=True))
    runs = zip(row_seeds.tolist(), row.tolist(), strict=True)
    return [score - scores[seed] for seed, score in runs if seed in scores]


def gain_by_dictionary(*runs):
    paired = differences(*runs)
    return torch.tensor([statistics.mean(paired), statistics.stdev(paired)])


def drift_by_loops(values, lengths):
    curve = []
    for t in range(values.shape[1]):
        column = [row[t].item() for row, length in zip(values, lengths, strict=True) if t < length]
        curve.append(sum(column) / len(column))
    return torch.tensor(curve)


def decay_by_cuts(values):
    count = values.shape[1]
    cuts = (np.round(np.linspace(1, count, 5) + 1e-10) - 1).astype(int)
    first = values[:, cuts[0] : cuts[1] + 1].mean(dim=1)
    return first - values[:, cuts[3] : cuts[4] + 1].mean(dim=1)


def test_other_right_answers_pass():
    assert checks.paired_gain(gain_by_dictionary).passed
    assert checks.drift_curve(drift_by_loops).passed
    assert checks.decay(decay_by_cuts).passed


def mean_and(deviation):
    """Mean and a deviation of the paired differences."""

    def student(*runs):
        paired = differences(*runs)
        return torch.tensor([statistics.mean(paired), deviation(paired)])

    return student


def sides_pooled(row, row_seeds, full, full_seeds):
    deviations = [statistics.stdev(side.tolist()) for side in (row, full)]
    return torch.stack([row.mean() - full.mean(), torch.tensor(math.hypot(*deviations))])


def paired_by_place(row, row_seeds, full, full_seeds):
    paired = [a - b for a, b in zip(row.tolist(), full.tolist(), strict=False)]
    return torch.tensor([statistics.mean(paired), statistics.stdev(paired)])


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda *runs: gain_by_dictionary(*runs[2:], *runs[:2]), "sign"),
        (mean_and(statistics.pstdev), "N - 1"),
        (mean_and(lambda paired: statistics.stdev(paired) / math.sqrt(len(paired))), "root"),
        (sides_pooled, "pooled"),
        (paired_by_place, "same *seed*"),
    ],
)
def test_wrong_gains_get_their_hint(wrong, hint):
    verdict = checks.paired_gain(wrong)
    assert verdict.status == FAILED
    assert hint in verdict.message


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda values, lengths: values.sum(dim=0) / len(values), "counted as J of 0"),
        (
            lambda values, lengths: torch.stack([row[: min(lengths)] for row in values]).mean(0),
            "cut to the shortest",
        ),
        (
            lambda values, lengths: torch.stack(
                [column[column != 0].mean().nan_to_num() for column in values.T]
            ),
            "lost object",
        ),
    ],
)
def test_wrong_curves_get_their_hint(wrong, hint):
    verdict = checks.drift_curve(wrong)
    assert verdict.status == FAILED
    assert hint in verdict.message


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda values: -decay_by_cuts(values), "sign"),
        (lambda values: values[:, 0] - values[:, -1], "one frame is an accident"),
        (
            lambda values: (
                values[:, : values.shape[1] // 4].mean(1)
                - values[:, -(values.shape[1] // 4) :].mean(1)
            ),
            "too few",
        ),
    ],
)
def test_wrong_decays_get_their_hint(wrong, hint):
    verdict = checks.decay(wrong)
    assert verdict.status == FAILED
    assert hint in verdict.message


def test_the_solutions_are_the_librarys_figures():
    """What the exercises ask for is what the records are summarised with."""
    row, full = [0.4, 0.6, 0.55], [0.5, 0.65, 0.7]
    runs = [Run("full", seed, j, j, {}, [], {}, {}) for seed, j in enumerate(full)]
    runs += [Run("without-cycle", seed, j, j, {}, [], {}, {}) for seed, j in enumerate(row)]
    seeds = torch.arange(3)
    expected = checks.gain_and_spread(torch.tensor(row), seeds, torch.tensor(full), seeds)
    _, found = ablation.summarise(runs)
    assert (found.gain, found.gain_spread) == pytest.approx(tuple(expected.tolist()), abs=1e-6)

    values, lengths = checks.drift_curve.cases(torch.Generator().manual_seed(0))[0]
    figure = {
        "sequences": {
            str(index): {"objects": {"1": {"per_frame": {"J": row[:length].tolist()}}}}
            for index, (row, length) in enumerate(zip(values, lengths, strict=True))
        }
    }
    curve = checks.mean_of_those_that_last(values, lengths)
    assert ablation.drift(figure) == pytest.approx(curve.tolist(), abs=1e-6)


def test_the_luck_of_a_seed_cancels_in_a_paired_difference():
    """Whatever a seed adds to both sides changes neither gain nor spread."""
    row, row_seeds, full, full_seeds = checks.paired_gain.cases(torch.Generator().manual_seed(0))[0]
    luck = torch.tensor([0.3, -0.2, 0.1, 0.05, 0.4, -0.3])
    lucky = checks.gain_and_spread(
        row + luck[row_seeds], row_seeds, full + luck[full_seeds], full_seeds
    )
    plain = checks.gain_and_spread(row, row_seeds, full, full_seeds)
    torch.testing.assert_close(lucky, plain)
