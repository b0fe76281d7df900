"""Both forms of the concentration regulariser."""

from __future__ import annotations

import math

import pytest
import torch

from corrlib.affinity import transport
from corrlib.concentration import concentration, windowed_concentration
from corrlib.errors import InputError
from corrlib.geometry import cell_centres


def places(height: int, width: int, stride: int = 1) -> torch.Tensor:
    return cell_centres(height, width, stride)[None]


def test_a_patch_that_stays_in_its_box_costs_nothing_wherever_it_moves():
    patch = places(4, 6, stride=8)  # centres up to 12 and 20 px from the middle
    for shift in ((0.0, 0.0), (300.0, -40.0)):
        moved = patch + torch.tensor(shift)[:, None, None]
        assert concentration(moved, (20.5, 12.5)).tolist() == [0]


@pytest.mark.parametrize("extent", [(19.5, 12.5), (20.5, 11.5)])
def test_a_patch_that_leaves_its_box_on_either_axis_costs_its_mean_distance(extent):
    patch = places(4, 6, stride=8)
    x, y = (patch[0] - torch.tensor([20.0 + 3.5, 12.0 + 3.5])[:, None, None]).unbind(0)
    expected = torch.hypot(x, y).mean().item()
    assert concentration(patch, extent).item() == pytest.approx(expected, rel=1e-6)


def test_one_pixel_that_strays_makes_the_whole_patch_cost():
    patch = torch.zeros(1, 2, 2, 2)
    patch[0, 0, 0, 0] = 8.0  # the centre moves to x = 2
    assert concentration(patch, (5.9, 1.0)).item() == pytest.approx((6 + 2 + 2 + 2) / 4)
    assert concentration(patch, (6.0, 1.0)).item() == 0


def test_every_sample_has_its_own_centre_and_its_own_box():
    patches = torch.cat([places(3, 5), 4 * places(3, 5), places(3, 5) + 100])
    losses = concentration(patches, (3.0, 2.0))
    assert losses[0] == losses[2] == 0 and losses[1] > 3


def test_the_windowed_loss_is_the_variance_within_windows():
    # an undistorted window of n cells has a variance of (n² - 1)/12 on either axis
    for size in ((8, 8), (8, 24), (16, 8)):
        loss = windowed_concentration(places(*size) + 50)
        assert loss.item() == pytest.approx(2 * (64 - 1) / 12, rel=1e-5)
    assert windowed_concentration(places(12, 8), window=4).item() == pytest.approx(2 * 15 / 12)


def test_windows_may_move_apart_but_not_within():
    whole = places(16, 16)
    apart = whole.clone()
    apart[:, :, :8] += 500
    torch.testing.assert_close(windowed_concentration(apart), windowed_concentration(whole))
    mixed = whole[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    assert windowed_concentration(mixed) > 1.5 * windowed_concentration(whole)


def test_smaller_windows_at_the_edge_count_by_their_cells():
    coordinates = torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for rows in (slice(0, 4), slice(4, 5)):
        for columns in (slice(0, 4), slice(4, 7)):
            window = coordinates[0, :, rows, columns].flatten(1)
            total += (window - window.mean(dim=1, keepdim=True)).square().sum().item()
    assert windowed_concentration(coordinates, 4).item() == pytest.approx(total / 35, rel=1e-5)


def test_a_matching_that_collapses_a_patch_into_two_corners_costs_much():
    """An 8x8 patch in a 16x16 frame, matched in place or to the frame's first and last cell."""
    frame, patch = places(16, 16), torch.arange(64)
    kept = torch.zeros(1, 256, 64)
    kept[0, 16 * (patch // 8) + patch % 8, patch] = 1
    torn = torch.zeros(1, 256, 64)
    torn[:, 0, ::2] = 1
    torn[:, -1, 1::2] = 1
    kept, torn = (transport(frame, affinity, (8, 8)) for affinity in (kept, torn))
    assert concentration(kept, (3.5, 3.5)).item() == 0
    assert concentration(torn, (3.5, 3.5)).item() == pytest.approx(7.5 * math.sqrt(2))
    assert windowed_concentration(kept).item() == pytest.approx(10.5)
    assert windowed_concentration(torn).item() == pytest.approx(2 * 7.5**2)


def test_gradcheck(generator):
    scattered = 10 * torch.randn(2, 2, 3, 5, generator=generator, dtype=torch.float64)
    scattered.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: concentration(c, (1.0, 1.0)), scattered)
    assert torch.autograd.gradcheck(lambda c: concentration(c, (100.0, 100.0)), scattered)
    assert torch.autograd.gradcheck(lambda c: windowed_concentration(c, 2), scattered)


def test_a_pixel_on_the_centre_has_a_gradient():
    coordinates = torch.tensor([[[[-9.0, 0.0, 9.0]], [[0.0, 0.0, 0.0]]]], requires_grad=True)
    concentration(coordinates, (1.0, 1.0)).sum().backward()
    assert coordinates.grad.isfinite().all()
    assert coordinates.grad[0, 0, 0].tolist() == pytest.approx([-1 / 3, 0, 1 / 3])


def test_a_uniform_affinity_is_concentrated_in_any_size(generator):
    """It expects every pixel in the middle: concentration alone does not ask for a matching."""
    uniform = torch.full((2, 15, 6), 1 / 15)
    located = transport(places(3, 5).expand(2, -1, -1, -1), uniform, (2, 3))
    assert windowed_concentration(located).abs().max() < 1e-10
    assert concentration(located, (1e-5, 1e-5)).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [torch.zeros(2, 4, 4), torch.zeros(1, 3, 4, 4)])
def test_other_shapes_are_errors(bad):
    with pytest.raises(InputError, match="B, 2, h, w"):
        concentration(bad, (1.0, 1.0))
    with pytest.raises(InputError, match="B, 2, h, w"):
        windowed_concentration(bad)


def test_integers_and_empty_boxes_and_windows_are_errors():
    with pytest.raises(InputError, match="int64"):
        concentration(torch.zeros(1, 2, 4, 4, dtype=torch.int64), (1.0, 1.0))
    for extent in ((0.0, 1.0), (1.0, -2.0), (math.nan, 1.0)):
        with pytest.raises(InputError, match="above 0"):
            concentration(torch.zeros(1, 2, 4, 4), extent)
    with pytest.raises(InputError, match="at least 1"):
        windowed_concentration(torch.zeros(1, 2, 4, 4), 0)
