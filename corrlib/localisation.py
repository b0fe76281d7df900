"""Region-level localisation: find where a patch of one frame lies in another, and cut it out.

An affinity carries locations as it carries colours: every cell of the patch lands at the mean of
the places that it resembles (l¹² = l¹¹A). The mean of where all of them landed is the centre of a
box as large as the patch, and what is cut out there can be matched finely (Li et al. 2019, §3.1).
All of it is differentiable, so that a box in the wrong place can be learnt from.

Boxes are ``x0, y0, x1, y1`` in pixels, as in :mod:`corrlib.regions`, which has the box that grows
and shrinks with the spread of the located pixels, for use after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib.affinity import transport
from corrlib.errors import InputError
from corrlib.geometry import cell_centres


def locate(
    affinity: torch.Tensor,
    reference: tuple[int, int],
    target: tuple[int, int],
    stride: int = 1,
) -> torch.Tensor:
    """Where in the reference frame each target cell is expected.

    To find a patch of frame 1 in frame 2, frame 2 is the reference and the patch the target: the
    softmax runs over the places where a cell of the patch may be.

    Args:
        affinity: full, ``(B, n_ref, n_tar)``; columns sum to 1.
        reference, target: height and width of both maps, in cells.
        stride: of the cells.

    Returns:
        ``(B, 2, h_tar, w_tar)``: x and y in pixels of the reference frame.
    """
    places = cell_centres(*reference, stride).to(affinity)
    return transport(places.expand(len(affinity), -1, -1, -1), affinity, target)


def patch_boxes(
    coordinates: torch.Tensor, patch: tuple[int, int], frame: tuple[int, int]
) -> torch.Tensor:
    """Boxes of a patch's own size around the mean of its located pixels.

    A box that would reach over an edge of the frame is moved inside.

    Args:
        coordinates: ``(B, 2, h, w)``, where the patch's pixels or cells were located, in pixels.
        patch, frame: height and width in pixels.

    Returns:
        ``(B, 4)``.
    """
    if coordinates.dim() != 4 or coordinates.shape[1] != 2:
        raise InputError(f"expected coordinates (B, 2, h, w), got {tuple(coordinates.shape)}")
    if patch[0] > frame[0] or patch[1] > frame[1]:
        raise InputError(
            f"expected a patch that fits into the frame of {frame[0]}x{frame[1]}, got "
            f"{patch[0]}x{patch[1]} (height x width)"
        )
    extent = coordinates.new_tensor([patch[1], patch[0]])
    room = coordinates.new_tensor([frame[1], frame[0]]) - extent
    low = coordinates.flatten(2).mean(dim=2) - extent / 2 + 0.5  # from the frame's own edge
    low = torch.minimum(low.clamp(min=0), room) - 0.5
    return torch.cat([low, low + extent], dim=1)


def crop(
    maps: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], stride: int = 1
) -> torch.Tensor:
    """Cut a box out of each map by bilinear sampling; gradients reach maps and boxes.

    Every output cell is sampled once, at its centre: a box is not meant to be shrunk. A box on the
    map's own cells gives the slice. Beyond the outermost centres a map goes on as at its border.

    Args:
        maps: ``(B, C, h, w)``, images (``stride`` 1) or features.
        boxes: ``(B, 4)`` in pixels, one for each map.
        size: height and width of the result, in cells.
        stride: of the maps.

    Returns:
        ``(B, C, *size)``.
    """
    if maps.dim() != 4 or boxes.shape != (len(maps), 4):
        raise InputError(
            f"expected maps (B, C, h, w) and boxes (B, 4), got {tuple(maps.shape)} and "
            f"{tuple(boxes.shape)}"
        )
    extent = boxes.new_tensor([maps.shape[3], maps.shape[2]]) * stride
    # The sampler counts from -1 at the map's left edge, which is pixel -0.5, to 1 at its right.
    low, high = ((2 * edge + 1) / extent - 1 for edge in (boxes[:, :2], boxes[:, 2:]))
    grow, move = (high - low) / 2, (high + low) / 2
    affine = torch.cat([torch.diag_embed(grow), move[:, :, None]], dim=2)  # (B, 2, 3)
    grid = F.affine_grid(affine, [*maps.shape[:2], *size], align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
