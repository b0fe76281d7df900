"""Joints as heat maps: where they are put, read and carried, and what is said of lost ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.keypoints import (
    CELLS,
    SIGMA,
    Skeleton,
    draw_skeleton,
    heat_maps,
    locate,
    on_frame,
    propagate_keypoints,
    rescale_points,
)
from corrlib.propagation import FeatureExtractor, PropagationConfig, encoded_size
from corrlib.synthetic import synthetic_clip

CONFIG = PropagationConfig(references=2, radius=3, topk=5)
NEAREST = PropagationConfig(references=1, radius=3, topk=1)


def places(stride: int = 8) -> FeatureExtractor:
    """Every cell of one grid resembles itself alone, whatever the frame shows."""

    def extract(frames):
        height, width = (side // stride for side in frames.shape[-2:])
        return torch.eye(height * width).view(1, -1, height, width)

    return FeatureExtractor("places", stride, 0, extract)


def cells(stride: int = 8, channels: int = 256) -> FeatureExtractor:
    """Cells resemble cells of exactly the same colour, and no others much."""
    phase = 2 * torch.pi * torch.rand(channels, 1, 1, generator=torch.Generator().manual_seed(1))
    turn = 900 * torch.randn(channels, 3, generator=torch.Generator().manual_seed(2))

    def extract(frames):
        mean = F.avg_pool2d(frames, stride)[0].double()
        return torch.cos(torch.einsum("kc,chw->khw", turn.double(), mean) + phase)[None].float()

    return FeatureExtractor("cells", stride, channels, extract)


def shifted(generator, shift, height=80, width=112, stride=8, frames=3):
    """A wall of plain coloured cells seen through a window that moves by whole cells."""
    dx, dy = shift
    room = stride * frames * max(abs(dx), abs(dy), 1)
    tall, wide = ((side + 2 * room) // stride for side in (height, width))
    wall = torch.randint(0, 256, (3, tall, wide), generator=generator, dtype=torch.uint8)
    wall = wall.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    return torch.stack(
        [
            wall[:, room - stride * dy * t :, room - stride * dx * t :][:, :height, :width]
            for t in range(frames)
        ]
    )


def random_points(generator, count, size):
    height, width = size
    return torch.rand(count, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])


@pytest.mark.parametrize("location", CELLS)
@pytest.mark.parametrize(
    ("size", "stride", "short_side"),
    [((64, 96), 8, None), ((61, 90), 8, None), ((48, 40), 4, None), ((60, 90), 8, 96)],
)
def test_a_static_video_keeps_every_joint_within_half_a_cell(
    location, size, stride, short_side, generator
):
    config = PropagationConfig(references=2, radius=3, topk=5, short_side=short_side)
    points = random_points(generator, 200, size)
    frames = torch.zeros(4, 3, *size, dtype=torch.uint8)
    found = list(propagate_keypoints(frames, points, places(stride), config, location=location))
    assert torch.equal(found[0], points)
    cell = stride * max(a / b for a, b in zip(size, encoded_size(size, config), strict=True))
    for later in found[1:]:
        assert (later - points).abs().max() <= cell / 2 + 1e-4


def test_the_mean_of_three_cells_finds_a_place_between_cells(generator):
    """The largest cell alone is off by up to half a cell, three cells by a fifth."""
    size = (96, 96)
    points = 16 + random_points(generator, 2000, (65, 65))
    maps = heat_maps(points, size, 8, CONFIG)
    error = {name: (locate(maps, size, 8, CONFIG, name) - points).abs().max() / 8 for name in CELLS}
    assert 0.45 < error["maximum"] <= 0.5 + 1e-5
    assert error["top3"] < 0.2


@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (-2, 1)])
@pytest.mark.parametrize("location", CELLS)
def test_a_shift_by_whole_cells_moves_joints_exactly(shift, location, generator):
    frames = shifted(generator, shift)
    points = 36 + random_points(generator, 10, (9, 33))
    maps = heat_maps(points, (80, 112), 8, NEAREST)
    start = locate(maps, (80, 112), 8, NEAREST, location)
    found = list(propagate_keypoints(frames, points, cells(), NEAREST, location=location))
    for t in (1, 2):
        moved = start + 8.0 * t * torch.tensor(shift)
        assert torch.allclose(found[t], moved, atol=1e-4)


def test_joints_do_not_depend_on_their_order_or_on_each_other(generator):
    clip = synthetic_clip(frames=4, height=64, width=96, seed=2)
    points = random_points(generator, 12, (64, 96))
    points[3] = points[7]
    order = torch.randperm(12, generator=generator)
    found = torch.stack(list(propagate_keypoints(clip.frames, points, colour_patch(), CONFIG)))
    other = torch.stack(
        list(propagate_keypoints(clip.frames, points[order], colour_patch(), CONFIG))
    )
    assert torch.equal(found[:, order], other)
    few = torch.stack(list(propagate_keypoints(clip.frames, points[:2], colour_patch(), CONFIG)))
    assert torch.allclose(found[:, :2], few, atol=1e-4)


def test_joints_follow_a_moving_clip(generator):
    clip = synthetic_clip(frames=5, height=96, width=128, objects=0, velocity=(8.0, 0.0), seed=1)
    points = 16 + random_points(generator, 10, (60, 50))
    found = torch.stack(list(propagate_keypoints(clip.frames, points, colour_patch(), CONFIG)))
    columns, rows = points.round().long().T
    truth = clip.correspondence[:, :, rows, columns].transpose(1, 2) + (points - points.round())
    assert (found - truth).abs().median() < 1.5
    assert (points - truth)[1:].norm(dim=2).min() > 7


def test_hard_feedback_and_stretched_maps_change_nothing(generator):
    """They are for masks: of heat maps they would leave spots without a peak."""
    frames = synthetic_clip(frames=4, height=64, width=96, seed=0).frames
    points = random_points(generator, 5, (64, 96))
    masks = replace(CONFIG, feedback="hard", normalise_labels=True)
    for one, other in zip(
        propagate_keypoints(frames, points, colour_patch(), CONFIG),
        propagate_keypoints(frames, points, colour_patch(), masks),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_missing_joint_stays_missing_and_disturbs_no_other(generator):
    frames = synthetic_clip(frames=3, height=64, width=96, seed=0).frames
    points = random_points(generator, 5, (64, 96))
    off = torch.tensor([[torch.nan, 3.0], [-0.6, 5.0], [20.0, 63.6], [96.0, 10.0]])
    every = torch.cat([points, off])
    assert on_frame(every, (64, 96)).tolist() == [True] * 5 + [False] * 4
    found = list(propagate_keypoints(frames, every, colour_patch(), CONFIG))
    alone = list(propagate_keypoints(frames, points, colour_patch(), CONFIG))
    for both, few in zip(found, alone, strict=True):
        assert both[5:].isnan().all()
        assert torch.allclose(both[:5], few, atol=1e-4)


def test_a_joint_that_leaves_the_picture_is_lost_not_at_the_corner(generator):
    frames = shifted(generator, (3, 0), width=64, frames=3)
    for t, frame in enumerate(frames):
        frame[:, :, : 24 * t + 8] = 0  # what comes into view resembles the left border only
    points = torch.tensor([[51.5, 35.5], [27.5, 35.5]])  # 1 cell, and 4, from the right border
    found = list(propagate_keypoints(frames, points, cells(), NEAREST))
    assert found[1][0].isnan().all()
    assert torch.allclose(found[1][1], torch.tensor([51.5, 35.5]), atol=1.5)
    assert found[2].isnan().all()


def test_heat_maps_are_gaussians_of_half_a_cell():
    points = torch.tensor([[8 * 2 + 3.5, 8 * 3 + 3.5], [8 * 2 + 7.5, 8 * 3 + 3.5]])
    maps = heat_maps(points, (64, 80), 8, CONFIG)
    assert maps.shape == (2, 8, 10) and maps.dtype == torch.float32
    assert SIGMA == 0.5
    near, diagonal = torch.exp(torch.tensor([-2.0, -4.0]))
    expected = torch.tensor([[diagonal, near, diagonal], [near, 1.0, near]])
    assert torch.allclose(maps[0, 2:4, 1:4], expected)
    assert maps[0].count_nonzero() == 9 and maps[1].count_nonzero() == 12
    assert torch.allclose(maps[1, 3, 2:4], torch.exp(torch.tensor(-0.5)))


def test_a_resized_frame_keeps_the_joint_in_its_place():
    config = PropagationConfig(short_side=128)
    points = torch.tensor([[30.0, 20.0]])
    assert torch.allclose(rescale_points(points, (64, 80), (128, 160)), torch.tensor([60.5, 40.5]))
    maps = heat_maps(points, (64, 80), 8, config)
    assert maps.shape == (1, 16, 20)
    assert (locate(maps, (64, 80), 8, config) - points).abs().max() < 1


def test_location_by_hand():
    maps = torch.zeros(4, 3, 4)
    maps[0, 1, 2], maps[0, 1, 3], maps[0, 2, 2], maps[0, 0, 0] = 4.0, 2.0, 2.0, 1.0
    maps[1, 2, 1] = 0.3
    maps[2, 0, 1] = maps[2, 0, 2] = maps[2, 1, 0] = maps[2, 2, 3] = 0.5
    top = locate(maps, (24, 32), 8, CONFIG)
    assert torch.allclose(top[0], torch.tensor([2.25 * 8 + 3.5, 1.25 * 8 + 3.5]))
    assert torch.allclose(top[1], torch.tensor([11.5, 19.5]))
    assert torch.allclose(top[2], torch.tensor([1 * 8 + 3.5, 8 / 3 + 3.5]))  # first in rows
    assert top[3].isnan().all()
    most = locate(maps, (24, 32), 8, CONFIG, "maximum")
    assert most[:3].tolist() == [[19.5, 11.5], [11.5, 19.5], [11.5, 3.5]]
    assert most[3].isnan().all()
    assert torch.allclose(locate(0.01 * maps[:3], (24, 32), 8, CONFIG), top[:3])


def test_a_location_lies_on_the_frame():
    maps = torch.zeros(1, 3, 4)
    maps[0, 2, 3] = 1.0
    assert locate(maps, (17, 25), 8, CONFIG).tolist() == [[24.0, 16.0]]


def test_unusable_joints_and_frames(generator):
    frames = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    point = torch.tensor([[4.0, 4.0]])

    def run(frames=frames, points=point, **more):
        return list(propagate_keypoints(frames, points, places(), CONFIG, **more))

    with pytest.raises(InputError, match="at least 1 frame"):
        run(frames=[])
    with pytest.raises(InputError, match="expected joints"):
        run(points=torch.zeros(3))
    with pytest.raises(InputError, match="expected joints"):
        run(points=torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="at least one joint"):
        run(points=torch.tensor([[-4.0, 4.0], [torch.nan, torch.nan]]))
    with pytest.raises(InputError, match="32x32 first and 24x32"):
        run(frames=[frames[0], frames[0, :, :24]])
    with pytest.raises(InputError, match="location among maximum, top3"):
        run(location="mean")
    with pytest.raises(InputError, match="edges between"):
        Skeleton(("a", "b"), ((0, 2),))


def test_a_skeleton_is_drawn_where_it_is():
    frame = torch.full((3, 60, 80), 100, dtype=torch.uint8)
    points = torch.tensor([[10.0, 30.0], [60.0, 30.0], [60.0, 50.0], [torch.nan, torch.nan]])
    visible = torch.tensor([True, True, True, False])
    drawn = draw_skeleton(frame, points, visible, ((0, 1), (2, 3)))
    assert drawn.shape == frame.shape and drawn.dtype == torch.uint8
    assert (frame == 100).all()
    assert drawn[:, 30, 35].tolist() == [255, 255, 255]  # the bone
    assert drawn[:, 30, 10].tolist() == drawn[:, 50, 60].tolist() == [230, 159, 0]  # joints
    changed = (drawn != frame).any(dim=0)
    assert not changed[:20].any() and not changed[:, 70:].any() and not changed[40, :].any()
    hidden = draw_skeleton(frame, points, torch.tensor([False, True, True, False]), ((0, 1),))
    assert torch.equal(hidden[:, 30, :50], frame[:, 30, :50])
    assert torch.equal(draw_skeleton(frame, points, visible & False, ()), frame)


def test_a_skeleton_that_cannot_be_drawn():
    frame = torch.zeros(3, 20, 20, dtype=torch.uint8)
    points, visible = torch.zeros(2, 2), torch.ones(2, dtype=torch.bool)
    with pytest.raises(InputError, match="uint8 frame"):
        draw_skeleton(frame.float(), points, visible, ())
    with pytest.raises(InputError, match="whether each is visible"):
        draw_skeleton(frame, points, visible[:1], ())
    with pytest.raises(InputError, match="to have a position"):
        draw_skeleton(frame, points * torch.nan, visible, ())
