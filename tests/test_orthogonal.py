"""The orthogonal regulariser: the way back is the affinity transposed."""

from __future__ import annotations

import pytest
import torch

from corrlib.affinity import full_affinity, transport
from corrlib.errors import InputError
from corrlib.geometry import cell_centres
from corrlib.orthogonal import carry_back, coordinate_cycle


def permutation(cells: int, generator: torch.Generator, batch: int = 2) -> torch.Tensor:
    orders = [torch.randperm(cells, generator=generator) for _ in range(batch)]
    return torch.stack([torch.eye(cells)[order] for order in orders])


def test_a_permutation_has_exactly_no_loss(generator):
    matching = permutation(15, generator)
    assert coordinate_cycle(matching, matching.transpose(1, 2), (3, 5)).tolist() == [0, 0]
    first = torch.rand(2, 4, 3, 5, generator=generator)
    second = transport(first, matching)
    assert torch.equal(carry_back(second, matching), first)


def test_the_wrong_permutation_home_costs(generator):
    matching = permutation(15, generator)
    assert coordinate_cycle(matching, matching.roll(1, dims=2).transpose(1, 2), (3, 5)).min() > 0.5


def test_a_uniform_affinity_costs_the_mean_distance_to_the_centre():
    """Both ways uniform, everything comes home to the middle: x deviates by 0..(w-1)/2."""
    height, width = 3, 5
    uniform = torch.full((1, 15, 15), 1 / 15)
    expected = (6 / 5 + 2 / 3) / 2
    loss = coordinate_cycle(uniform, uniform.transpose(1, 2), (height, width))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_many_cells_to_one_cost_much_though_each_softmax_of_its_own_does_not_tell(generator):
    """All of frame 2 is explained by cell 7: its transpose gives that cell everything."""
    collapsed = torch.zeros(1, 15, 15)
    collapsed[:, 7] = 1
    transposed = coordinate_cycle(collapsed, collapsed.transpose(1, 2), (3, 5))
    assert transposed > 2
    values = carry_back(torch.ones(1, 1, 3, 5), collapsed)[0, 0].flatten()
    assert values[7] == 15 and values.sum() == 15


def test_maps_of_two_sizes(generator):
    first, second = torch.randn(2, 8, 3, 5, generator=generator), torch.randn(2, 8, 4, 2)
    outward, homeward = full_affinity(first, second), full_affinity(second, first)
    assert coordinate_cycle(outward, homeward, (3, 5)).shape == (2,)
    assert carry_back(torch.rand(2, 3, 4, 2), outward, (3, 5)).shape == (2, 3, 3, 5)


def test_unmistakable_features_come_home_by_softmaxes_of_their_own(generator):
    cells = torch.eye(15).view(1, 15, 3, 5)
    moved = cells.roll((1, 2), dims=(2, 3))
    outward, homeward = full_affinity(cells, moved, 0.02), full_affinity(moved, cells, 0.02)
    assert coordinate_cycle(outward, homeward, (3, 5)).item() < 1e-4


def test_it_is_written_out(generator):
    outward = torch.randn(2, 6, 4, generator=generator).softmax(dim=1)
    homeward = torch.randn(2, 4, 6, generator=generator).softmax(dim=1)
    home = cell_centres(2, 3).flatten(1)
    for sample in range(2):
        total = 0.0
        for cell in range(6):
            back = sum(
                home[:, k] * outward[sample, k, j] * homeward[sample, j, cell]
                for k in range(6)
                for j in range(4)
            )
            total += (back - home[:, cell]).abs().sum().item()
        loss = coordinate_cycle(outward, homeward, (2, 3))[sample]
        assert loss.item() == pytest.approx(total / 12, rel=1e-5)


def test_gradcheck(generator):
    scores = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64).requires_grad_()
    values = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def coordinates(scores):
        outward = scores.softmax(dim=1)
        return coordinate_cycle(outward, outward.transpose(1, 2), (2, 3))

    assert torch.autograd.gradcheck(coordinates, scores)
    assert torch.autograd.gradcheck(lambda v, s: carry_back(v, s.softmax(dim=1)), (values, scores))


def test_a_step_down_the_gradient_makes_an_affinity_more_orthogonal(generator):
    scores = torch.randn(1, 15, 15, generator=generator).requires_grad_()

    def loss():
        outward = scores.softmax(dim=1)
        return coordinate_cycle(outward, outward.transpose(1, 2), (3, 5)).sum()

    optimiser = torch.optim.Adam([scores], lr=0.1)
    before = loss().item()
    for _ in range(30):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
    assert loss().item() < 0.5 * before


def test_affinities_that_do_not_fit_are_errors(generator):
    affinity = torch.rand(1, 6, 6)
    with pytest.raises(InputError, match=r"B, n_ref, n_tar"):
        coordinate_cycle(torch.rand(1, 9, 2, 3), affinity, (2, 3))
    with pytest.raises(InputError, match=r"\(B, 6, n\) out"):
        coordinate_cycle(affinity, torch.rand(1, 6, 5), (2, 3))
    with pytest.raises(InputError, match=r"\(B, 8, n\) out"):
        coordinate_cycle(affinity, affinity, (2, 4))
    with pytest.raises(InputError, match=r"B, n_ref, n_tar"):
        carry_back(torch.rand(1, 3, 2, 3), torch.rand(1, 9, 2, 3))
    with pytest.raises(InputError, match="over 6 reference cells"):
        carry_back(torch.rand(1, 3, 2, 3), torch.rand(1, 6, 8))
