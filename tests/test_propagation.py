"""Masks carried along clips whose motion is known, streamed, with each frame encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from corrlib import propagation, propagation_reference
from corrlib.baselines import colour_patch, random_features
from corrlib.datasets import davis
from corrlib.errors import InputError
from corrlib.metrics import region_similarity
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    encoded_size,
    harden,
    label_grid,
    labels_to_mask,
    mask_to_labels,
    memory_estimate,
    propagate_labels,
    propagate_mask,
    settle,
    stretch,
)

CONFIG = PropagationConfig(references=2, radius=3, topk=5)

POLICIES = {
    "joint": {},
    "whole first": {"first_radius": None},
    "no first": {"first": False},
    "long term": {"references": 1, "long_term": 2},
    "per reference": {"per_reference": True},
    "shares of all, stretched": {"rescale": False, "per_reference": True, "normalise_labels": True},
    "all": {"topk": None},
    "hard": {"feedback": "hard"},
    "raw features": {"unit_features": False, "temperature": 1.0},
    "another size": {"short_side": 56},
    "enlarged": {"short_side": 100},
}
"""How a config may differ from one that takes the first and 2 latest frames, radius 3, top 5."""


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


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((480, 854), None, (480, 854)),
        ((240, 432), None, (240, 432)),
        ((1080, 1920), None, (480, 853)),
        ((1920, 1080), None, (853, 480)),
        ((2160, 3840), 1080, (1080, 1920)),
        ((480, 854), 960, (960, 1708)),
        ((481, 481), 481, (481, 481)),
    ],
)
def test_frames_are_encoded_as_they_are_up_to_480(size, short_side, expected):
    assert encoded_size(size, PropagationConfig(short_side=short_side)) == expected


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
    assert memory_estimate((192, 256), 1, colour_patch(), replace(config, references=8)) > large
    # Frames above 480 are encoded at 480; only the masks themselves are larger.
    full, hd = (memory_estimate(s, 1, colour_patch(), config) for s in ((480, 864), (1080, 1944)))
    assert full < hd < 1.3 * full
    enlarged = replace(config, short_side=960)
    assert memory_estimate((480, 864), 1, colour_patch(), enlarged) > 3 * full


# Policies


def test_a_config_takes_what_it_leaves_open_from_the_extractor():
    extractor = replace(colour_patch(), temperature=0.3, unit_features=False)
    open_ = PropagationConfig(temperature=None, unit_features=None)
    found = open_.for_extractor(extractor)
    assert (found.temperature, found.unit_features) == (0.3, False)
    assert PropagationConfig().for_extractor(extractor) == PropagationConfig()
    assert Propagator(extractor, open_).config == found


def test_features_are_compared_as_asked(generator):
    frame = moving(generator, frames=1)[0][0]
    unit, raw = (
        Propagator(colour_patch(), replace(CONFIG, unit_features=unit)).encode(frame)
        for unit in (True, False)
    )
    torch.testing.assert_close(unit.norm(dim=0), torch.ones_like(unit[0]))
    torch.testing.assert_close(F.normalize(raw, dim=0), unit)
    assert raw.norm(dim=0).std() > 0.1


def test_hard_feedback_gives_a_cell_to_whoever_has_its_pixels(generator):
    labels = torch.rand(3, 6, 8, generator=generator).softmax(0)
    hard = harden(labels, (45, 61), 8)
    ids = labels_to_mask(labels, (45, 61), 8, CONFIG)
    assert torch.equal(hard, mask_to_labels(ids, 8, CONFIG, maps=3))
    frames, masks = moving(generator, frames=4)
    found = {}
    for feedback in ("soft", "hard"):
        propagator = Propagator(colour_patch(), replace(CONFIG, feedback=feedback))
        propagator.start(frames[0], mask_to_labels(masks[0], 8, CONFIG))
        propagator.step(frames[1])
        fed_back = propagator.memory.labels[1]
        found[feedback] = fed_back
        assert torch.allclose(fed_back.sum(1), torch.ones(len(fed_back)), atol=1e-5)
    ends = [((maps == 0) | (maps == 1)).float().mean() for maps in found.values()]
    assert ends[0] < ends[1]


def test_stretched_labels_span_0_to_1_and_are_not_fed_back(generator):
    frames, _ = moving(generator, frames=3)
    labels = torch.stack([torch.rand(12, 16, generator=generator) * 3 + 1, torch.ones(12, 16)])
    plain, stretched = (
        Propagator(colour_patch(), replace(CONFIG, normalise_labels=on)) for on in (False, True)
    )
    for propagator in (plain, stretched):
        propagator.start(frames[0], labels)
    for frame in frames[1:]:
        raw, found = plain.step(frame), stretched.step(frame)
        assert found[0].min() == 0 and found[0].max() == 1
        torch.testing.assert_close(
            found[0], (raw[0] - raw[0].min()) / (raw[0].max() - raw[0].min())
        )
    torch.testing.assert_close(stretched.memory.labels, plain.memory.labels)
    assert torch.equal(stretch(torch.full((1, 2, 2), 0.7)), torch.full((1, 2, 2), 0.7))


def test_labels_of_any_meaning_are_carried_along(generator):
    frames, _ = moving(generator, frames=4)
    grid = label_grid((96, 128), 8)
    labels = torch.randn(2, *grid, generator=generator)
    found = list(propagate_labels(iter(frames), labels, colour_patch(), CONFIG))
    assert len(found) == 4 and torch.equal(found[0], labels)
    propagator = Propagator(colour_patch(), CONFIG)
    propagator.start(frames[0], labels)
    for frame, maps in zip(frames[1:], found[1:], strict=True):
        torch.testing.assert_close(propagator.step(frame), maps)


# Objects that appear later


def appearing(generator):
    """Two objects; the second has a mask from frame 2 on."""
    frames, masks = moving(generator, objects=2, frames=6)
    first = torch.where(masks[0] == 1, masks[0], 0)
    return frames, masks, first


def test_an_object_that_appears_later_is_followed_from_there_on(generator):
    frames, masks, first = appearing(generator)
    later = {2: masks[2]}
    found = list(propagate_mask(frames, first, colour_patch(), CONFIG, later=later))
    assert list(later) == [2]
    assert not any((mask == 2).any() for mask in found[:2])
    assert torch.equal(found[2] == 2, masks[2] == 2)  # as given, to the pixel
    for number in (1, 2):
        assert region_similarity(found[-1] == number, masks[-1] == number) > 0.75
    alone = list(propagate_mask(frames, first, colour_patch(), CONFIG))
    for mask, without in zip(found[:2], alone, strict=False):
        assert torch.equal(mask, without)


def test_ids_that_are_known_and_void_are_passed_over(generator):
    frames, masks, first = appearing(generator)
    wrong = torch.full_like(first, 255)
    wrong[:20] = 1
    found = list(propagate_mask(frames, first, colour_patch(), CONFIG, later={3: wrong}))
    alone = list(propagate_mask(frames, first, colour_patch(), CONFIG))
    assert torch.equal(torch.stack(found), torch.stack(alone))


def test_an_id_below_those_known_can_appear_later(generator):
    frames, masks, first = appearing(generator)
    swapped = torch.tensor([0, 2, 1], dtype=torch.uint8)[masks.long()]
    first = torch.where(swapped[0] == 2, swapped[0], 0)
    found = list(propagate_mask(frames, first, colour_patch(), CONFIG, later={2: swapped[2]}))
    for number in (1, 2):
        assert region_similarity(found[-1] == number, swapped[-1] == number) > 0.75


def test_a_frame_with_new_objects_stays_a_reference(generator):
    frames, masks, first = appearing(generator)
    propagator = Propagator(colour_patch(), replace(CONFIG, references=1))
    propagator.start(frames[0], mask_to_labels(first, 8, CONFIG))
    propagator.step(frames[1])
    new = mask_to_labels(torch.where(masks[1] == 2, 2, 0), 8, CONFIG)
    new[0] = 0
    labels = propagator.insert(new)
    torch.testing.assert_close(labels.sum(0), torch.ones(12, 16))
    torch.testing.assert_close(labels[2], new[2])
    for frame in frames[2:]:
        labels = propagator.step(frame)
    assert sorted(propagator.memory.frames) == [0, 1, 5]
    torch.testing.assert_close(labels.sum(0), torch.ones(12, 16))


def test_what_is_unknown_is_dealt_out_to_what_it_may_be():
    # Unknown, background, an object known from the start, and one that was added.
    cells = torch.tensor([[0.6, 0.1, 0.1, 0.2], [0.5, 0.0, 0.5, 0.0], [0.0, 0.3, 0.3, 0.4]])
    expected = torch.tensor([[0.3, 0.1, 0.6], [0.5, 0.5, 0.0], [0.3, 0.3, 0.4]])
    settled = settle(cells.T[..., None], torch.tensor([True, False, True]))
    torch.testing.assert_close(settled[..., 0].T, expected)


def test_an_object_that_was_there_unlabelled_is_followed_too(generator):
    """Frames before its mask call it background; that does not speak against it."""
    frames, masks, first = appearing(generator)
    config = replace(CONFIG, references=1)
    found = list(propagate_mask(frames, first, colour_patch(), config, later={1: masks[1]}))
    assert region_similarity(found[2] == 2, masks[2] == 2) > 0.9


@pytest.mark.parametrize("number", [0, -1, 6, 99])
def test_a_later_mask_on_no_later_frame_is_an_error(number, generator):
    frames, masks, first = appearing(generator)
    with pytest.raises(InputError, match="later masks"):
        list(propagate_mask(frames, first, colour_patch(), CONFIG, later={number: masks[2]}))


def test_a_later_mask_of_another_size_is_an_error(generator):
    frames, masks, first = appearing(generator)
    with pytest.raises(InputError, match="96x128"):
        list(propagate_mask(frames, first, colour_patch(), CONFIG, later={2: masks[2][:-1]}))


def test_inserted_labels_of_another_shape_are_an_error(generator):
    frames, masks, first = appearing(generator)
    propagator = Propagator(colour_patch(), CONFIG)
    propagator.start(frames[0], mask_to_labels(first, 8, CONFIG))
    for shape in ((1, 12, 16), (3, 12, 15)):
        with pytest.raises(InputError, match="label maps"):
            propagator.insert(torch.zeros(shape))


def test_seven_objects_of_a_real_sequence(shared_data):
    (sequence,) = davis(shared_data / "DAVIS-2017-schoolgirls", "all", 2017)
    config = PropagationConfig(references=2, short_side=480)  # twice its size: objects are small
    first, later = sequence.read_mask(0), {2: sequence.read_mask(2)}
    without = torch.where(first == 3, 0, first)
    frames = sequence.frames.clip(0, 4)
    found = list(propagate_mask(frames, without, colour_patch(), config, later=later))
    assert [bool((mask == 3).any()) for mask in found] == [False, False, True, True]
    truth = sequence.read_mask(3)
    scores = [region_similarity(found[-1] == n, truth == n) for n in range(1, 8)]
    assert scores[2] > 0.4 and sum(scores) / 7 > 0.35


# The slow reference


def test_the_slow_reference_may_take_its_targets_in_parts(generator, monkeypatch):
    frames, masks = moving(generator, frames=3, height=40, width=50)
    found = []
    for at_once in (1000, 7):
        monkeypatch.setattr(propagation_reference, "TARGETS_AT_ONCE", at_once)
        slow = propagation_reference.propagate_mask(frames, masks[0], colour_patch(), CONFIG)
        found.append(torch.stack(list(slow)))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("height", "width"), [(61, 83), (40, 31), (18, 100)])
def test_the_slow_reference_gives_the_same_masks(name, height, width, generator):
    # A step of whole cells would show the same cells on several frames: ties at the k-th place.
    options = {"height": height, "width": width, "frames": 6, "objects": 2, "grain": 20}
    frames, masks = moving(generator, step=(5, 3), **options)
    config = PropagationConfig(**{"references": 2, "radius": 3, "topk": 5} | POLICIES[name])
    extractor = random_features() if name == "joint" else colour_patch()
    ours, slow = (
        torch.stack(list(method(frames, masks[0], extractor, config)))
        for method in (propagate_mask, propagation_reference.propagate_mask)
    )
    assert ours.shape == slow.shape == masks.shape
    assert (ours == slow).float().mean() >= 0.999


# Bad input


def test_more_memory_than_there_is_is_an_error_with_its_remedy(generator, monkeypatch):
    frames, masks = moving(generator, frames=2)
    needed = memory_estimate((96, 128), 1, colour_patch(), CONFIG)
    machine = SimpleNamespace(available=needed - 1)
    monkeypatch.setattr(propagation.psutil, "virtual_memory", lambda: machine)
    labels = torch.zeros(2, 12, 16)
    for start in (
        lambda: propagate_mask(frames, masks[0], colour_patch(), CONFIG),
        lambda: propagate_labels(frames, labels, colour_patch(), CONFIG),
    ):
        machine.available = needed - 1
        with pytest.raises(InputError, match="--references.*--size"):
            next(start())
        machine.available = needed
        next(start())


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
        {"first_radius": 0},
        {"long_term": -1},
        {"references": 0, "first": False},
        {"feedback": "firm"},
        {"precision": "int8"},
    ],
)
def test_impossible_settings_are_errors(wrong):
    with pytest.raises(InputError):
        PropagationConfig(**wrong)
