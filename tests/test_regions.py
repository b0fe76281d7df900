"""Boxes from located pixels: closed forms, and boxes carried along clips that are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.geometry import cell_centres
from corrlib.propagation import PropagationConfig
from corrlib.regions import box_shares, boxes_from_coordinates, check_boxes, track_regions

SIZE = (60, 80)
CONFIG = PropagationConfig(references=2, radius=4, topk=5)


def mask_of(*boxes: tuple[int, int, int, int], size=SIZE) -> torch.Tensor:
    """Labels ``(K, H, W)``: the pixels from x0, y0 to before x1, y1."""
    labels = torch.zeros(len(boxes), *size)
    for label, (x0, y0, x1, y1) in zip(labels, boxes, strict=True):
        label[y0:y1, x0:x1] = 1
    return labels


@pytest.mark.parametrize("box", [(10, 20, 30, 50), (5, 6, 6, 7), (11, 3, 24, 16), (0, 0, 80, 60)])
def test_the_box_of_a_box_is_that_box(box):
    """Odd and even sides, one pixel, and the whole frame."""
    found = boxes_from_coordinates(cell_centres(*SIZE), mask_of(box), SIZE)
    torch.testing.assert_close(found, torch.tensor([box]) - 0.5, atol=1e-4, rtol=0)


def test_a_shift_of_coordinates_shifts_the_box():
    coordinates = cell_centres(*SIZE)
    labels = mask_of((20, 20, 31, 40), (40, 10, 60, 20))
    shift = torch.tensor([7.25, -3.5])
    start, found = (
        boxes_from_coordinates(c, labels, SIZE)
        for c in (coordinates, coordinates + shift[:, None, None])
    )
    torch.testing.assert_close(found, start + shift.repeat(2), atol=1e-4, rtol=0)


def test_pixels_found_further_apart_make_a_larger_box():
    labels = mask_of((30, 20, 50, 40))
    coordinates = cell_centres(*SIZE)
    centre = torch.tensor([39.5, 29.5])[:, None, None]
    scaled = centre + 1.5 * (coordinates - centre)
    found = boxes_from_coordinates(scaled, labels, SIZE, extent=(1.5, 1.5))
    torch.testing.assert_close(found, torch.tensor([[24.5, 14.5, 54.5, 44.5]]), atol=1e-4, rtol=0)


def test_boxes_are_clipped_to_the_frame():
    labels = mask_of((30, 20, 50, 40))
    found = boxes_from_coordinates(cell_centres(*SIZE) + 35, labels, SIZE)
    torch.testing.assert_close(found, torch.tensor([[64.5, 54.5, 79.5, 59.5]]), atol=1e-4, rtol=0)
    away = boxes_from_coordinates(cell_centres(*SIZE) - 500, labels, SIZE)
    assert torch.equal(away, torch.full((1, 4), -0.5))


def test_cells_stand_for_the_pixels_they_cover():
    coordinates = cell_centres(6, 8, stride=8)
    labels = torch.zeros(1, 6, 8)
    labels[0, 1:4, 2:7] = 1
    found = boxes_from_coordinates(coordinates, labels, (48, 64), extent=(8, 8))
    torch.testing.assert_close(found, torch.tensor([[15.5, 7.5, 55.5, 31.5]]), atol=1e-4, rtol=0)


def test_an_object_that_is_nowhere_has_no_box():
    found = boxes_from_coordinates(cell_centres(*SIZE), mask_of((1, 1, 5, 5), (0, 0, 0, 0)), SIZE)
    assert found[0].isfinite().all() and found[1].isnan().all()


def test_a_few_pixels_gone_astray_move_the_box_little():
    labels = mask_of((20, 20, 40, 40))
    start = boxes_from_coordinates(cell_centres(*SIZE), labels, SIZE)
    labels[0, 0, 79] = 1
    found = boxes_from_coordinates(cell_centres(*SIZE), labels, SIZE)
    assert (found - start).abs().max() < 0.5


def test_shapes_that_differ_are_an_error():
    with pytest.raises(InputError, match="one size"):
        boxes_from_coordinates(cell_centres(*SIZE), torch.ones(1, 5, 5), SIZE)


def test_box_shares_cover_parts_of_pixels():
    shares = box_shares(torch.tensor([[1.5, 0.5, 3.0, 2.5]]), (4, 6))
    assert shares.shape == (1, 4, 6)
    expected_x, expected_y = [0, 0, 1, 0.5, 0, 0], [0, 1, 1, 0]
    torch.testing.assert_close(
        shares[0], torch.tensor(expected_y)[:, None] * torch.tensor(expected_x)
    )


# Tracking


def noise(generator, height: int, width: int, grain: int = 4) -> torch.Tensor:
    coarse = torch.rand(1, 3, height // grain, width // grain, generator=generator)
    return (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).to(torch.uint8)


BOX = torch.tensor([[63.5, 31.5, 95.5, 55.5]])


def panning(generator, step: tuple[int, int], frames: int = 4) -> torch.Tensor:
    """A world that moves by ``step`` pixels (x, y) per frame, ``(T, 3, 96, 160)``."""
    dx, dy = step
    room_x, room_y = abs(dx) * frames, abs(dy) * frames
    world = noise(generator, 96 + 2 * room_y, 160 + 2 * room_x)
    places = [(room_x - dx * t, room_y - dy * t) for t in range(frames)]
    return torch.stack([world[:, y : y + 96, x : x + 160] for x, y in places])


@pytest.mark.parametrize("step", [(8, 0), (-8, 0), (0, 0)])
def test_a_box_follows_whole_cells(step, generator):
    found = list(track_regions(panning(generator, step), BOX, colour_patch(), CONFIG))
    assert torch.equal(found[0].boxes, BOX) and not found[0].lost.any()
    for t, estimate in enumerate(found):
        expected = BOX + t * torch.tensor(step * 2)
        torch.testing.assert_close(estimate.boxes, expected, atol=1.0, rtol=0)
        assert not estimate.lost.any()


def test_a_mask_is_as_good_as_a_box(generator):
    frames = panning(generator, (8, 0))
    mask = torch.zeros(96, 160, dtype=torch.uint8)
    mask[32:56, 64:96] = 1
    by_mask = list(track_regions(frames, mask, colour_patch(), CONFIG))
    torch.testing.assert_close(by_mask[0].boxes, BOX)
    by_box = list(track_regions(frames, BOX, colour_patch(), CONFIG))
    for a, b in zip(by_mask, by_box, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes, atol=0.01, rtol=0)


def test_frames_made_larger_for_the_encoder(generator):
    config = PropagationConfig(references=2, radius=6, topk=1, short_side=192)
    *_, last = track_regions(panning(generator, (8, 0), 3), BOX, colour_patch(), config)
    expected = BOX + torch.tensor([16.0, 0, 16, 0])
    torch.testing.assert_close(last.boxes, expected, atol=2.0, rtol=0)


def test_two_boxes_that_overlap_are_followed_apart(generator):
    boxes = torch.cat([BOX, BOX + torch.tensor([8.0, 8.0, 8.0, 8.0])])
    frames = panning(generator, (8, 0), 3)
    *_, last = track_regions(frames, boxes, colour_patch(), CONFIG)
    expected = boxes + torch.tensor([16.0, 0, 16, 0])
    torch.testing.assert_close(last.boxes, expected, atol=1.0, rtol=0)


def test_an_object_that_is_gone_is_lost_and_keeps_its_box(generator):
    frames = noise(generator, 96, 160).repeat(3, 1, 1, 1)
    red = torch.tensor([250, 20, 20], dtype=torch.uint8).view(3, 1, 1)
    frames[:2, :, 32:56, 64:96] = red
    mask = torch.zeros(96, 160, dtype=torch.uint8)
    mask[32:56, 64:96] = 2  # id 1 is nowhere from the start
    found = list(track_regions(frames, mask, colour_patch(), CONFIG))
    assert [estimate.lost.tolist() for estimate in found] == [
        [True, False],
        [True, False],
        [True, True],
    ]
    assert torch.equal(found[2].boxes[1], found[1].boxes[1])


@pytest.mark.parametrize(
    "boxes",
    [
        torch.zeros(0, 4),
        torch.zeros(4),
        torch.tensor([[5.0, 5, 5, 9]]),
        torch.tensor([[9.0, 5, 5, 9]]),
        torch.tensor([[1.0, 1, 5, 5], [200, 1, 230, 9]]),
        torch.tensor([[torch.nan, 1, 5, 5]]),
    ],
)
def test_boxes_that_cannot_be_followed(boxes, generator):
    with pytest.raises(InputError, match="expected boxes"):
        next(track_regions(panning(generator, (0, 0)), boxes, colour_patch(), CONFIG))


def test_boxes_are_cut_at_the_frame():
    found = check_boxes(torch.tensor([[-20.0, 3, 30, 900]]), 60, 80)
    assert torch.equal(found, torch.tensor([[-0.5, 3, 30, 59.5]]))


def test_frames_that_cannot_be_followed(generator):
    box = BOX
    frames = panning(generator, (0, 0), frames=2)
    with pytest.raises(InputError, match="at least 1 frame"):
        list(track_regions([], box, colour_patch()))
    with pytest.raises(InputError, match="one size"):
        list(track_regions([frames[0], frames[1][:, 8:]], box, colour_patch(), CONFIG))
    with pytest.raises(InputError, match="mask"):
        list(track_regions(frames, torch.ones(5, 5, dtype=torch.uint8), colour_patch(), CONFIG))
