"""Flow as a tracker: warping, direction, and what becomes of the labels."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

from corrlib import optical_flow
from corrlib.errors import InputError
from corrlib.optical_flow import FlowEstimator, propagate_by_flow, warp
from corrlib.synthetic import synthetic_clip


def constant(x: float, y: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([x, y]).view(2, 1, 1).expand(2, height, width)


def steady(x: float, y: float) -> FlowEstimator:
    """Says that every pixel was (x, y) away in the frame before."""
    return FlowEstimator("steady", lambda f: f.shape[1:], lambda target, _: constant(x, y, *target))


def iou(found: torch.Tensor, true: torch.Tensor, id: int) -> float:
    found, true = found == id, true == id
    return ((found & true).sum() / (found | true).sum()).item()


# Warping


def test_no_flow_changes_nothing(generator):
    values = torch.rand(3, 7, 11, generator=generator)
    assert torch.equal(warp(values, torch.zeros(2, 7, 11)), values)


@pytest.mark.parametrize("x, y", [(2, 0), (0, -3), (-4, 1), (1, 2)])
def test_whole_pixels_are_copied_exactly_and_beyond_the_border_is_nothing(x, y, generator):
    height, width = 9, 13
    values = torch.rand(2, height, width, generator=generator) + 1
    moved = warp(values, constant(x, y, height, width))
    for row in range(height):
        for column in range(width):
            inside = 0 <= row + y < height and 0 <= column + x < width
            expected = values[:, row + y, column + x] if inside else torch.zeros(2)
            assert torch.equal(moved[:, row, column], expected)


def test_between_pixels_values_are_bilinear():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
    plane = (2 * x - 3 * y + 5)[None]
    moved = warp(plane, constant(0.3, 0.75, 8, 10))
    expected = 2 * (x + 0.3) - 3 * (y + 0.75) + 5
    torch.testing.assert_close(moved[0, :-1, :-1], expected[:-1, :-1])


def test_warping_is_linear(generator):
    one, two = torch.rand(2, 1, 6, 8, generator=generator)
    flow = 4 * torch.rand(2, 6, 8, generator=generator) - 2
    together = warp(one + 3 * two, flow)
    torch.testing.assert_close(together, warp(one, flow) + 3 * warp(two, flow))


@pytest.mark.parametrize("wild", [float("inf"), -float("inf"), float("nan"), 1e30])
def test_a_wild_flow_fetches_nothing(wild):
    flow = torch.zeros(2, 4, 5)
    flow[0, 1, 2] = wild
    moved = warp(torch.ones(1, 4, 5), flow)
    assert moved[0, 1, 2] == 0 and moved.sum() == 19


@pytest.mark.parametrize("shape", [(2, 4, 6), (3, 4, 5), (4, 5)])
def test_warping_wants_a_flow_of_its_size(shape):
    with pytest.raises(InputError, match="flow"):
        warp(torch.zeros(1, 4, 5), torch.zeros(shape))


# Carrying labels


def test_labels_are_fetched_from_where_the_flow_points():
    mask = torch.zeros(12, 16, dtype=torch.uint8)
    mask[4:8, 3:6] = 1
    mask[9:11, 10:14] = 2
    frames = torch.zeros(3, 3, 12, 16, dtype=torch.uint8)
    found = list(propagate_by_flow(frames, mask, steady(-1, -1)))  # things go right and down
    assert torch.equal(found[0], mask)
    for t in (1, 2):
        expected = torch.zeros_like(mask)
        expected[t:, t:] = mask[:-t, :-t]
        assert torch.equal(found[t], expected)


def test_labels_stay_soft_between_frames():
    mask = torch.zeros(8, 24, dtype=torch.uint8)
    mask[:, 4:12] = 1
    frames = torch.zeros(9, 3, 8, 24, dtype=torch.uint8)
    found = list(propagate_by_flow(frames, mask, steady(-0.25, 0)))
    # Rounded at every frame the object would stand still; 8 frames of 1/4 are 2 pixels.
    expected = torch.zeros_like(mask)
    expected[:, 6:14] = 1
    assert torch.equal(found[-1], expected)


def test_a_lost_object_leaves_background_and_does_not_come_back():
    mask = torch.zeros(10, 10, dtype=torch.uint8)
    mask[2:5, 0:3] = 1
    mask[6:9, 5:9] = 2
    frames = torch.zeros(6, 3, 10, 10, dtype=torch.uint8)
    found = list(propagate_by_flow(frames, mask, steady(1, 0)))  # everything leaves to the left
    assert (found[3] == 1).sum() == 0 and (found[3] == 2).sum() == 3 * 4
    frames_back = iter([steady(1, 0), steady(1, 0), steady(1, 0), steady(-3, 0)])
    there_and_back = FlowEstimator(
        "there and back",
        lambda frame: frame.shape[1:],
        lambda target, source: next(frames_back).between(target, source),
    )
    *_, last = propagate_by_flow(frames[:5], mask, there_and_back)
    assert (last == 1).sum() == 0 and torch.equal(last[6:9, 5:9], mask[6:9, 5:9])


def test_void_pixels_are_background():
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[2:5, 2:5] = 3
    mask[6] = 255
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    *_, last = propagate_by_flow(frames, mask, steady(0, 0))
    assert last.unique().tolist() == [0, 3]


def test_each_frame_is_described_once():
    seen = []

    def describe(frame):
        seen.append(frame[0, 0, 0].item())
        return frame.shape[1:]

    frames = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    mask = torch.eye(8, dtype=torch.uint8)
    list(propagate_by_flow(frames, mask, FlowEstimator("", describe, steady(0, 0).between)))
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "frames, mask",
    [
        ([], torch.ones(8, 8)),
        ([torch.zeros(3, 8, 8)], torch.zeros(8, 8)),
        ([torch.zeros(3, 8, 8)], torch.ones(8, 9)),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], torch.ones(8, 8)),
    ],
)
def test_bad_input(frames, mask):
    frames = [frame.to(torch.uint8) for frame in frames]
    with pytest.raises(InputError) as caught:
        list(propagate_by_flow(frames, mask.to(torch.uint8), steady(0, 0)))
    assert "\n" not in str(caught.value)


# DIS


@pytest.mark.parametrize("velocity", [(3.0, 0.0), (-2.0, 1.5)])
def test_dis_follows_a_shift(velocity):
    clip = synthetic_clip(8, 96, 131, objects=2, velocity=velocity)
    estimator = optical_flow.dis_flow()
    found = list(propagate_by_flow(clip.frames, clip.masks[0], estimator))
    for id in (1, 2):
        assert iou(found[-1], clip.masks[-1], id) > 0.9
    still = iou(clip.masks[0], clip.masks[-1], 1)
    assert iou(found[-1], clip.masks[-1], 1) > still + 0.1


def test_dis_flow_leads_from_the_target_to_the_source():
    clip = synthetic_clip(2, 96, 128, objects=1, velocity=(4.0, -2.0))
    estimator = optical_flow.dis_flow()
    before, after = (estimator.describe(frame) for frame in clip.frames)
    flow = estimator.between(after, before)
    assert flow.shape == (2, 96, 128)
    torch.testing.assert_close(
        flow[:, 8:-8, 8:-8].flatten(1).median(dim=1).values,
        torch.tensor([-4.0, 2.0]),
        atol=0.1,
        rtol=0,
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (11, 40), (17, 15), (97, 33)])
def test_dis_takes_frames_of_any_size(size, generator):
    frames = torch.randint(0, 256, (3, 3, *size), generator=generator).to(torch.uint8)
    frames[1:] = frames[0]
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[: size[0] // 2 + 1, : size[1] // 2 + 1] = 1
    found = list(propagate_by_flow(frames, mask, optical_flow.dis_flow()))
    assert all(torch.equal(one, mask) for one in found)


# RAFT


class FakeRaft(torch.nn.Module):
    """Returns the mean difference of its images, so that order and scale show."""

    def forward(self, first, second):
        self.shape, self.range = first.shape, (first.min().item(), first.max().item())
        flow = torch.zeros(1, 2, *first.shape[2:])
        flow[:, 0] = (first - second).mean() * 127.5
        return [torch.full_like(flow, 99.0), flow]


def test_raft_is_asked_for_the_flow_from_target_to_source():
    model = FakeRaft()
    estimator = optical_flow.raft_estimator(model)
    before = estimator.describe(torch.full((3, 37, 150), 10, dtype=torch.uint8))
    after = estimator.describe(torch.full((3, 37, 150), 13, dtype=torch.uint8))
    flow = estimator.between(after, before)
    torch.testing.assert_close(flow, constant(3.0, 0.0, 37, 150), atol=1e-3, rtol=0)
    assert model.shape == (1, 3, 128, 152)


def test_raft_is_given_images_from_minus_one_to_one():
    model = FakeRaft()
    estimator = optical_flow.raft_estimator(model)
    frame = torch.zeros(3, 128, 128, dtype=torch.uint8)
    frame[:, :, 64:] = 255
    estimator.between(estimator.describe(frame), estimator.describe(frame))
    assert model.range == (-1, 1)


def test_raft_weights_are_loaded(monkeypatch):
    asked = {}
    state = raft_large().state_dict()

    def get_state_dict(self, **options):
        asked.update(options)
        return state

    monkeypatch.setattr(Raft_Large_Weights, "get_state_dict", get_state_dict)
    estimator = optical_flow.raft_flow()
    frames = torch.zeros(2, 3, 20, 33, dtype=torch.uint8)
    flow = estimator.between(*(estimator.describe(frame) for frame in frames))
    assert flow.shape == (2, 20, 33) and flow.isfinite().all()
    assert asked["check_hash"] and asked["weights_only"]


@pytest.mark.parametrize("error", [URLError("no network"), OSError("disk"), RuntimeError("hash")])
def test_raft_weights_that_cannot_be_had_are_an_input_error(monkeypatch, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(Raft_Large_Weights, "get_state_dict", fail)
    with pytest.raises(InputError, match="RAFT") as caught:
        optical_flow.raft_flow()
    assert "\n" not in str(caught.value)
