"""Keypoints: joints, given on the first frame, followed through a video.

Each joint becomes a heat map on the feature grid, a Gaussian around its position, and the engine
carries the maps like any other label. A joint is then read off its map: at the largest cell, or
at the mean of the three largest (Jabri et al. 2020).

Joints are ``(K, 2)`` float (x, y) in pixels of the frame, the centre of the top-left pixel at
(0, 0). NaN stands for a joint that is missing: not given, given off the frame, or lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torchvision.utils import draw_keypoints

from corrlib.errors import InputError
from corrlib.geometry import cell_centres, grid_to_points, of_one_size, points_to_grid
from corrlib.masks import DISPLAY_COLOURS
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    encoded_size,
    label_grid,
    propagate_labels,
)

SIGMA = 0.5
"""Standard deviation of a heat map in feature cells: what the released evaluations of CycleTime,
UVC and CRW use on JHMDB. They put the Gaussian on the nearest cell; here it keeps its place
between the cells, so that a mean of cells can find it again."""

REACH = 3.0
"""The heat map is 0 where it is more than so many deviations away along an axis, as theirs is."""

LOST = 1e-6
"""A joint whose largest cell holds no more than this of the first frame's heat map is lost."""

CELLS = {"maximum": 1, "top3": 3}
"""Ways to read a joint off its map: how many of the largest cells are averaged."""


@dataclass(frozen=True)
class Skeleton:
    """Names of K joints, and the pairs of them (from 0) that bones join."""

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        for edge in self.edges:
            if not all(0 <= end < len(self.names) for end in edge):
                raise InputError(f"expected edges between joints 0..{len(self.names) - 1}: {edge}")


def propagate_keypoints(
    frames: Iterable[torch.Tensor],
    points: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
    location: str = "top3",
) -> Iterator[torch.Tensor]:
    """Yield the joints of every frame; the first are those given.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        points: ``(K, 2)`` joints on the first frame; NaN, or off the frame, for a missing one.
        extractor: features to match.
        config: how to match; labels are fed back softly whatever it says (see :func:`soft`).
        location: ``"top3"``, the mean of the three largest cells weighted by their values, or
            ``"maximum"``, the centre of the largest.

    Yields:
        ``(K, 2)`` float32 on the CPU, NaN where a joint was not found.

    Raises:
        InputError: no frames, frames of different sizes, points of another shape, no joint on the
            first frame, an unknown location, more memory needed than there is.
    """
    config = soft(config or PropagationConfig())
    _check_location(location)
    frames = of_one_size(frames)
    first = next(frames)
    size = tuple(first.shape[1:])
    visible = on_frame(points, size)
    if not visible.any():
        raise InputError(
            f"expected at least one joint on the first frame of {size[1]}x{size[0]} pixels, got "
            f"{len(points)} that are all missing or outside of it"
        )
    yield torch.where(visible[:, None], points.float(), torch.nan)
    maps = heat_maps(points, size, extractor.stride, config)
    carried = propagate_labels(chain([first], frames), maps, extractor, config, device)
    next(carried)  # those given
    for maps in carried:
        yield locate(maps, size, extractor.stride, config, location)


def soft(config: PropagationConfig) -> PropagationConfig:
    """The same, but heat maps are carried as they are.

    An arg-max over joints says nothing, and a map stretched to [0, 1] hides that it is empty.
    """
    return replace(config, feedback="soft", normalise_labels=False)


def on_frame(points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Which of the joints ``(K, 2)`` lie on a frame of ``size`` (H, W), its outer pixels' borders
    included: bool ``(K,)``."""
    if points.dim() != 2 or points.shape[1] != 2 or not points.is_floating_point():
        raise InputError(
            f"expected joints (K, 2) of floating point, got {points.dtype} {tuple(points.shape)}"
        )
    most = torch.tensor([size[1] - 0.5, size[0] - 0.5], device=points.device)
    return ((points >= -0.5) & (points <= most)).all(dim=1)  # NaN compares false


def heat_maps(
    points: torch.Tensor, size: tuple[int, int], stride: int, config: PropagationConfig
) -> torch.Tensor:
    """The heat map of each joint on the feature grid.

    Args:
        points: ``(K, 2)`` joints.
        size: (H, W) of their frame.
        stride: pixels of an encoded frame per cell.
        config: says at which size the frame is encoded.

    Returns:
        ``(K, h, w)`` float32: exp(-d²/2σ²) of the distance d in cells, at most 1; all 0 for a
        missing joint.
    """
    visible = on_frame(points, size)
    encoded = encoded_size(size, config)
    grid = points_to_grid(rescale_points(points.float(), size, encoded), stride)
    cells = cell_centres(*label_grid(size, stride, config)).to(points.device)
    away = cells - grid[:, :, None, None]
    maps = torch.exp(-away.square().sum(dim=1) / (2 * SIGMA**2))
    near = (away.abs() <= REACH * SIGMA).all(dim=1)
    return torch.where(near & visible[:, None, None], maps, 0.0)


def locate(
    maps: torch.Tensor,
    size: tuple[int, int],
    stride: int,
    config: PropagationConfig,
    location: str = "top3",
) -> torch.Tensor:
    """Read joints off their maps.

    Cells of equal value count in row-major order, on every device. Three cells cannot surround
    the one they belong to: a joint at the very centre of a cell is read about 0.1 cell away from
    it, and never more than half a cell from where it was put.

    Args:
        maps: ``(K, h, w)``, no value below 0.
        size: (H, W) of the frame.
        stride: pixels of an encoded frame per cell.
        config: says at which size the frame was encoded.
        location: as in :func:`propagate_keypoints`.

    Returns:
        ``(K, 2)`` float32 on the CPU, within the frame; NaN for a joint that is lost.
    """
    _check_location(location)
    width = maps.shape[2]
    values, cells = maps.flatten(1).sort(dim=1, descending=True, stable=True)
    values, cells = (part[:, : CELLS[location]].cpu().double() for part in (values, cells))
    found = values[:, 0] > LOST
    weights = values / values.sum(dim=1, keepdim=True)
    grid = torch.stack([cells % width, cells.div(width, rounding_mode="floor")], dim=2)
    points = grid_to_points((grid * weights[:, :, None]).sum(dim=1), stride)
    points = rescale_points(points, encoded_size(size, config), size)
    points = points.clamp(torch.zeros(2), torch.tensor([size[1] - 1.0, size[0] - 1.0]))
    return torch.where(found[:, None], points, torch.nan).float()


def rescale_points(
    points: torch.Tensor, old: tuple[int, int], new: tuple[int, int]
) -> torch.Tensor:
    """Where points ``(..., 2)`` go when their frame is resized from ``old`` to ``new`` (H, W)."""
    scale = points.new_tensor([new[1] / old[1], new[0] / old[0]])
    return (points + 0.5) * scale - 0.5


def draw_skeleton(
    frame: torch.Tensor,
    points: torch.Tensor,
    visible: torch.Tensor,
    edges: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """Draw joints as dots and bones as lines.

    Args:
        frame: ``(3, H, W)`` uint8 RGB; not changed.
        points: ``(K, 2)`` joints.
        visible: bool ``(K,)``; neither a joint that is not visible nor its bones are drawn.
        edges: pairs of joints.

    Returns:
        ``(3, H, W)`` uint8 RGB: white bones and orange joints with a dark border, which keeps
        them apart from any background.

    Raises:
        InputError: a frame that is not uint8 RGB, shapes that do not go together, a visible joint
            without a position.
    """
    if frame.dtype != torch.uint8 or frame.dim() != 3 or frame.shape[0] != 3:
        raise InputError(
            f"expected a uint8 frame (3, H, W), got {frame.dtype} {tuple(frame.shape)}"
        )
    if points.shape != (len(visible), 2):
        raise InputError(
            f"expected joints (K, 2) and whether each is visible (K,), got {tuple(points.shape)} "
            f"and {tuple(visible.shape)}"
        )
    if not points[visible.bool()].isfinite().all():
        raise InputError("expected visible joints to have a position, got NaN or infinity")
    frame = frame.cpu()
    places = torch.where(visible.bool()[:, None], points, 0).cpu().round()[None]
    seen = visible.cpu().bool()[None]
    edges = [tuple(edge) for edge in edges]
    line = max(1, round(min(frame.shape[1:]) / 160))
    dot = line + 1

    shape = draw_keypoints(
        torch.zeros_like(frame), places, edges, "white", dot + 1, line + 2, visibility=seen
    )
    drawn = torch.where(shape > 0, frame // 4, frame)
    drawn = draw_keypoints(drawn, places, edges, "white", 0, line, visibility=seen)
    colour = tuple(DISPLAY_COLOURS[1].tolist())
    return draw_keypoints(drawn, places, None, colour, dot, visibility=seen)


def _check_location(location: str) -> None:
    if location not in CELLS:
        raise InputError(f"expected a location among {', '.join(CELLS)}, got {location!r}")
