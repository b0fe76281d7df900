"""The palindrome walk."""

from __future__ import annotations

import math

import pytest
import torch

from corrlib.crw import CRW, CRWConfig
from corrlib.errors import InputError
from corrlib.palindrome import palindrome_loss, transition
from corrlib.recipes import CRW_PROFILES


def distinct(cells: int, length: int = 1) -> torch.Tensor:
    """Orthogonal nodes ``(1, T, n, 1, n)``, the same in every frame."""
    return torch.eye(cells).view(1, 1, cells, 1, cells).repeat(1, length, 1, 1, 1)


def test_probabilities_of_stepping_sum_to_one_with_and_without_dropped_edges(generator):
    one, other = torch.randn(2, 2, 8, 3, 5, generator=generator)
    for dropped in (0.0, 0.3):
        step = transition(one, other, 0.1, dropped, generator)
        assert step.shape == (2, 15, 15)
        torch.testing.assert_close(step.sum(dim=1), torch.ones(2, 15))


def test_dropped_edges_are_not_taken(generator):
    one = torch.randn(1, 8, 4, 4, generator=generator)
    step = transition(one, one, 1.0, 0.25, generator)
    assert (step == 0).float().mean().item() == pytest.approx(0.25, abs=0.08)


def test_unmistakable_nodes_come_home_even_when_they_move(generator):
    nodes = distinct(6, 4)
    for t in range(4):
        nodes[:, t] = nodes[:, t, :, :, torch.randperm(6, generator=generator)]
    assert palindrome_loss(nodes, temperature=0.05).item() == pytest.approx(0, abs=1e-5)


def test_equal_nodes_cost_the_logarithm_of_their_number():
    nodes = torch.ones(2, 3, 4, 2, 5)
    assert palindrome_loss(nodes, 0.07).item() == pytest.approx(math.log(10), abs=1e-4)


def test_the_loss_is_the_mean_over_walks_written_out(generator):
    nodes = torch.nn.functional.normalize(torch.randn(2, 3, 6, 2, 3, generator=generator), dim=2)
    cells = nodes.flatten(3)

    def step(reference, target):
        return (cells[:, reference].transpose(1, 2) @ cells[:, target] / 0.3).softmax(dim=1)

    short = step(0, 1) @ step(1, 0)
    long = step(0, 1) @ step(1, 2) @ step(2, 1) @ step(1, 0)
    expected = [-torch.diagonal(walk, dim1=1, dim2=2).log().mean() for walk in (short, long)]
    torch.testing.assert_close(palindrome_loss(nodes, 0.3), sum(expected) / 2)


def test_gradcheck(generator):
    nodes = torch.randn(1, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda features: palindrome_loss(features, 0.5), nodes.requires_grad_()
    )


def test_the_method_encodes_each_frame_once_and_reaches_every_parameter(generator):
    made = CRW(CRWConfig(encoder="resnet18-stride8"), generator).train()
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    losses = made.loss(torch.rand(2, 3, 3, 32, 48, generator=generator), generator)
    losses.total.backward()
    assert encoded == [6]
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_step_down_the_gradient_lowers_the_loss(generator):
    made = CRW(CRW_PROFILES["fast"].model, generator).train()
    clips = torch.rand(2, 3, 3, 64, 64, generator=generator)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.01)
    before = None
    for _ in range(4):
        loss = made.loss(clips, torch.Generator().manual_seed(1)).total
        before = before or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert made.loss(clips, torch.Generator().manual_seed(1)).total < before


@pytest.mark.parametrize("shape", [(1, 1, 3, 32, 32), (1, 3, 3, 24, 32)])
def test_clips_of_one_frame_or_odd_sides_are_errors(shape, generator):
    with pytest.raises(InputError, match="multiples of 16"):
        CRW(CRWConfig(), generator).loss(torch.rand(shape))
