"""Exercises of notebook 07: where pixels are expected, the box around them, cutting it out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib import localisation
from corrlib.checks import Check, Mistake

# -- expected coordinates --


def expected(affinity: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where each cell of a patch is expected in a frame.

    Args:
        affinity: ``(B, height·width, n)``; its columns, one for each cell of the patch, sum to 1
            over the cells of the frame, which are in row-major order.
        height, width: of the frame's map.

    Returns:
        ``(B, 2, n)``: x and y in cells, the top-left one's centre at (0, 0).
    """
    return localisation.locate(affinity, (height, width), (1, affinity.shape[2])).flatten(2)


def _places(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).float().flatten(1)


def _affinity_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for batch, height, width, cells in ((2, 4, 6, 7), (1, 5, 3, 8)):
        scores = 2 * torch.randn(batch, height * width, cells, generator=generator)
        cases.append((scores.softmax(dim=1), height, width))
    return cases


def _most_likely(affinity, height, width):
    return _places(height, width)[:, affinity.argmax(dim=1)].transpose(0, 1)


expected_coordinates = Check(
    name="expected_coordinates",
    solution=expected,
    cases=_affinity_cases,
    mistakes=(
        Mistake(
            "y comes first; the coordinates are x, y",
            lambda affinity, height, width: expected(affinity, height, width).flip(1),
        ),
        Mistake(
            "that is the most likely cell; the *expected* place is the mean of all, weighted by "
            "the affinity, and has a gradient",
            _most_likely,
        ),
        Mistake(
            "height and width are exchanged: in row-major order x runs first, 0..width - 1",
            lambda affinity, height, width: expected(affinity, width, height),
        ),
        Mistake(
            "cells count from 0: the centre of the first one is (0, 0)",
            lambda affinity, height, width: expected(affinity, height, width) + 1,
        ),
        Mistake(
            "cells are wanted, and their centres are whole numbers: the first one is at (0, 0)",
            lambda affinity, height, width: expected(affinity, height, width) + 0.5,
        ),
    ),
)


# -- the box --


def box(coordinates: torch.Tensor, patch: tuple[int, int], frame: tuple[int, int]) -> torch.Tensor:
    """A box of the patch's size around the mean of its located pixels, inside the frame.

    Args:
        coordinates: x and y in pixels, ``(B, 2, h, w)``.
        patch, frame: height and width in pixels. A box that would reach over an edge of the frame
            is moved inside; it keeps its size.

    Returns:
        ``(B, 4)``: x0, y0, x1, y1, the edges; those of the whole frame are -0.5, -0.5,
        width - 0.5, height - 0.5.
    """
    return localisation.patch_boxes(coordinates, patch, frame)


def _limits(frame: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([frame[1], frame[0]]) - 0.5


def _around(centre: torch.Tensor, patch: tuple[int, int], frame: tuple[int, int]) -> torch.Tensor:
    """The box around centres ``(B, 2)``."""
    return box(centre[:, :, None, None], patch, frame)


def _unmoved(coordinates, patch, frame):
    centre = coordinates.flatten(2).mean(dim=2)
    half = torch.tensor([patch[1], patch[0]]) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _clipped(coordinates, patch, frame):
    low, high = _unmoved(coordinates, patch, frame).split(2, dim=1)
    limit = _limits(frame)
    return torch.cat([torch.minimum(e.clamp(min=-0.5), limit) for e in (low, high)], dim=1)


def _from_zero(coordinates, patch, frame):
    low = _unmoved(coordinates, patch, frame)[:, :2]
    size = torch.tensor([patch[1], patch[0]])
    low = torch.minimum(low.clamp(min=0.0), torch.tensor([frame[1], frame[0]]) - size)
    return torch.cat([low, low + size], dim=1)


def _whole_pixels(coordinates, patch, frame):
    low = _unmoved(coordinates, patch, frame)[:, :2].round()
    size = torch.tensor([patch[1], patch[0]])
    low = torch.minimum(low.clamp(min=-0.5), _limits(frame) - size)
    return torch.cat([low, low + size], dim=1)


def _between_extremes(coordinates, patch, frame):
    places = coordinates.flatten(2)
    return _around((places.amin(dim=2) + places.amax(dim=2)) / 2, patch, frame)


def _box_cases(generator: torch.Generator) -> list[tuple]:
    """Some boxes lie inside, some at an edge."""
    cases = []
    for middles, patch, frame in (
        (((20.0, 16.0), (3.0, 30.0), (58.0, 5.0)), (12, 16), (40, 64)),
        (((30.0, 60.0), (15.0, 20.0)), (20, 10), (70, 36)),
    ):
        middles = torch.tensor(middles)[:, :, None, None]
        spread = 6 * torch.randn(len(middles), 2, 3, 5, generator=generator)
        cases.append((middles + spread - 3 * spread.sign(), patch, frame))
    return cases


box_around = Check(
    name="box_around",
    solution=box,
    cases=_box_cases,
    mistakes=(
        Mistake(
            "the box reaches over the edge of the frame: move it inside",
            _unmoved,
        ),
        Mistake(
            "the box is clipped at the edge and becomes smaller; move it inside as it is",
            _clipped,
        ),
        Mistake(
            "the centre is the mean of the located pixels; between their extremes one stray pixel "
            "would decide",
            _between_extremes,
        ),
        Mistake(
            "one mean for the whole batch; every sample has a box of its own",
            lambda coordinates, patch, frame: box(
                coordinates.mean(dim=0, keepdim=True).expand_as(coordinates), patch, frame
            ),
        ),
        Mistake(
            "height and width of the patch are exchanged: sizes are height, width but boxes x, y",
            lambda coordinates, patch, frame: box(coordinates, patch[::-1], frame),
        ),
        Mistake(
            "the frame does not go from 0 to its width: its first edges are -0.5, and the last are "
            "width - 0.5 and height - 0.5",
            _from_zero,
        ),
        Mistake(
            "the box is rounded to whole pixels, which leaves it without a gradient",
            _whole_pixels,
        ),
        Mistake(
            "edges lie half a pixel outside of the outermost pixels' centres: the frame's first "
            "is -0.5",
            lambda coordinates, patch, frame: box(coordinates + 0.5, patch, frame) + 0.5,
        ),
    ),
)


# -- the crop --


def cut(image: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut a box out of each image, by bilinear sampling at the centre of every output pixel.

    Args:
        image: ``(B, C, H, W)``.
        boxes: ``(B, 4)``, x0, y0, x1, y1, the edges in pixels.
        size: height and width of the result.

    Returns:
        ``(B, C, *size)``.
    """
    return localisation.crop(image, boxes, size)


def _crop_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for size, corners in (((4, 6), ((1.25, 2.6), (5.7, 0.2))), ((5, 3), ((3.4, 6.3), (0.8, 1.6)))):
        image = torch.rand(2, 3, 16, 16, generator=generator)[:, :, :, :14]
        low = torch.tensor(corners)
        boxes = torch.cat([low, low + torch.tensor([size[1], size[0]])], dim=1)
        cases.append((image, boxes, size))
    return cases


def _rounded(image, boxes, size):
    low = (boxes[:, :2] + 0.5).round() - 0.5
    return cut(image, torch.cat([low, low + boxes[:, 2:] - boxes[:, :2]], dim=1), size)


def _aligned(image, boxes, size):
    extent = torch.tensor([image.shape[3], image.shape[2]])
    low, high = ((2 * edge + 1) / extent - 1 for edge in (boxes[:, :2], boxes[:, 2:]))
    affine = torch.cat([torch.diag_embed((high - low) / 2), (high + low)[:, :, None] / 2], dim=2)
    grid = F.affine_grid(affine, [*image.shape[:2], *size], align_corners=True)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def _sampled(image, boxes, size, inner=True, flipped=False, aligned=False):
    """The crop by a grid made by hand."""
    height, width = image.shape[2:]
    steps = [
        (torch.arange(count) + 0.5) / count if inner else torch.linspace(0, 1, count)
        for count in (size[1], size[0])
    ]
    x, y = (
        low[:, None] + step * (high - low)[:, None]
        for low, high, step in zip(boxes.T[:2], boxes.T[2:], steps, strict=True)
    )
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = [x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])]
    grid = torch.stack(grid[::-1] if flipped else grid, dim=3)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=aligned)


crop_box = Check(
    name="crop_box",
    solution=cut,
    cases=_crop_cases,
    mistakes=(
        Mistake(
            "whole pixels were taken, by rounding the box or by nearest sampling, which leaves the "
            "box without a gradient; sample bilinearly",
            _rounded,
        ),
        Mistake(
            "align_corners=True puts -1 and 1 at the *centres* of the outermost pixels; our boxes "
            "have edges, so align_corners=False in both functions",
            _aligned,
        ),
        Mistake(
            "align_corners=True in grid_sample puts -1 and 1 at the *centres* of the outermost "
            "pixels; the grid counts from their edges",
            lambda image, boxes, size: _sampled(image, boxes, size, aligned=True),
        ),
        Mistake(
            "the outer samples lie on the edges of the box; each is the centre of a cell, half a "
            "cell further in",
            lambda image, boxes, size: _sampled(image, boxes, size, inner=False),
        ),
        Mistake(
            "the last dimension of a grid is (x, y), column before row",
            lambda image, boxes, size: _sampled(image, boxes, size, flipped=True),
        ),
        Mistake(
            "half a pixel too far: the left edge of the image is -0.5, not 0",
            lambda image, boxes, size: cut(image, boxes - 0.5, size),
        ),
        Mistake(
            "x and y are exchanged: boxes are x0, y0, x1, y1",
            lambda image, boxes, size: cut(image, boxes[:, [1, 0, 3, 2]], size),
        ),
        Mistake(
            "every image is cut at the first one's box",
            lambda image, boxes, size: cut(image, boxes[:1].expand_as(boxes), size),
        ),
    ),
)
