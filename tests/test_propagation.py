"""Masks carried along clips whose motion is known, streamed, with each frame encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from corrlib.baselines import colour_patch, random_features
from corrlib.errors import InputError
from corrlib.metrics import region_similarity
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    encoded_size,
    labels_to_mask,
    mask_to_labels,
    memory_estimate,
    propagate_mask,
)

CONFIG = PropagationConfig(references=2, radius=3, topk=5)


def noise(generator, height: int, width: int, grain: int) -> torch.Tensor:
    """A uint8 picture whose patches can be told from each other; details of ``grain`` pixels."""
    coarse = torch.rand(1, 3, height // grain + 1, width // grain + 1, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bilinear")
    return (255 * fine[0]).to(torch.uint8)


def moving(generator, frames=5, height=96, width=128, step=(8, 0), objects=1, grain=4):
    """A textured world seen through a window that moves by ``step`` (x, y) pixels per frame.

    Returns frames ``(T, 3, H, W)`` and the true masks ``(T, H, W)`` of rectangles in that world.
    """
    dx, dy = step
    room_x, room_y = abs(dx) * frames, abs(dy) * frames
    world = noise(generator, height + 2 * room_y, width + 2 * room_x, grain)
    labels = torch.zeros(world.shape[1:], dtype=torch.uint8)
    y, x = room_y + height // 4, room_x + width // 4
    labels[y : y + 32, x : x + 24] = 1
    if objects > 1:
        labels[y + 8 : y + 40, x + 32 : x + 56] = 2
    places = [(room_x - dx * t, room_y - dy * t) for t in range(frames)]
    cut = [(slice(y, y + height), slice(x, x + width)) for x, y in places]
    return torch.stack([world[:, a, b] for a, b in cut]), torch.stack(
        [labels[a, b] for a, b in cut]
    )


def counting(extractor: FeatureExtractor, calls: list) -> FeatureExtractor:
    def extract(frames):
        calls.append(tuple(frames.shape))
        return extractor.extract(frames)

    return replace(extractor, extract=extract)


@pytest.mark.parametrize("step", [(8, 0), (-8, 8), (0, 16)])
def test_a_mask_follows_whole_cells(step, generator):
    frames, masks = moving(generator, step=step, height=128, frames=4)
    found = torch.stack(list(propagate_mask(frames, masks[0], colour_patch(), CONFIG)))
    assert found.shape == masks.shape and found.dtype == torch.uint8
    assert torch.equal(found[0], masks[0])
    for prediction, truth in zip(found, masks, strict=True):
        assert region_similarity(prediction, truth) > 0.9


def test_a_mask_follows_parts_of_cells(generator):
    """Patches resemble themselves shifted by a few pixels where details are larger than cells."""
    frames, masks = moving(generator, step=(3, 2), frames=4, grain=20)
    for extractor in (colour_patch(), random_features()):
        found = list(propagate_mask(frames, masks[0], extractor, CONFIG))
        unmoved = region_similarity(masks[0], masks[-1])
        assert region_similarity(found[-1], masks[-1]) > unmoved + 0.2


def test_two_objects_keep_their_ids(generator):
    frames, masks = moving(generator, objects=2)
    found = list(propagate_mask(frames, masks[0], colour_patch(), CONFIG))
    for number in (1, 2):
        assert region_similarity(found[-1] == number, masks[-1] == number) > 0.85


def test_a_static_clip_keeps_its_mask(generator):
    frames, masks = moving(generator, step=(0, 0), frames=6)
    for config in (CONFIG, replace(CONFIG, references=0), replace(CONFIG, topk=1)):
        found = list(propagate_mask(frames, masks[0], colour_patch(), config))
        assert region_similarity(found[-1], masks[0]) > 0.95


def test_motion_beyond_the_radius_is_not_followed(generator):
    frames, masks = moving(generator, step=(24, 0), frames=2, width=160)
    reach = [region_similarity(found[-1], masks[-1]) for found in (
        list(propagate_mask(frames, masks[0], colour_patch(), replace(CONFIG, radius=radius)))
        for radius in (2, 3)
    )]  # fmt: skip
    assert reach[0] < 0.5 < 0.9 < reach[1]


@pytest.mark.parametrize(("height", "width"), [(97, 123), (64, 71), (41, 90)])
def test_odd_frame_sizes(height, width, generator):
    frames, masks = moving(generator, height=height, width=width, frames=3, step=(-8, 0))
    found = list(propagate_mask(frames, masks[0], colour_patch(), CONFIG))
    assert all(mask.shape == (height, width) for mask in found)
    assert region_similarity(found[-1], masks[-1]) > 0.85


@pytest.mark.parametrize("short_side", [48, 96, 150])
def test_frames_are_encoded_at_the_size_asked_for_and_masks_come_back_whole(short_side, generator):
    frames, masks = moving(generator, height=96, width=131, frames=3)
    calls = []
    config = replace(CONFIG, short_side=short_side)
    found = list(propagate_mask(frames, masks[0], counting(colour_patch(), calls), config))
    width = round(131 * short_side / 96)
    assert set(calls) == {(1, 3, -(-short_side // 8) * 8, -(-width // 8) * 8)}
    assert encoded_size((96, 131), config) == (short_side, width)
    assert all(mask.shape == (96, 131) for mask in found)
    if short_side >= 96:
        assert region_similarity(found[-1], masks[-1]) > 0.85


def test_each_frame_is_encoded_once(generator):
    frames, masks = moving(generator, frames=7)
    calls = []
    list(propagate_mask(frames, masks[0], counting(colour_patch(), calls), CONFIG))
    assert len(calls) == 7


def test_frames_are_streamed(generator):
    frames, masks = moving(generator, frames=6)
    taken = 0

    def stream() -> Iterator[torch.Tensor]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    found = propagate_mask(stream(), masks[0], colour_patch(), CONFIG)
    assert taken == 0
    for number in range(1, 7):
        next(found)
        assert taken == number
    assert next(found, None) is None


def test_a_video_of_one_frame_keeps_its_mask(generator):
    frames, masks = moving(generator, frames=1)
    found = list(propagate_mask(frames, masks[0], colour_patch()))
    assert len(found) == 1 and torch.equal(found[0], masks[0])


def test_void_of_the_first_mask_is_background_later(generator):
    frames, masks = moving(generator, step=(0, 0), frames=2)
    mask = masks[0].clone()
    mask[:8] = 255
    found = list(propagate_mask(frames, mask, colour_patch(), CONFIG))
    assert set(found[1].unique().tolist()) == {0, 1}


def test_propagation_keeps_no_gradient_and_changes_nothing(generator):
    frames, masks = moving(generator, frames=3)
    copies = frames.clone(), masks[0].clone()
    extractor = random_features()
    for mask in propagate_mask(frames, masks[0], extractor, CONFIG):
        assert not mask.requires_grad
    assert torch.equal(frames, copies[0]) and torch.equal(masks[0], copies[1])
    again = [
        torch.stack(list(propagate_mask(frames, masks[0], extractor, CONFIG))) for _ in range(2)
    ]
    assert torch.equal(*again)


# Labels and masks


@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 61)])
def test_labels_are_the_shares_of_each_id(height, width, generator):
    mask = torch.randint(0, 3, (height, width), generator=generator).to(torch.uint8)
    mask[0, 0] = 2
    labels = mask_to_labels(mask, 8, PropagationConfig())
    assert labels.shape == (3, -(-height // 8), -(-width // 8))
    torch.testing.assert_close(labels.sum(0), torch.ones_like(labels[0]))
    for number in range(3):
        share = (mask[:8, :8] == number).float().mean()
        torch.testing.assert_close(labels[number, 0, 0], share)


def test_masks_survive_the_way_to_labels_and_back():
    """Whole cells come back exactly, so nothing is shifted by a part of a cell."""
    mask = torch.zeros(64, 80, dtype=torch.uint8)
    mask[16:40, 24:56] = 1
    labels = mask_to_labels(mask, 8, PropagationConfig())
    back = labels_to_mask(labels, (64, 80), 8, PropagationConfig())
    corners = (back != mask).nonzero()
    assert len(corners) <= 4 * 16  # bilinear upsampling rounds the four corners
    assert torch.equal(back, back.flip(0).roll(-8, 0))  # as symmetric as the mask is
    assert torch.equal(back, back.flip(1))
    assert region_similarity(back, mask) > 0.95


# Soft labels of any meaning


def test_a_propagator_carries_any_maps(generator):
    frames, _ = moving(generator, frames=3)
    propagator = Propagator(colour_patch(), CONFIG)
    labels = torch.randn(5, 12, 16, generator=generator)
    propagator.start(frames[0], labels)
    for frame in frames[1:]:
        carried = propagator.step(frame)
    assert carried.shape == (5, 12, 16)
    # The world moves by one cell to the right per frame.
    expected = labels.roll(2, dims=2)
    close = (carried - expected)[:, :, 2:].abs() < 0.2
    assert close.float().mean() > 0.8


def test_memory_is_estimated_by_size_not_by_length():
    config = PropagationConfig()
    small, large = (memory_estimate(s, 1, colour_patch(), config) for s in ((96, 128), (192, 256)))
    assert 0 < small < large
    more = memory_estimate((96, 128), 1, colour_patch(), replace(config, references=8))
    assert small < more
    assert memory_estimate((192, 256), 1, colour_patch(), replace(config, short_side=96)) == small


# Bad input


def test_a_mask_of_another_size_is_an_error(generator):
    frames, masks = moving(generator, frames=2)
    with pytest.raises(InputError, match="96x128"):
        list(propagate_mask(frames, masks[0][:-1], colour_patch()))


def test_a_mask_without_an_object_is_an_error(generator):
    frames, masks = moving(generator, frames=2)
    with pytest.raises(InputError, match="object"):
        list(propagate_mask(frames, torch.zeros_like(masks[0]), colour_patch()))


def test_no_frames_is_an_error():
    with pytest.raises(InputError, match="at least 1 frame"):
        list(propagate_mask([], torch.ones(8, 8, dtype=torch.uint8), colour_patch()))


@pytest.mark.parametrize("cut", [(0, 8), (8, 0), (0, 3)])
def test_frames_that_change_size_are_an_error(cut, generator):
    frames, masks = moving(generator, frames=3)
    smaller = frames[2][:, : 96 - cut[0], : 128 - cut[1]]
    with pytest.raises(InputError, match="size"):
        list(propagate_mask([frames[0], frames[1], smaller], masks[0], colour_patch()))


def test_labels_of_another_size_are_an_error(generator):
    frames, _ = moving(generator, frames=1)
    with pytest.raises(InputError, match="labels"):
        Propagator(colour_patch(), CONFIG).start(frames[0], torch.zeros(2, 5, 5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"radius": 0},
        {"references": -1},
        {"topk": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"short_side": 8},
    ],
)
def test_impossible_settings_are_errors(wrong):
    with pytest.raises(InputError):
        PropagationConfig(**wrong)
