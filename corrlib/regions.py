"""Regions: the box of each object from where its pixels are found (Li et al. 2019, §3.1 and §3.3).

A box is read from located pixels, never predicted: its centre is their mean, and half its size is
twice their mean absolute deviation from the centre, per axis, which is exact for pixels that fill
a box evenly and little moved by a few that went astray.

A box is ``x0, y0, x1, y1``, its edges in pixels with centres at integers: the box of the pixels
3..5 is 2.5..5.5, that of a whole frame -0.5..W - 0.5 and -0.5..H - 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from corrlib.errors import InputError
from corrlib.geometry import cell_centres, of_one_size, pad_to_multiple
from corrlib.masks import check_mask, count_objects, one_hot
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    encoded_size,
)
from corrlib.tracks import pixel_scale

LOST = 0.5
"""An object is lost where no cell belongs to it by this share of what one did at first."""


@dataclass(frozen=True)
class RegionEstimate:
    """The objects of one frame, all on the CPU.

    Attributes:
        boxes: ``(K, 4)`` float32 ``x0, y0, x1, y1``, clipped to the frame. A lost object keeps
            its latest box.
        lost: ``(K,)`` bool.
    """

    boxes: torch.Tensor
    lost: torch.Tensor


def boxes_from_coordinates(
    coordinates: torch.Tensor,
    labels: torch.Tensor,
    size: tuple[int, int],
    extent: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """Boxes around located pixels.

    The pixels may be those of the frame itself, with labels that were carried to them; or those
    of a patch of another frame, with the coordinates at which the affinity expects them.

    Args:
        coordinates: ``(2, h, w)`` x and y of each pixel or cell, in pixels of the frame.
        labels: ``(K, h, w)``, at least 0: how far each belongs to each object.
        size: height and width of the frame, to which boxes are clipped.
        extent: width and height, in pixels, of what each coordinate stands for: 1 of a pixel, the
            stride of a cell.

    Returns:
        ``(K, 4)`` float32; NaN for an object without any label.
    """
    if coordinates.dim() != 3 or labels.dim() != 3 or coordinates.shape[1:] != labels.shape[1:]:
        raise InputError(
            f"expected coordinates (2, h, w) and labels (K, h, w) of one size, got "
            f"{tuple(coordinates.shape)} and {tuple(labels.shape)}"
        )
    weights = labels.flatten(1).double()  # (K, n)
    places = coordinates.flatten(1).double()  # (2, n)
    total = weights.sum(dim=1, keepdim=True)
    weights = weights / total  # NaN where an object has no label
    centre = weights @ places.T  # (K, 2)
    distance = (places - centre[..., None]).abs()  # (K, 2, n)
    # What is spread evenly over a cell that holds the centre deviates from it even if the cell's
    # own centre does not.
    half = torch.tensor(extent, dtype=torch.float64, device=places.device)[:, None] / 2
    distance = torch.where(distance < half, (half**2 + distance**2) / (2 * half), distance)
    half_size = 2 * (distance * weights[:, None]).sum(dim=2)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float64, device=places.device) - 0.5
    low = torch.minimum((centre - half_size).clamp(min=-0.5), limit)
    high = torch.minimum((centre + half_size).clamp(min=-0.5), limit)
    return torch.cat([low, high], dim=1).float()


def track_regions(
    frames: Iterable[torch.Tensor],
    regions: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[RegionEstimate]:
    """Yield the objects' boxes on every frame, those of the first from what is given.

    The pixels of each object are carried softly by the engine of :mod:`corrlib.propagation`, and
    boxes are read from those found. What boxes share counts as part of every one of them.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        regions: boxes ``(K, 4)`` float on the first frame, or a mask ``(H, W)`` of integer ids.
        extractor, config, device: as for :func:`corrlib.propagation.propagate_mask`.

    Raises:
        InputError: no frames, frames of different sizes, a mask that does not fit, boxes that
            are empty or outside the frame.
    """
    frames = of_one_size(frames)
    first = next(frames)
    config = config or PropagationConfig()
    size = (first.shape[1], first.shape[2])
    if regions.is_floating_point():
        boxes = check_boxes(regions, *size)
        shares = box_shares(boxes, size)
    else:
        check_mask(regions, *size)
        shares = one_hot(regions, count_objects(regions))[1:]
        boxes = boxes_from_coordinates(cell_centres(*size), shares, size)
    # An id that the mask skips is lost from the start.
    yield RegionEstimate(boxes, boxes.isnan().any(dim=1))
    labels = _to_grid(shares, extractor.stride, config)
    propagator = Propagator(extractor, config, device)
    propagator.start(first, torch.cat([1 - labels.amax(dim=0, keepdim=True), labels]))
    scale = pixel_scale(size, config)
    places = cell_centres(*labels.shape[1:], extractor.stride)
    places = (places + 0.5) / scale[:, None, None] - 0.5
    extent = tuple((extractor.stride / scale).tolist())
    least = LOST * labels.flatten(1).amax(dim=1)
    for frame in frames:
        found = propagator.step(frame)[1:].cpu()
        lost = found.flatten(1).amax(dim=1) <= least
        located = boxes_from_coordinates(places, found, size, extent)
        boxes = torch.where(lost[:, None], boxes, located)
        yield RegionEstimate(boxes, lost)


def check_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Check boxes against their frame; returns them clipped to it, float32 on the CPU.

    Raises:
        InputError: another shape than ``(K, 4)``, none, no number, or nothing of one in the frame.
    """
    boxes = boxes.detach().cpu().float()
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise InputError(f"expected boxes (K, 4) of x0, y0, x1, y1, got {tuple(boxes.shape)}")
    limit = torch.tensor([width, height, width, height]) - 0.5
    clipped = torch.minimum(boxes.clamp(min=-0.5), limit)
    good = boxes.isfinite().all(dim=1) & (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
    if not good.all():
        number = int((~good).nonzero()[0])
        raise InputError(
            f"expected boxes x0 < x1, y0 < y1 within the {width}x{height} frame, got "
            f"{[round(part, 3) for part in boxes[number].tolist()]} as box {number}"
        )
    return clipped


def box_shares(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The share of every pixel that lies in each box: ``(K, 4)`` to ``(K, H, W)`` float32."""
    axes = []
    for axis in (0, 1):
        pixels = torch.arange(size[1 - axis])
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        covered = torch.minimum(pixels + 0.5, high) - torch.maximum(pixels - 0.5, low)
        axes.append(covered.clamp(min=0))
    x, y = axes
    return y[:, :, None] * x[:, None, :]


def _to_grid(shares: torch.Tensor, stride: int, config: PropagationConfig) -> torch.Tensor:
    """Shares of pixels ``(K, H, W)`` to shares of cells ``(K, h, w)``."""
    size = encoded_size(tuple(shares.shape[1:]), config)
    shares = shares[None]
    if size != tuple(shares.shape[2:]):
        shares = F.interpolate(shares, size, mode="bilinear", antialias=True)
    return F.avg_pool2d(pad_to_multiple(shares, stride), stride)[0]
