"""Points: exact where the motion is known, seen or not, streamed; and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from corrlib.baselines import colour_patch, random_features
from corrlib.errors import InputError
from corrlib.propagation import PropagationConfig
from corrlib.synthetic import synthetic_clip
from corrlib.tracks import (
    MAX_POINTS,
    confidence_colours,
    draw_tracks,
    pixel_scale,
    to_cells,
    to_pixels,
    track_points,
)

CONFIG = PropagationConfig(radius=6)


def noise(generator, height: int, width: int, grain: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, height // grain + 1, width // grain + 1, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bilinear")
    return (255 * fine[0]).to(torch.uint8)


def panning(generator, step=(8, 0), frames=4, height=96, width=128, grain=4) -> torch.Tensor:
    """A world that moves by ``step`` pixels (x, y) per frame, ``(T, 3, H, W)``."""
    dx, dy = step
    room_x, room_y = abs(dx) * frames, abs(dy) * frames
    world = noise(generator, height + 2 * room_y, width + 2 * room_x, grain)
    places = [(room_x - dx * t, room_y - dy * t) for t in range(frames)]
    return torch.stack([world[:, y : y + height, x : x + width] for x, y in places])


def scattered(generator, number: int, height=96, width=128, margin=40.0) -> torch.Tensor:
    span = torch.tensor([width - 1, height - 1]) - 2 * margin
    return margin + span * torch.rand(number, 2, generator=generator)


def follow(frames, points, extractor=None, config=CONFIG):
    found = list(track_points(frames, points, extractor or colour_patch(), config))
    return tuple(
        torch.stack([getattr(estimate, part) for estimate in found])
        for part in ("position", "visible", "confidence")
    )


# Positions


@pytest.mark.parametrize("short_side", [None, 96, 150])
def test_a_static_video_keeps_every_point(short_side, generator):
    frames = noise(generator, 80, 100, 4).expand(7, -1, -1, -1)
    points = torch.rand(40, 2, generator=generator) * torch.tensor([99.0, 79.0])
    config = replace(CONFIG, short_side=short_side)
    for extractor in (colour_patch(), random_features()):
        position, visible, confidence = follow(frames, points, extractor, config)
        assert (position - points).abs().max() < 0.25
        assert visible.all() and confidence[1:].median() > 0.5


def test_corners_and_borders_are_kept(generator):
    frames = noise(generator, 61, 83, 4).expand(5, -1, -1, -1)
    points = torch.tensor(
        [[0, 0], [82, 60], [-0.5, 30], [82.5, 60.5], [40, 0], [0, 60], [82, 0.25], [1, 59.5]]
    )
    position, visible, _ = follow(frames, points)
    assert (position - points).abs().max() < 0.25
    assert visible.all()


@pytest.mark.parametrize("step", [(8, 0), (-8, 8), (0, -16)])
def test_a_shift_by_whole_cells_is_found(step, generator):
    frames = panning(generator, step=step)
    points = scattered(generator, 20)
    position, visible, _ = follow(frames, points)
    for t in range(3):
        expected = points + t * torch.tensor(step)
        inside = ((expected > 12) & (expected < torch.tensor([115.0, 83.0]))).all(dim=1)
        assert inside.sum() >= 3
        assert (position[t] - expected)[inside].abs().max() < 0.3
        assert visible[t, inside].all()


@pytest.mark.parametrize("step", [(3, 0), (2, -3), (5, 1)])
def test_a_shift_by_parts_of_cells_is_measured(step, generator):
    """Better than to the next cell: cells are 8 pixels."""
    frames = panning(generator, step=step, grain=24, frames=5)
    points = scattered(generator, 20)
    position, _, _ = follow(frames, points, random_features(), replace(CONFIG, short_side=192))
    error = (position[-1] - points - 4 * torch.tensor(step)).norm(dim=1)
    assert error.median() < 2
    assert error.median() < math.hypot(*step)


def test_points_do_not_drift(generator):
    """To and fro for many frames: the last position is as good as the first ones."""
    world = noise(generator, 96, 160, 12)
    places = [16 + round(14 * math.sin(t / 3)) for t in range(40)]
    frames = torch.stack([world[:, :, x : x + 128] for x in places])
    points = scattered(generator, 30)
    position, _, _ = follow(frames, points, random_features())
    truth = torch.tensor(places, dtype=torch.float32)[:, None] - places[0]
    error = (position[..., 0] - (points[:, 0] - truth)).abs().median(dim=1)[0]
    assert error[-15:].mean() < error[1:16].mean() + 1
    assert error.max() < 4


def test_a_known_clip(generator):
    clip = synthetic_clip(12, 96, 128, objects=1, seed=1, speed=2.0)
    y, x = (clip.masks[0] > 0).nonzero()[::29].T
    points = torch.stack([x, y], dim=1).float()
    position, _, _ = follow(clip.frames, points, random_features(), replace(CONFIG, short_side=192))
    truth = clip.correspondence[-1, :, y, x].T
    seen = clip.visible[-1, y, x]
    error = (position[-1] - truth).norm(dim=1)[seen].median()
    unmoved = (points - truth).norm(dim=1)[seen].median()
    assert error < 3 and error < unmoved / 3


def test_moves_beyond_the_radius_are_not_followed(generator):
    frames = panning(generator, step=(24, 0), frames=2, width=160)
    points = scattered(generator, 10, width=160, margin=40)
    for radius, found in ((2, False), (4, True)):
        position, _, _ = follow(frames, points, config=PropagationConfig(radius=radius))
        moved = (position[1] - points)[:, 0]
        assert bool((moved - 24).abs().median() < 1) == found


def test_without_a_radius_every_cell_is_searched(generator):
    frames = panning(generator, step=(48, 0), frames=2, width=160)
    points = torch.tensor([[50.0, 40.0], [60.0, 60.0], [72.0, 33.0]])
    position, visible, _ = follow(frames, points, config=PropagationConfig(radius=None, topk=None))
    assert (position[1] - points - torch.tensor([48.0, 0.0])).abs().max() < 0.25
    assert visible.all()


# Visibility


def covered(generator, hidden: range, frames=9) -> torch.Tensor:
    """A still picture; on the frames ``hidden`` a plate covers its middle."""
    picture = noise(generator, 96, 128, 2)
    clip = picture.repeat(frames, 1, 1, 1)
    for t in hidden:
        clip[t, :, 24:72, 32:96] = torch.tensor([200, 40, 40], dtype=torch.uint8).view(3, 1, 1)
    return clip


def test_covered_points_are_called_invisible_and_come_back(generator):
    frames = covered(generator, range(3, 6))
    points = torch.rand(200, 2, generator=generator) * torch.tensor([127.0, 95.0])
    depth = 32 - (points - torch.tensor([63.5, 47.5])).abs() - torch.tensor([0.0, 8.0])
    under, beside = (depth > 4).all(dim=1), (depth < -12).any(dim=1)
    assert under.sum() > 20 and beside.sum() > 20
    position, visible, confidence = follow(frames, points, config=PropagationConfig(radius=12))
    assert visible[:3].all() and visible[3:, beside].all()
    assert visible[3:6, under].float().mean() < 0.5  # some find a likeness by chance
    assert confidence[3:6, under].mean() < 0.4 < 0.9 < confidence[3:6, beside].mean()
    # They come back, but for a few that strayed to something alike and stay with it.
    assert visible[7:, under].float().mean() > 0.85
    assert (position[7:, under] - points[under]).abs().amax(dim=2).median() < 0.3


def test_a_covered_object_of_a_known_clip(generator):
    clip = synthetic_clip(10, 96, 96, objects=3, seed=3, speed=4.0)
    y, x = clip.visible[0].nonzero()[::151].T
    points = torch.stack([x, y], dim=1).float()
    _, visible, confidence = follow(
        clip.frames, points, random_features(), replace(CONFIG, short_side=192)
    )
    truth = clip.visible[:, y, x]
    assert 0.03 < (~truth).float().mean() < 0.5
    agreed = (visible == truth)[1:].float().mean()
    assert agreed > 0.75
    seen, unseen = confidence[1:][truth[1:]], confidence[1:][~truth[1:]]
    assert seen.mean() > unseen.mean() + 0.2


def test_confidence_is_a_share(generator):
    clip = synthetic_clip(5, 64, 96, objects=2, seed=0, speed=6.0)
    points = torch.rand(30, 2, generator=generator) * torch.tensor([95.0, 63.0])
    position, visible, confidence = follow(clip.frames, points)
    assert (confidence >= 0).all() and (confidence <= 1).all()
    assert position.dtype == confidence.dtype == torch.float32 and visible.dtype == torch.bool
    assert (position >= -0.5).all() and (position <= torch.tensor([95.5, 63.5])).all()
    assert position.isfinite().all()


# How it goes about it


def test_permuted_points_give_permuted_tracks(generator):
    frames = panning(generator, step=(3, 2))
    points = scattered(generator, 70)  # more than one block
    order = torch.randperm(70, generator=generator)
    straight, permuted = follow(frames, points), follow(frames, points[order])
    torch.testing.assert_close(straight[0][:, order], permuted[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(straight[2][:, order], permuted[2], atol=1e-3, rtol=0)


def test_each_frame_is_encoded_once_when_it_is_asked_for(generator):
    calls = []
    extractor = colour_patch()

    def extract(frames):
        calls.append(1)
        return extractor.extract(frames)

    taken = 0

    def stream():
        nonlocal taken
        for frame in panning(generator, frames=5):
            taken += 1
            yield frame

    points = scattered(generator, 3)
    found = track_points(stream(), points, replace(extractor, extract=extract), CONFIG)
    assert taken == 0
    for number in range(1, 6):
        next(found)
        assert taken == number
        assert len(calls) == (0 if number == 1 else number)
    assert next(found, None) is None


def test_nothing_is_changed_and_the_first_estimate_is_what_was_given(generator):
    frames = panning(generator)
    points = scattered(generator, 5)
    copies = frames.clone(), points.clone()
    first = next(track_points(frames, points, colour_patch(), CONFIG))
    assert torch.equal(first.position, points) and first.visible.all()
    first.position.zero_()  # the caller's own
    follow(frames, points)
    assert torch.equal(frames, copies[0]) and torch.equal(points, copies[1])


def test_cells_and_pixels_are_inverse(generator):
    points = 200 * torch.rand(50, 2, generator=generator)
    for short_side in (None, 300, 97):
        scale = pixel_scale((201, 300), PropagationConfig(short_side=short_side))
        back = to_pixels(to_cells(points, scale, 8), scale, 8)
        torch.testing.assert_close(back, points, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        to_cells(torch.tensor([[3.5, 11.5]]), torch.ones(2), 8), torch.tensor([[0.0, 1.0]])
    )


# Bad input


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(0, 2), "shape"),
        (torch.zeros(3), "shape"),
        (torch.zeros(3, 3), "shape"),
        (torch.tensor([[1.0, 2.0], [128.0, 5.0]]), "point 1"),
        (torch.tensor([[5.0, -0.75]]), "within the 128x96 frame"),
        (torch.tensor([[math.nan, 3.0]]), "point 0"),
        (torch.tensor([[math.inf, 3.0]]), "point 0"),
        (torch.zeros(MAX_POINTS + 1, 2), "at most"),
    ],
)
def test_points_that_cannot_be_tracked(points, message, generator):
    with pytest.raises(InputError, match=message):
        next(track_points(panning(generator), points, colour_patch()))


def test_frames_that_cannot_be_tracked(generator):
    points = torch.tensor([[20.0, 20.0]])
    with pytest.raises(InputError, match="at least 1 frame"):
        list(track_points([], points, colour_patch()))
    frames = panning(generator, frames=2)
    with pytest.raises(InputError, match="one size"):
        list(track_points([frames[0], frames[1][:, :-8]], points, colour_patch()))


# Drawing


def test_dots_are_filled_when_visible_and_hollow_when_not():
    frame = torch.full((3, 120, 160), 90, dtype=torch.uint8)
    history = torch.tensor([[[40.0, 60.0], [120.0, 60.0]]])
    visible = torch.tensor([True, False])
    drawn = draw_tracks(frame, history, visible, torch.tensor([1.0, 1.0]))
    assert drawn.shape == frame.shape and drawn.dtype == torch.uint8
    assert (frame == 90).all()
    bright = torch.from_numpy(confidence_colours(torch.ones(1))[0])
    assert torch.equal(drawn[:, 60, 40], bright)
    assert torch.equal(drawn[:, 60, 120], frame[:, 60, 120])
    assert (drawn[:, 60, 112:129] != 90).any()


def test_tails_are_drawn_and_colours_tell_confidence():
    frame = torch.zeros(3, 100, 100, dtype=torch.uint8)
    history = torch.tensor([[[10.0, 20.0]], [[50.0, 20.0]], [[90.0, 20.0]]])
    drawn = draw_tracks(frame, history, torch.tensor([True]), torch.tensor([0.5]))
    assert drawn[:, 20, 30].sum() > 0 and drawn[:, 60].sum() == 0
    ramp = confidence_colours(torch.tensor([0.0, 0.5, 1.0, 7.0])).astype(int).sum(axis=1)
    assert ramp[0] < ramp[1] < ramp[2] == ramp[3]


def test_points_outside_are_drawn_without_harm_and_bad_shapes_refused():
    frame = torch.zeros(3, 50, 50, dtype=torch.uint8)
    history = torch.tensor([[[-900.0, 3e6], [math.nan, 4.0]]])
    draw_tracks(frame, history, torch.ones(2, dtype=torch.bool), torch.ones(2))
    with pytest.raises(InputError, match="positions"):
        draw_tracks(frame, history[0], torch.ones(2, dtype=torch.bool), torch.ones(2))
    with pytest.raises(InputError, match="visible"):
        draw_tracks(frame, history, torch.ones(3, dtype=torch.bool), torch.ones(2))
    with pytest.raises(InputError, match="uint8"):
        draw_tracks(frame.float(), history, torch.ones(2, dtype=torch.bool), torch.ones(2))
