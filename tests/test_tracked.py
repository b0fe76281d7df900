"""Inference with tracking: windows in closed form, and objects followed on clips that are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corrlib import tracked
from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.metrics import region_similarity
from corrlib.propagation import FeatureExtractor, PropagationConfig, propagate_mask
from corrlib.tracked import Window, fitting_window, held, propagate_tracked

SIZE = (192, 256)
CONFIG = PropagationConfig(references=2, radius=8, topk=5)


def noise(generator, height: int, width: int, grain: int = 4) -> torch.Tensor:
    coarse = torch.rand(1, 3, -(-height // grain), -(-width // grain), generator=generator)
    return (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).to(torch.uint8)


@pytest.fixture
def fine(monkeypatch):
    """Margins that suit small test frames."""
    monkeypatch.setattr(tracked, "MARGIN_CELLS", 5)


def moving(
    generator, places, side: tuple[int, int] = (16, 20), size=SIZE
) -> tuple[torch.Tensor, torch.Tensor]:
    """A textured rectangle at (x, y) on each frame, ``None`` for absent, and its masks."""
    ground, thing = noise(generator, *size), 255 - noise(generator, *side, grain=2) // 3
    frames, masks = [], []
    for place in places:
        frame, mask = ground.clone(), torch.zeros(size, dtype=torch.uint8)
        if place is not None:
            part = (slice(place[1], place[1] + side[0]), slice(place[0], place[0] + side[1]))
            frame[:, part[0], part[1]] = thing
            mask[part] = 1
        frames.append(frame)
        masks.append(mask)
    return torch.stack(frames), torch.stack(masks)


def counting(calls: list[tuple[int, int]]) -> FeatureExtractor:
    """Colour patches that note the sizes of what they encode."""
    plain = colour_patch()

    def extract(frames):
        calls.append(tuple(frames.shape[2:]))
        return plain.extract(frames)

    return FeatureExtractor(plain.name, plain.stride, plain.channels, extract)


# -- windows --


def test_a_window_of_whole_pixels_is_a_slice():
    image = torch.arange(3 * 40 * 50).view(3, 40, 50)
    window = Window((40, 50), 4, (5, 6), (2, 3))
    assert torch.equal(window.cut(image), image[:, 8:28, 12:36])


def test_a_window_repeats_the_edge_where_it_sticks_out():
    image = torch.arange(10 * 11).view(10, 11)
    part = Window((10, 11), 4, (3, 3)).cut(image)
    assert part.shape == (12, 12) and torch.equal(part[:10, :11], image)
    assert torch.equal(part[10], part[9]) and torch.equal(part[:, 11], part[:, 10])


def test_a_window_goes_around_a_pixel_and_stays_in_the_frame():
    window = Window((80, 120), 4, (5, 5))
    assert window.around(torch.tensor([59.5, 39.5])).origin == (8, 12)
    assert window.around(torch.tensor([-30.0, 300.0])).origin == (15, 0)
    assert window.around(torch.tensor([59.5, 39.5])).distance(window) == 12
    larger = Window((80, 120), 4, (30, 40))
    assert larger.around(torch.tensor([59.5, 39.5])).origin == (0, 0)


@pytest.mark.parametrize("cell", [1, 3, 8])
def test_labels_of_a_window_give_its_pixels_and_box_back(cell):
    share = torch.zeros(96, 144)
    share[24:48, 48:96] = 1
    window = Window((96, 144), cell, (48 // cell, 96 // cell)).around(torch.tensor([71.5, 35.5]))
    labels = window.labels(share)
    torch.testing.assert_close(labels.sum(0), torch.ones(window.shape))
    torch.testing.assert_close(window.box(labels[1]), torch.tensor([47.5, 23.5, 95.5, 47.5]))
    pixels, where = window.pixels(labels)
    assert region_similarity(pixels[1] > 0.5, share[where] > 0.5) > 0.9  # corners are cut


def test_pixels_of_a_window_end_where_the_frame_ends():
    window = Window((10, 11), 4, (3, 3))
    pixels, (rows, columns) = window.pixels(torch.ones(2, 3, 3))
    assert pixels.shape == (2, 10, 11) and (rows.stop, columns.stop) == (10, 11)


def test_the_box_of_nothing_is_none_and_haze_does_not_count():
    window = Window((80, 80), 8, (10, 10))
    share = torch.zeros(10, 10)
    assert window.box(share).isnan().all()
    share[4:6, 4:6] = 1
    clear = window.box(share)
    assert torch.equal(window.box(torch.where(share > 0, share, 0.2)), clear)


def test_smaller_boxes_have_smaller_cells_and_few_enough():
    size, config = (480, 854), PropagationConfig()
    cells = []
    for side in (20, 60, 120, 200, 240):
        box = torch.tensor([300.0, 200, 300 + side, 200 + side])
        window = fitting_window(box, size, 8, config)
        rows, columns = window.shape
        assert rows * columns <= tracked.SHARE * 60 * 107 and not window.whole
        assert min(rows, columns) * window.cell >= 1.6 * side
        cells.append(window.cell)
    assert cells[0] == 3 and cells == sorted(cells) and cells[-1] <= 8
    assert fitting_window(torch.tensor([0.0, 0, 800, 400]), size, 8, config) == Window(
        size, 8, (60, 107)
    )


def test_cells_are_relative_to_the_size_that_is_encoded():
    box = torch.tensor([600.0, 400, 640, 440])
    large = fitting_window(box, (1080, 1920), 8, PropagationConfig())
    assert large.cell == 7  # 18 pixels without tracking
    fine = fitting_window(box, (1080, 1920), 8, PropagationConfig(short_side=960))
    assert fine.cell == 3


# -- propagation --


@pytest.mark.parametrize("step", [(0, 0), (4, 0), (-7, 5), (9, -9)])
def test_a_small_object_is_followed(step, generator, fine):
    places = [(120 + t * step[0], 90 + t * step[1]) for t in range(7)]
    frames, masks = moving(generator, places)
    calls = []
    found = list(propagate_tracked(frames, masks[0], counting(calls), CONFIG))
    assert torch.equal(found[0], masks[0])
    for mask, truth in zip(found, masks, strict=True):
        assert mask.dtype == torch.uint8 and region_similarity(mask, truth) > 0.7
    # Each frame is encoded as a window alone, again only where the object was off its middle.
    assert all(height * width <= 0.55 * 192 * 256 for height, width in calls)
    assert len(frames) <= len(calls) <= 2 * len(frames)


def test_smaller_cells_draw_a_small_object_better(generator, fine):
    frames, masks = moving(generator, [(120 + 3 * t, 90 + 2 * t) for t in range(6)])
    scores = []
    for carry in (propagate_mask, propagate_tracked):
        *_, last = carry(frames, masks[0], colour_patch(), CONFIG)
        scores.append(region_similarity(last, masks[-1]))
    assert scores[1] > scores[0]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        PropagationConfig(references=1, first=False, radius=4, topk=None, feedback="hard"),
        PropagationConfig(references=2, radius=None, per_reference=True, normalise_labels=True),
    ],
)
def test_a_large_object_is_carried_as_without_tracking(config, generator):
    size = (64, 96)
    frames, masks = moving(generator, [(10 + 3 * t, 8) for t in range(4)], (40, 50), size)
    with_it = list(propagate_tracked(frames, masks[0], colour_patch(), config))
    without = list(propagate_mask(frames, masks[0], colour_patch(), config))
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


@pytest.mark.parametrize("config", [CONFIG, PropagationConfig(2, 8, None, feedback="hard")])
def test_settings_hold_in_windows(config, generator, fine):
    frames, masks = moving(generator, [(120 + 3 * t, 90) for t in range(4)])
    *_, last = propagate_tracked(frames, masks[0], colour_patch(), config)
    assert region_similarity(last, masks[-1]) > 0.6


def test_what_looks_alike_far_away_is_left_alone(generator, fine):
    frames, masks = moving(generator, [(40, 90)] * 4)
    frames[:, :, 90:106, 200:220] = frames[:, :, 90:106, 40:60]
    config = PropagationConfig(references=2, radius=None, topk=5)
    for mask in propagate_tracked(frames, masks[0], colour_patch(), config):
        assert not mask[:, 150:].any()


def test_a_lost_object_is_searched_in_the_whole_frame_and_found_again(generator, fine):
    places = [(30, 40), (32, 40), None, None, (200, 140), (202, 140)]
    frames, masks = moving(generator, places)
    calls = []
    found = list(propagate_tracked(frames, masks[0], counting(calls), CONFIG))
    assert not found[2].any() and not found[3].any()
    for index in (1, 4, 5):
        assert region_similarity(found[index], masks[index]) > 0.6, index
    # The first frame and those on which it was lost, and not those after.
    assert calls.count((192, 256)) == 4 and calls[-1] != (192, 256)


def test_an_object_that_grows_gets_larger_cells(generator, fine):
    frames, masks = [], []
    ground, thing = noise(generator, *SIZE), 255 - noise(generator, 24, 24, grain=3) // 3
    for t in range(14):
        side = 24 + 5 * t
        frame, mask = ground.clone(), torch.zeros(SIZE, dtype=torch.uint8)
        frame[:, 60 : 60 + side, 80 : 80 + side] = F.interpolate(thing[None], (side, side))[0]
        mask[60 : 60 + side, 80 : 80 + side] = 1
        frames.append(frame)
        masks.append(mask)
    calls = []
    found = list(propagate_tracked(frames, masks[0], counting(calls), CONFIG))
    assert len(set(calls)) > 1
    assert region_similarity(found[-1], masks[-1]) > 0.6


def test_the_box_changes_by_a_bounded_factor(generator, fine):
    frames, masks = moving(generator, [(120, 90)])
    one = tracked._Tracked(frames[0], masks[0].float(), colour_patch(), CONFIG, "cpu")
    sides = tracked._sides(one.box)
    one._follow(torch.tensor([0.0, 0, 200, 1]), torch.tensor(200.0))
    torch.testing.assert_close(
        tracked._sides(one.box), sides * torch.tensor([tracked.GROWTH, 1 / tracked.GROWTH])
    )
    torch.testing.assert_close(tracked._centre(one.box), torch.tensor([100.0, 0.5]))


def test_objects_have_windows_of_their_own_and_keep_their_ids(generator, fine):
    frames, masks = moving(generator, [(30 + 4 * t, 40) for t in range(5)])
    others, other = moving(generator, [(200 - 4 * t, 130) for t in range(5)])
    frames = torch.where(other[:, None] > 0, others, frames)
    masks = torch.where(other > 0, 7, masks).to(torch.uint8)
    masks[0, 0, 0] = 255  # void, no object
    calls = []
    *_, last = propagate_tracked(frames, masks[0], counting(calls), CONFIG)
    assert set(last.unique().tolist()) == {0, 1, 7} and len(calls) >= 2 * len(frames)
    for number in (1, 7):
        assert region_similarity(last == number, masks[-1] == number) > 0.7


def test_of_two_objects_the_likelier_has_the_pixel():
    window = Window((8, 8), 8, (1, 1))
    seen = {
        number: (window, torch.tensor([1 - share, share])[:, None, None])
        for number, share in ((3, 0.4), (5, 0.45))
    }
    assert (tracked._merged(seen, (8, 8)) == 5).all()
    # 0.6 for none of the object alone, 0.6 * 0.55 for none of both
    assert not tracked._merged({3: seen[3]}, (8, 8)).any()
    assert not tracked._merged({3: None}, (8, 8)).any()


def test_frames_are_asked_for_one_by_one_and_memory_does_not_grow(generator, fine):
    frames, masks = moving(generator, [(100 + 2 * t, 90) for t in range(12)])
    asked = []

    def stream():
        for index, frame in enumerate(frames):
            asked.append(index)
            yield frame

    for index, _ in enumerate(propagate_tracked(stream(), masks[0], colour_patch(), CONFIG)):
        assert asked[-1] == index
    one = tracked._Tracked(frames[0], masks[0].float(), colour_patch(), CONFIG, "cpu")
    for frame in frames[1:]:
        one.step(frame)
        assert len(one.propagator.memory.references) <= 3


def test_memory_is_told_in_whole_frames(generator, fine):
    _, masks = moving(generator, [(120, 90)])
    small = held(masks[0], colour_patch(), CONFIG).references
    assert 1 <= small <= 2
    assert held(torch.ones(SIZE, dtype=torch.uint8), colour_patch(), CONFIG).references == 3


def test_bad_input_is_an_input_error(generator, monkeypatch):
    frames, masks = moving(generator, [(120, 90)] * 2)

    def carry(frames, mask):
        return list(propagate_tracked(frames, mask, colour_patch(), CONFIG))

    with pytest.raises(InputError, match="at least 1 frame"):
        carry([], masks[0])
    with pytest.raises(InputError, match="one size"):
        carry([frames[0], frames[0, :, :100]], masks[0])
    with pytest.raises(InputError, match="192x256"):
        carry(frames, masks[0, :100])
    with pytest.raises(InputError, match="at least one object"):
        carry(frames, torch.zeros_like(masks[0]))
    with pytest.raises(InputError, match="integer ids"):
        carry(frames, masks[0].float())
    monkeypatch.setattr(tracked, "held", lambda *_: PropagationConfig(references=10**9))
    with pytest.raises(InputError, match="GB"):
        carry(frames, masks[0])


def test_one_pixel_and_one_frame(generator):
    frames, masks = moving(generator, [(120, 90)] * 3, (1, 1))
    assert len(list(propagate_tracked(frames, masks[0], colour_patch(), CONFIG))) == 3
    (only,) = propagate_tracked(frames[:1], masks[0], colour_patch(), CONFIG)
    assert torch.equal(only, masks[0])
