"""One convention for pixels and cells: every module relies on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corrlib.errors import InputError
from corrlib.geometry import (
    cell_centres,
    grid_to_points,
    of_one_size,
    pad_to_multiple,
    points_to_grid,
    to_float,
)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_points_to_grid_and_back_is_the_identity(stride, generator):
    points = 500 * torch.rand(7, 5, 2, generator=generator) - 50
    torch.testing.assert_close(grid_to_points(points_to_grid(points, stride), stride), points)


@pytest.mark.parametrize("stride", [1, 2, 4, 7, 8])
def test_a_cell_centre_is_the_mean_of_its_pixels(stride):
    height, width = 3, 5
    y, x = torch.meshgrid(
        torch.arange(height * stride).float(), torch.arange(width * stride).float(), indexing="ij"
    )
    mean = F.avg_pool2d(torch.stack([x, y]), stride)
    torch.testing.assert_close(cell_centres(height, width, stride), mean)


def test_cell_centres_are_x_first_and_map_to_whole_cells():
    centres = cell_centres(3, 5, stride=8)
    assert centres.shape == (2, 3, 5)
    grid = points_to_grid(centres.movedim(0, -1), 8)
    assert grid[2, 4].tolist() == [4, 2]
    torch.testing.assert_close(grid, grid.round())


def test_at_stride_1_cells_are_pixels():
    points = torch.tensor([[0.0, 0.0], [12.0, 7.0]])
    assert torch.equal(points_to_grid(points, 1), points)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (1, 9), (15, 8)])
def test_padding_repeats_the_last_row_and_column(height, width, generator):
    images = torch.rand(2, 3, height, width, generator=generator)
    padded = pad_to_multiple(images, 8)
    assert padded.shape[-2:] == (-(-height // 8) * 8, -(-width // 8) * 8)
    assert torch.equal(padded[..., :height, :width], images)
    corner = padded[..., height - 1 :, width - 1 :]
    assert torch.equal(corner, images[..., -1:, -1:].expand_as(corner))
    assert torch.equal(padded[..., :height, -1], images[..., -1])
    assert torch.equal(padded[..., -1, :width], images[..., -1, :])


def test_padding_leaves_fitting_images_alone(generator):
    images = torch.rand(1, 3, 16, 24, generator=generator)
    assert pad_to_multiple(images, 8) is images


def test_bad_input():
    with pytest.raises(InputError, match="images"):
        pad_to_multiple(torch.zeros(3, 8, 8), 8)
    with pytest.raises(InputError, match="uint8"):
        to_float(torch.zeros(3, 8, 8))


def test_to_float_covers_0_to_1():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )


def test_frames_of_one_size_pass_and_others_are_errors():
    frames = [torch.zeros(3, 4, 6), torch.ones(3, 4, 6)]
    passed = list(of_one_size(iter(frames)))
    assert all(a is b for a, b in zip(passed, frames, strict=True))
    with pytest.raises(InputError, match="at least 1 frame"):
        next(of_one_size([]))
    mixed = of_one_size([*frames, torch.zeros(3, 6, 4)])
    assert next(mixed) is frames[0] and next(mixed) is frames[1]
    with pytest.raises(InputError, match=r"got 4x6 first and 6x4 \(height x width\) later"):
        next(mixed)
