"""Scheduled sampling: the schedule, and the choice."""

from __future__ import annotations

import pytest
import torch

from corrlib.errors import InputError
from corrlib.sampling import ScheduledSampling


def test_the_probability_falls_linearly():
    sampling = ScheduledSampling()
    values = [sampling.probability(share) for share in (0, 0.25, 0.5, 1)]
    assert values == pytest.approx([0.9, 0.825, 0.75, 0.6])


@pytest.mark.parametrize(("p", "share_of_truth"), [(1.0, 1.0), (0.0, 0.0)])
def test_certain_choices(p, share_of_truth, generator):
    truth, own = torch.ones(64, 3, 2, 2), torch.zeros(64, 3, 2, 2)
    chosen = ScheduledSampling(p, p).choose(truth, own, 0.5, generator)
    assert chosen.mean() == share_of_truth


def test_each_clip_is_chosen_as_a_whole_and_as_often_as_asked(generator):
    truth, own = torch.ones(4000, 2, 3, 3), torch.zeros(4000, 2, 3, 3)
    chosen = ScheduledSampling(0.9, 0.6).choose(truth, own, 2 / 3, generator)
    per_clip = chosen.flatten(1)
    assert (per_clip == per_clip[:, :1]).all()
    assert per_clip[:, 0].mean().item() == pytest.approx(0.7, abs=0.03)


def test_the_same_generator_chooses_the_same_and_gradients_follow_the_choice():
    truth = torch.rand(20, 2, 1, 1)
    own = torch.rand(20, 2, 1, 1, requires_grad=True)
    one, other = (
        ScheduledSampling(0.5, 0.5).choose(truth, own, 0.0, torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, other)
    one.sum().backward()
    torch.testing.assert_close(own.grad, (one == own).float())


def test_probabilities_beyond_0_and_1_are_errors():
    with pytest.raises(InputError, match="start probability between 0 and 1, got 1.5"):
        ScheduledSampling(start=1.5)
    with pytest.raises(InputError, match="end probability"):
        ScheduledSampling(end=-0.1)
