"""Localisation: where a patch is, the box around it, and the differentiable crop of that box."""

from __future__ import annotations

import pytest
import torch

from corrlib import localisation_reference as reference
from corrlib.affinity import full_affinity, normalise
from corrlib.errors import InputError
from corrlib.geometry import cell_centres
from corrlib.localisation import crop, locate, patch_boxes
from corrlib.regions import boxes_from_coordinates

STRIDE = 8
FRAME = (6, 9)  # cells
PATCH = (3, 4)


def one_cell_each(row: int, column: int) -> torch.Tensor:
    """The affinity of a patch that lies at that cell of the frame: every column has one 1."""
    cells = torch.arange(FRAME[0] * FRAME[1]).view(FRAME)
    cells = cells[row : row + PATCH[0], column : column + PATCH[1]].flatten()
    return torch.nn.functional.one_hot(cells, FRAME[0] * FRAME[1]).T[None].float()


def box_of(row: int, column: int) -> torch.Tensor:
    return STRIDE * torch.tensor([[column, row, column + PATCH[1], row + PATCH[0]]]) - 0.5


def pixels(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * STRIDE, size[1] * STRIDE


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 5)])
def test_a_pure_shift_gives_exactly_that_box(place):
    coordinates = locate(one_cell_each(*place), FRAME, PATCH, STRIDE)
    y, x = place
    expected = cell_centres(*FRAME, STRIDE)[:, y : y + PATCH[0], x : x + PATCH[1]]
    assert torch.equal(coordinates[0], expected)
    assert torch.equal(patch_boxes(coordinates, pixels(PATCH), pixels(FRAME)), box_of(*place))


def test_a_patch_is_found_by_its_features(generator):
    features = normalise(torch.randn(2, 16, *FRAME, generator=generator))
    places = [(2, 1), (0, 4)]
    patches = torch.stack(
        [features[i, :, y : y + PATCH[0], x : x + PATCH[1]] for i, (y, x) in enumerate(places)]
    )
    affinity = full_affinity(features, patches, 0.01)
    coordinates = locate(affinity, FRAME, PATCH, STRIDE)
    boxes = patch_boxes(coordinates, pixels(PATCH), pixels(FRAME))
    expected = torch.cat([box_of(*place) for place in places])
    torch.testing.assert_close(boxes, expected, atol=0.05, rtol=0)
    found = crop(features, boxes, PATCH, STRIDE)
    torch.testing.assert_close(found, patches, atol=0.02, rtol=0)


def test_the_box_of_the_spread_is_the_same_box():
    """A patch that is found whole: what is read from the spread agrees with the patch's size."""
    coordinates = locate(one_cell_each(2, 3), FRAME, PATCH, STRIDE)
    labels = torch.ones(1, *PATCH)
    spread = boxes_from_coordinates(coordinates[0], labels, pixels(FRAME), (STRIDE, STRIDE))
    torch.testing.assert_close(
        spread, patch_boxes(coordinates, pixels(PATCH), pixels(FRAME)), atol=1e-4, rtol=0
    )


def test_a_uniform_affinity_expects_everything_in_the_middle():
    affinity = torch.full((1, 54, 12), 1 / 54)
    coordinates = locate(affinity, FRAME, PATCH, STRIDE)
    middle = torch.tensor([35.5, 23.5]).view(1, 2, 1, 1).expand(1, 2, *PATCH)
    torch.testing.assert_close(coordinates, middle)


@pytest.mark.parametrize("way", [(-1, -1), (1, -1), (-1, 1), (1, 1)])
def test_boxes_over_the_edge_are_moved_inside(way):
    coordinates = torch.tensor(way).view(1, 2, 1, 1) * torch.full((1, 2, *PATCH), 500.0)
    left, top = (0 if way[0] < 0 else 5), (0 if way[1] < 0 else 3)
    boxes = patch_boxes(coordinates, pixels(PATCH), pixels(FRAME))
    torch.testing.assert_close(boxes, box_of(top, left))


def test_a_patch_as_large_as_the_frame_is_the_frame(generator):
    coordinates = 50 * torch.randn(3, 2, 5, 5, generator=generator)
    boxes = patch_boxes(coordinates, (48, 72), (48, 72))
    assert torch.equal(boxes, torch.tensor([[-0.5, -0.5, 71.5, 47.5]]).expand(3, 4))


@pytest.mark.parametrize("stride", [1, 8])
def test_boxes_on_whole_cells_crop_the_slice(stride, generator):
    maps = torch.randn(3, 5, 11, 14, generator=generator)
    places = torch.tensor([[0, 0], [9, 7], [4, 2]])  # x, y; two corners and the middle
    low = stride * places - 0.5
    boxes = torch.cat([low, low + stride * torch.tensor([5, 4])], dim=1)
    expected = [maps[i, :, y : y + 4, x : x + 5] for i, (x, y) in enumerate(places.tolist())]
    torch.testing.assert_close(
        crop(maps, boxes, (4, 5), stride), torch.stack(expected), atol=1e-5, rtol=0
    )
    exact = crop(maps.double(), boxes.double(), (4, 5), stride)
    torch.testing.assert_close(exact, torch.stack(expected).double(), atol=1e-13, rtol=0)


def test_features_and_image_are_cropped_at_the_same_place(generator):
    """A linear ramp is its own bilinear interpolation, at any stride."""
    boxes = torch.tensor([[10.3, 7.7, 34.3, 23.7], [3.5, 3.5, 27.5, 19.5]])
    image, features = (
        cell_centres(48 // stride, 72 // stride, stride).expand(2, -1, -1, -1) for stride in (1, 8)
    )
    fine = crop(image, boxes, (16, 24))
    coarse = crop(features, boxes, (2, 3), 8)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine, 8), coarse)
    left, top = boxes[:, 0] + 0.5, boxes[:, 1] + 0.5
    torch.testing.assert_close(fine[:, :, 0, 0], torch.stack([left, top], dim=1))


def test_beyond_the_border_the_map_goes_on_as_at_it(generator):
    maps = torch.rand(1, 2, 4, 5, generator=generator)
    found = crop(maps, torch.tensor([[-3.5, -2.5, 6.5, 5.5]]), (8, 10))
    expected = torch.nn.functional.pad(maps, (3, 2, 2, 2), mode="replicate")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 4])
def test_fast_and_obvious_agree(stride, generator):
    generous = torch.tensor([3.0, 3, 1, 1])
    maps = torch.randn(4, 3, 5, 7, generator=generator, dtype=torch.float64)
    low = torch.rand(4, 2, generator=generator, dtype=torch.float64) * 5 * stride - 2
    high = low + stride * (1 + 4 * torch.rand(4, 2, generator=generator, dtype=torch.float64))
    boxes = torch.cat([low, high], dim=1) - generous.to(low) * stride / 4
    torch.testing.assert_close(
        crop(maps, boxes, (3, 4), stride), reference.crop(maps, boxes, (3, 4), stride)
    )
    affinity = torch.randn(2, 35, 6, generator=generator, dtype=torch.float64).softmax(dim=1)
    coordinates = locate(affinity, (5, 7), (2, 3), stride)
    torch.testing.assert_close(coordinates, reference.locate(affinity, (5, 7), (2, 3), stride))
    for patch in ((2, 3), (5 * stride, 6 * stride)):
        sizes = patch, (5 * stride, 7 * stride)
        torch.testing.assert_close(
            patch_boxes(coordinates, *sizes), reference.patch_boxes(coordinates, *sizes)
        )


def test_the_crop_has_the_right_gradients(generator):
    maps = torch.randn(2, 2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor(
        [[1.13, 0.31, 11.7, 9.3], [3.9, 2.7, 16.21, 14.1]], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda m, b: crop(m, b, (2, 3), 4), (maps, boxes))


def test_localisation_has_the_right_gradients(generator):
    """From the scores of the affinity to the box, and on to what is cropped there."""
    scores = torch.randn(2, 20, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(2, 2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)

    def found(scores, maps):
        coordinates = locate(scores.softmax(dim=1), (4, 5), (2, 2), 4)
        boxes = patch_boxes(coordinates, (8, 8), (16, 20))
        return coordinates, boxes, crop(maps, boxes, (2, 2), 4)

    assert torch.autograd.gradcheck(found, (scores, maps))


def test_a_box_learns_where_its_patch_is(generator):
    """Gradients of the crop lead a box that is a little off to its place."""
    wave = cell_centres(40, 40)
    image = (wave / 6).sin().prod(dim=0)[None, None]
    wanted = torch.tensor([[11.5, 9.5, 27.5, 25.5]])
    target = crop(image, wanted, (16, 16))
    coordinates = torch.tensor([21.5, 15.5]).view(1, 2, 1, 1).requires_grad_()
    optimiser = torch.optim.Adam([coordinates], lr=0.2)
    for _ in range(100):
        optimiser.zero_grad()
        boxes = patch_boxes(coordinates, (16, 16), (40, 40))
        (crop(image, boxes, (16, 16)) - target).square().mean().backward()
        optimiser.step()
    torch.testing.assert_close(boxes.detach(), wanted, atol=0.1, rtol=0)


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises(InputError, match="fits into the frame"):
        patch_boxes(torch.zeros(1, 2, 2, 2), (32, 16), (24, 24))
    with pytest.raises(InputError, match="coordinates"):
        patch_boxes(torch.zeros(2, 2, 2), (8, 8), (24, 24))
    with pytest.raises(InputError, match="boxes"):
        crop(torch.zeros(2, 3, 8, 8), torch.zeros(1, 4), (2, 2))
    with pytest.raises(InputError, match="reference cells"):
        locate(torch.zeros(1, 30, 4), (5, 5), (2, 2))
