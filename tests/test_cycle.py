"""Walks along a clip and back."""

from __future__ import annotations

import pytest
import torch

from corrlib.affinity import full_affinity, restricted_affinity, transport
from corrlib.cycle import round_trip, walk


def permutations(count: int, cells: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Full affinities ``(1, n, n)`` that move every cell somewhere else."""
    orders = [torch.randperm(cells, generator=generator) for _ in range(count)]
    return [torch.eye(cells)[order][None] for order in orders]


def test_permutations_come_home_exactly(generator):
    there = permutations(3, 12, generator)
    back = [affinity.transpose(1, 2) for affinity in there]
    labels = torch.rand(1, 5, 3, 4, generator=generator)
    out = walk(labels, there)
    for returned in round_trip(out, back):
        torch.testing.assert_close(returned, labels)
    assert not torch.equal(out[0], labels)


def test_a_walk_is_one_copy_after_the_other(generator):
    features = torch.rand(4, 2, 8, 5, 7, generator=generator)
    there = [restricted_affinity(features[t], features[t + 1], 2) for t in range(3)]
    back = [restricted_affinity(features[t + 1], features[t], 2) for t in range(3)]
    labels = torch.rand(2, 3, 5, 7, generator=generator)
    out = walk(labels, there)
    expected = labels
    for affinity, found in zip(there, out, strict=True):
        expected = transport(expected, affinity)
        torch.testing.assert_close(found, expected)
    home = round_trip(out, back)
    torch.testing.assert_close(home[0], transport(out[0], back[0]))
    twice = transport(transport(out[1], back[1]), back[0])
    torch.testing.assert_close(home[1], twice)
    assert len(home) == 3


def test_still_frames_with_sharp_attention_lose_nothing(generator):
    features = torch.nn.functional.normalize(torch.randn(1, 32, 6, 6, generator=generator), dim=1)
    affinity = [restricted_affinity(features, features, 3, temperature=0.005)] * 2
    labels = torch.rand(1, 4, 6, 6, generator=generator)
    for returned in round_trip(walk(labels, affinity), affinity):
        torch.testing.assert_close(returned, labels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("restricted", [True, False])
def test_gradients_run_through_the_whole_walk(restricted, generator):
    features = torch.randn(3, 1, 4, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.rand(1, 2, 3, 4, generator=generator, dtype=torch.float64)

    def returned(*frames):
        def affinity(a, b):
            return restricted_affinity(a, b, 1) if restricted else full_affinity(a, b)

        there = [affinity(frames[t], frames[t + 1]) for t in range(2)]
        back = [affinity(frames[t + 1], frames[t]) for t in range(2)]
        return torch.stack(round_trip(walk(labels, there), back))

    frames = [frame.clone().requires_grad_() for frame in features]
    assert torch.autograd.gradcheck(returned, frames)
    for grad in torch.autograd.grad(returned(*frames)[1].square().sum(), frames):
        assert grad.abs().sum() > 0
