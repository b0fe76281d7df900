"""Compact SIFT flow: its descriptors, its message passing, and what it tracks."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from corrlib import sift_flow
from corrlib.optical_flow import propagate_by_flow
from corrlib.synthetic import synthetic_clip


def texture(generator, height: int = 48, width: int = 60) -> torch.Tensor:
    noise = torch.rand(height, width, generator=generator).numpy()
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return torch.from_numpy(np.rint(255 * cv2.normalize(smooth, None, 0, 1, cv2.NORM_MINMAX))).to(
        torch.uint8
    )


def difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return (one.float() - two.float()).abs().max().item()


# Descriptors


def test_descriptors_have_length_and_clipping_of_sift(generator):
    descriptors = sift_flow.dense_sift(texture(generator))
    assert descriptors.shape == (48, 60, 128) and descriptors.dtype == torch.uint8
    length = descriptors.float().norm(dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, 512), atol=8, rtol=0)


def test_descriptors_do_not_see_brightness_and_contrast(generator):
    grey = texture(generator)
    plain = (grey // 2).to(torch.uint8)
    assert difference(sift_flow.dense_sift(plain), sift_flow.dense_sift(plain + 77)) == 0
    assert difference(sift_flow.dense_sift(plain), sift_flow.dense_sift(2 * plain)) <= 1


def test_descriptors_move_with_the_picture(generator):
    grey = texture(generator)
    moved = sift_flow.dense_sift(grey.roll((3, -5), dims=(0, 1)))
    here = sift_flow.dense_sift(grey).roll((3, -5), dims=(0, 1))
    assert difference(moved[16:-16, 16:-16], here[16:-16, 16:-16]) <= 1


def test_a_mirrored_picture_has_mirrored_descriptors(generator):
    grey = texture(generator, 40, 41)
    descriptors = sift_flow.dense_sift(grey).unflatten(2, (4, 4, 8))  # row, column, orientation
    mirrored = sift_flow.dense_sift(grey.flip(1)).unflatten(2, (4, 4, 8))
    # Orientation k is at 45 k degrees; left and right change places.
    back = mirrored.flip(3)[..., [4, 3, 2, 1, 0, 7, 6, 5]]
    # The centre of the 4x4 cells is the pixel itself, so that flipping needs no shift.
    assert difference(back.flip(1)[8:-8, 8:-8], descriptors[8:-8, 8:-8]) <= 1


def test_a_ramp_votes_for_its_own_direction():
    ramp = torch.arange(40, dtype=torch.uint8).repeat(40, 1)
    for turns, grey in ((0, 5 * ramp), (2, 5 * ramp.T), (4, 5 * ramp.flip(1))):
        descriptor = sift_flow.dense_sift(grey.contiguous())[20, 20].view(16, 8)
        assert (descriptor[:, turns] > 0).all()
        descriptor[:, turns] = 0
        assert descriptor.max() == 0


def test_where_nothing_changes_descriptors_are_zero():
    assert sift_flow.dense_sift(torch.full((20, 30), 90, dtype=torch.uint8)).max() == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (33, 50)])
def test_the_pyramid_halves_and_rounds_up(size, generator):
    levels = sift_flow.pyramid(torch.zeros(*size, 128, dtype=torch.uint8))
    for level, descriptors in enumerate(levels):
        assert descriptors.shape[:2] == tuple(-(-side // 2**level) for side in size)


# Energy


def exact(costs: torch.Tensor, centre: torch.Tensor, alpha: float, truncation: float):
    """The minimum over all labellings of a 1xW chain, by trying them all."""
    side, width = len(costs), costs.shape[3]
    labels = list(itertools.product(range(side), range(side)))  # (v, u)
    best, found = float("inf"), None
    for choice in itertools.product(labels, repeat=width):
        total = sum(costs[v, u, 0, x].item() for x, (v, u) in enumerate(choice))
        for x in range(width - 1):
            for axis in (0, 1):
                one = choice[x][1 - axis] + centre[axis, 0, x].item()
                two = choice[x + 1][1 - axis] + centre[axis, 0, x + 1].item()
                total += min(alpha * abs(one - two), truncation)
        if total < best:
            best, found = total, choice
    return best, found


@pytest.mark.parametrize("upright", [False, True])
def test_belief_propagation_is_exact_on_a_chain(upright, generator):
    for _ in range(4):
        costs = torch.rand(3, 3, 1, 3, generator=generator)
        centre = torch.randint(-2, 3, (2, 1, 3), generator=generator)
        best, choice = exact(costs, centre, 0.3, 0.5)
        if upright:
            beliefs = sift_flow.belief_propagation(costs.mT, centre.mT, 0.3, 0.5, 3).mT
        else:
            beliefs = sift_flow.belief_propagation(costs, centre, 0.3, 0.5, 3)
        index = beliefs.flatten(0, 1).argmin(dim=0)[0]
        assert [(i // 3, i % 3) for i in index.tolist()] == list(choice)


def test_without_smoothness_each_cell_takes_its_cheapest(generator):
    costs = torch.rand(3, 3, 6, 7, generator=generator)
    centre = torch.zeros(2, 6, 7, dtype=torch.long)
    beliefs = sift_flow.belief_propagation(costs, centre, 0.0, 1.0, 3)
    assert torch.equal(beliefs.flatten(0, 1).argmin(0), costs.flatten(0, 1).argmin(0))


def test_smoothness_overrules_one_cell_that_is_torn_off():
    costs = torch.ones(3, 3, 9, 9)
    costs[1, 2] = 0  # everybody goes right
    costs[1, 2, 4, 4], costs[0, 0, 4, 4] = 1, 0.9  # but for one, by a little
    centre = torch.zeros(2, 9, 9, dtype=torch.long)
    beliefs = sift_flow.belief_propagation(costs, centre, 0.5, 2.0, 4)
    assert (beliefs.flatten(0, 1).argmin(0) == 5).all()


def test_leaving_the_frame_has_its_price(generator):
    descriptors = sift_flow.dense_sift(texture(generator, 10, 12))
    centre = torch.zeros(2, 10, 12, dtype=torch.long)
    costs = sift_flow.data_costs(descriptors, descriptors, centre, 1)
    length = sift_flow.GAMMA * torch.tensor([[2, 1, 2], [1, 0, 1], [2, 1, 2]])
    assert torch.equal(costs[1, 1], torch.zeros(10, 12))
    expected = torch.full((12,), sift_flow.OUTSIDE + length[0, 1].item())
    torch.testing.assert_close(costs[0, 1, 0], expected)
    apart = (descriptors[4, 5].float() - descriptors[5, 4].float()).abs().sum() / 255
    torch.testing.assert_close(costs[2, 0, 4, 5], apart + length[2, 0])


# Flow


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-9, 12)])
def test_a_whole_pixel_shift_is_found(shift, generator):
    x, y = shift
    grey = texture(generator, 80, 100)
    levels = [
        sift_flow.pyramid(sift_flow.dense_sift(one))
        for one in (grey.roll((y, x), dims=(0, 1)), grey)
    ]
    flow = sift_flow.match(*levels)
    inner = flow[:, 24:-24, 24:-24].flatten(1)
    right = (inner == torch.tensor([[-x], [-y]])).all(0).float().mean()
    assert right > 0.99


def test_flow_of_a_large_frame_is_in_its_own_pixels(generator):
    grey = texture(generator, 64, 80).numpy()
    before = cv2.resize(grey, (410, 384), interpolation=cv2.INTER_CUBIC)
    after = np.roll(before, (6, -12), axis=(0, 1))
    estimator = sift_flow.sift_flow()
    target, source = (
        estimator.describe(torch.from_numpy(one).expand(3, -1, -1)) for one in (after, before)
    )
    flow = estimator.between(target, source)
    assert flow.shape == (2, 384, 410)
    middle = flow[:, 100:-100, 100:-100].flatten(1).median(dim=1).values
    torch.testing.assert_close(middle, torch.tensor([12.0, -6.0]), atol=0.5, rtol=0)


def test_a_shift_is_tracked_and_objects_kept_apart():
    clip = synthetic_clip(4, 80, 97, objects=2, velocity=(3.0, -2.0))
    *_, found = propagate_by_flow(clip.frames, clip.masks[0], sift_flow.sift_flow())
    for id in (1, 2):
        one, two = found == id, clip.masks[-1] == id
        assert (one & two).sum() / (one | two).sum() > 0.9
        still = clip.masks[0] == id
        assert (still & two).sum() / (still | two).sum() < 0.8


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (17, 15)])
def test_frames_of_any_size_and_without_texture(size):
    frames = torch.full((3, 3, *size), 128, dtype=torch.uint8)
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[: size[0] // 2 + 1, : size[1] // 2 + 1] = 1
    found = list(propagate_by_flow(frames, mask, sift_flow.sift_flow()))
    assert all(torch.equal(one, mask) for one in found)
