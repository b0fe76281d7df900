"""Points: where each point of the first frame is in every later one, and whether it is seen there.

A point is carried by matching, not by copying a label: its template is one half the feature at the
query point, which cannot drift, and one half the feature where the point was last, which follows
changes of light and shape. For every frame

1. the template is compared with all cells within the radius M of where the point was; moves of
   more than about M/4 cells are penalised (a Gaussian prior on the motion);
2. around the best cell, features are interpolated on a lattice of 1/8 cell that passes through the
   query's own place within its cell, and a parabola through the best lattice point and its
   neighbours gives the position. So what stands still, or moves by whole cells, is found where it
   is, and other moves are measured to a fraction of a pixel;
3. the feature found there is matched back to the first frame. The share of that affinity which
   returns to within ``RETURN`` cells of the query point is the confidence. It falls when the match
   returns elsewhere (cycle consistency) and when it is spread out (entropy).

On made-up clips with known motion this was compared with heat maps, one a point, propagated like
masks: those drift, because each frame adds its own blur. Tracking any point and its measures:
Doersch et al. 2022, "TAP-Vid"; see :mod:`corrlib.tapvid`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from corrlib.affinity import normalise
from corrlib.errors import InputError
from corrlib.geometry import cell_centres, grid_to_points, points_to_grid
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    encoded_size,
)

VISIBLE = 0.1
"""A point is visible where its confidence is above this; chosen on made-up clips."""

RETURN = 1.5
"""Cells from the query point within which a match back counts as returned."""

MAX_POINTS = 10_000
STEPS = 8  # lattice points per cell and axis
REACH = 2  # cells on each side of the best one that the lattice is interpolated from
BLOCK = 64  # points that are matched at a time


@dataclass(frozen=True)
class PointEstimate:
    """The points of one frame, in the order of the query points; all on the CPU.

    Attributes:
        position: ``(N, 2)`` float32, (x, y) in pixels, within the frame. Also given where the
            point is not visible: the place of the best match.
        visible: ``(N,)`` bool.
        confidence: ``(N,)`` float32 in [0, 1], the share of the affinity that returns to the query.
    """

    position: torch.Tensor
    visible: torch.Tensor
    confidence: torch.Tensor


def track_points(
    frames: Iterable[torch.Tensor],
    points: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[PointEstimate]:
    """Yield the points of every frame; those of the first are as given, visible, confidence 1.

    Each frame is encoded once, when its estimate is asked for, and memory does not grow with the
    length. Points do not influence one another.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        points: ``(N, 2)`` (x, y) on the first frame.
        extractor: features to match.
        config: its radius, top k, temperature and size hold for points; the references of a point
            are always its first and its latest place. A ``short_side`` of twice the frame's own
            makes cells half as large and points more exact, for four times the work.

    Raises:
        InputError: no frames, frames of different sizes, points that are not ``(N, 2)`` numbers,
            or outside the first frame.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError("expected a video of at least 1 frame, got none")
    size = (first.shape[1], first.shape[2])
    points = check_points(points, *size)
    yield PointEstimate(
        points.clone(), torch.ones(len(points), dtype=torch.bool), torch.ones(len(points))
    )
    tracker = _Tracker(first, points, extractor, config or PropagationConfig(), device)
    for frame in frames:
        if tuple(frame.shape[1:]) != size:
            raise InputError(
                f"expected frames of one size, got {size[0]}x{size[1]} first and "
                f"{frame.shape[1]}x{frame.shape[2]} (height x width) later"
            )
        yield tracker.step(frame)


def check_points(points: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Check query points against their frame; returns them as float32 ``(N, 2)`` on the CPU.

    Raises:
        InputError: another shape, none or more than ``MAX_POINTS``, NaN or infinite, or a point
            outside the frame, whose pixels reach from -0.5 to W - 0.5 and H - 0.5.
    """
    points = torch.as_tensor(points).detach().cpu().float()
    if points.dim() != 2 or points.shape[1] != 2 or not len(points):
        raise InputError(f"expected points (N, 2) of x and y, got shape {tuple(points.shape)}")
    if len(points) > MAX_POINTS:
        raise InputError(f"expected at most {MAX_POINTS} points, got {len(points)}; give fewer")
    limit = torch.tensor([width - 0.5, height - 0.5])
    inside = ((points >= -0.5) & (points <= limit)).all(dim=1)  # NaN is not inside
    if not inside.all():
        number = int((~inside).nonzero()[0])
        x, y = points[number].tolist()
        raise InputError(
            f"expected points (x, y) within the {width}x{height} frame, got ({x:g}, {y:g}) as "
            f"point {number}; x is counted from the left and y from the top, in pixels"
        )
    return points


class _Tracker:
    """The state between two frames: where each point is, its templates, and the first frame."""

    @torch.inference_mode()
    def __init__(
        self,
        frame: torch.Tensor,
        points: torch.Tensor,
        extractor: FeatureExtractor,
        config: PropagationConfig,
        device: torch.device | str,
    ):
        self.propagator = Propagator(extractor, config, device)
        self.config, self.stride = self.propagator.config, extractor.stride
        self.size = (frame.shape[1], frame.shape[2])
        self.scale = pixel_scale(self.size, config).to(device)
        self.first = self._encode(frame)
        height, width = self.first.shape[1:]
        self.cells = cell_centres(height, width).flatten(1).T.to(device)  # (h·w, 2), in cells
        self.query = to_cells(points.to(device), self.scale, self.stride)
        self.query_feature = sample(self.first, self.query)
        self.place, self.feature = self.query, self.query_feature

    def _encode(self, frame: torch.Tensor) -> torch.Tensor:
        return normalise(self.propagator.encode(frame))

    @torch.inference_mode()
    def step(self, frame: torch.Tensor) -> PointEstimate:
        features = self._encode(frame)
        blocks = [
            self._match(features, slice(start, start + BLOCK))
            for start in range(0, len(self.query), BLOCK)
        ]
        self.place, confidence = (torch.cat(part) for part in zip(*blocks, strict=True))
        self.feature = sample(features, self.place)
        limit = torch.tensor([self.size[1], self.size[0]]) - 0.5
        position = to_pixels(self.place, self.scale, self.stride).cpu()
        position = torch.minimum(position.clamp(min=-0.5), limit)
        confidence = confidence.cpu()
        return PointEstimate(position, confidence > VISIBLE, confidence)

    def _match(self, features: torch.Tensor, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in cells ``(N, 2)`` and confidence ``(N,)`` of a block of points."""
        query, place = self.query[block], self.place[block]
        template = (self.query_feature[block] + self.feature[block]) / 2
        scores = template @ features.flatten(1)  # (N, h·w)
        radius, temperature = self.config.radius, self.config.temperature
        if radius is not None:
            moved = self._distance(place)
            scores = scores - temperature / 2 * (moved.square().sum(-1) / (radius / 4) ** 2)
            near = self._distance(place.round()).abs().amax(dim=-1) <= radius
            scores = scores.masked_fill(~near, -torch.inf)
        best = self.cells[scores.max(dim=1)[1]]
        found = refine(features, template, best, query, place)

        back = sample(features, found) @ self.first.flatten(1)
        offset = self._distance(query)
        if radius is not None:
            back = back.masked_fill(offset.abs().amax(dim=-1) > radius + 0.5, -torch.inf)
        k = back.shape[1] if self.config.topk is None else min(self.config.topk, back.shape[1])
        value, index = back.topk(k, dim=1)
        returned = offset.norm(dim=-1).gather(1, index) <= RETURN
        affinity = (value / temperature).softmax(dim=1)
        return found, (affinity * returned).sum(dim=1).clamp(max=1)

    def _distance(self, place: torch.Tensor) -> torch.Tensor:
        """From places ``(N, 2)`` to all cells, ``(N, h·w, 2)``, in cells."""
        return self.cells - place[:, None]


def pixel_scale(size: tuple[int, int], config: PropagationConfig) -> torch.Tensor:
    """Encoded pixels per pixel of a frame of ``size`` (H, W): (x, y)."""
    height, width = encoded_size(size, config)
    return torch.tensor([width / size[1], height / size[0]])


def to_cells(points: torch.Tensor, scale: torch.Tensor, stride: int) -> torch.Tensor:
    """Pixels of the original frame ``(..., 2)`` to cells; ``scale`` is of :func:`pixel_scale`."""
    return points_to_grid((points + 0.5) * scale - 0.5, stride)


def to_pixels(cells: torch.Tensor, scale: torch.Tensor, stride: int) -> torch.Tensor:
    """Cells ``(..., 2)`` to pixels of the original frame, the inverse of :func:`to_cells`."""
    return (grid_to_points(cells, stride) + 0.5) / scale - 0.5


def sample(features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Unit features ``(N, C)`` at places ``(N, 2)`` in cells, bilinear, the edge repeated."""
    low = places.floor()
    x, y = (places - low).unbind(dim=1)
    corners = _crop(features, low.long(), 0, 1)  # (N, 2, 2, C)
    weight_y = torch.stack([1 - y, y], dim=1)
    weight_x = torch.stack([1 - x, x], dim=1)
    mean = torch.einsum("ni,nj,nijc->nc", weight_y, weight_x, corners)
    return torch.nn.functional.normalize(mean, dim=1)


def refine(
    features: torch.Tensor,
    template: torch.Tensor,
    best: torch.Tensor,
    phase: torch.Tensor,
    last: torch.Tensor,
) -> torch.Tensor:
    """The place around a best cell whose interpolated feature is most like the template.

    Args:
        features: unit features ``(C, h, w)``.
        template: ``(N, C)``.
        best: ``(N, 2)`` cells.
        phase: places ``(N, 2)``; the lattice holds those at a distance of whole cells from them.
        last: places ``(N, 2)``, of which the nearest is taken where the edge repeats itself.

    Returns:
        Places ``(N, 2)`` in cells.
    """
    steps = torch.arange(-STEPS, STEPS + 1, device=best.device) / STEPS
    offset = (phase - best) - (phase - best).round()  # of the lattice's middle, at most 1/2
    lattice = offset[:, :, None] + steps  # (N, 2, S), from the best cell
    cells = torch.arange(-REACH, REACH + 1, device=best.device)
    weight = (1 - (lattice[..., None] - cells).abs()).clamp(min=0)  # (N, 2, S, cells)
    crop = _crop(features, best.long(), -REACH, REACH).flatten(1, 2)  # (N, cells², C)
    # An interpolated feature Σ w f has the product Σ w (f·t) with the template, and the squared
    # length wᵀ (f fᵀ) w: neither needs the features themselves at every lattice point.
    mix = (weight[:, 1, :, None, :, None] * weight[:, 0, None, :, None, :]).flatten(3)
    mix = mix.flatten(1, 2)  # (N, S², cells²)
    length = ((mix @ (crop @ crop.transpose(1, 2))) * mix).sum(-1).clamp_min(1e-12).sqrt()
    score = (mix @ (crop @ template[..., None]))[..., 0] / length
    score = score.unflatten(1, (len(steps), len(steps)))
    places = best[:, :, None] + lattice  # (N, 2, S)
    x, y = (places - last[:, :, None]).square().unbind(dim=1)
    score = score - 1e-5 * (y[:, :, None] + x[:, None])
    # The outermost lattice points serve as neighbours only.
    inner = score[:, 1:-1, 1:-1].flatten(1).max(dim=1)[1]
    row, column = inner // (len(steps) - 2) + 1, inner % (len(steps) - 2) + 1
    every = torch.arange(len(best), device=best.device)
    middle = score[every, row, column]
    across = _vertex(score[every, row, column - 1], middle, score[every, row, column + 1])
    down = _vertex(score[every, row - 1, column], middle, score[every, row + 1, column])
    found = torch.stack([places[every, 0, column], places[every, 1, row]], dim=1)
    height, width = features.shape[1:]
    limit = torch.tensor([width, height], device=best.device) - 0.5
    found = found + torch.stack([across, down], dim=1) / STEPS
    return torch.minimum(found.clamp(min=-0.5), limit)


def _vertex(before: torch.Tensor, middle: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the parabola through three values at -1, 0, 1 is highest, at most 1/2 away."""
    curvature = before - 2 * middle + after
    vertex = (before - after) / (2 * curvature)
    return torch.where(curvature < -1e-6, vertex, 0).clamp(-0.5, 0.5)


def _crop(features: torch.Tensor, cells: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Features around cells ``(N, 2)``: ``(N, high - low + 1, high - low + 1, C)``, edges
    repeated."""
    height, width = features.shape[1:]
    span = torch.arange(low, high + 1, device=cells.device)
    x = (cells[:, 0, None] + span).clamp(0, width - 1)
    y = (cells[:, 1, None] + span).clamp(0, height - 1)
    return features.permute(1, 2, 0)[y[:, :, None], x[:, None, :]]


def confidence_colours(confidence: torch.Tensor) -> np.ndarray:
    """Confidence ``(N,)`` in [0, 1] to RGB ``(N, 3)`` uint8 of viridis, dark to bright.

    Colour-blind readers can tell its order, too.
    """
    levels = (confidence.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    colours = cv2.applyColorMap(levels.numpy().reshape(-1, 1), cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(colours[:, 0, ::-1])


def draw_tracks(
    frame: torch.Tensor,
    history: torch.Tensor,
    visible: torch.Tensor,
    confidence: torch.Tensor,
) -> torch.Tensor:
    """Draw points and the way they came over a frame.

    Args:
        frame: uint8 ``(3, H, W)``; not changed.
        history: ``(T, N, 2)`` positions (x, y) up to this frame, the last are this frame's. The
            tail is drawn through all of them.
        visible: ``(N,)`` bool: a filled dot where true, a hollow one where not.
        confidence: ``(N,)`` in [0, 1]: the colour, see :func:`confidence_colours`.

    Returns:
        uint8 ``(3, H, W)``.
    """
    number = history.shape[1] if history.dim() == 3 else -1
    if history.dim() != 3 or history.shape[2] != 2 or not len(history):
        raise InputError(f"expected positions (T, N, 2) to draw, got {tuple(history.shape)}")
    if visible.shape != (number,) or confidence.shape != (number,):
        raise InputError(
            f"expected visible and confidence of {number} points, got shapes "
            f"{tuple(visible.shape)} and {tuple(confidence.shape)}"
        )
    canvas = to_canvas(frame)
    radius = max(2, round(min(canvas.shape[:2]) / 110))
    thickness = max(1, radius // 2)
    colours = confidence_colours(confidence).tolist()
    paths = _fixed(history.permute(1, 0, 2))
    for path, colour in zip(paths, colours, strict=True):
        cv2.polylines(canvas, [path], False, colour, thickness, cv2.LINE_AA, shift=_SHIFT)
    unit = 1 << _SHIFT
    for path, colour, seen in zip(paths, colours, visible.tolist(), strict=True):
        centre = tuple(int(part) for part in path[-1])
        # A dark rim and a white ring keep any colour apart from any background.
        if seen:
            rings = ((radius + 2, (255, 255, 255), -1), (radius + 1, (0, 0, 0), -1))
            rings += ((radius, colour, -1),)
        else:
            rings = ((radius + 1, (0, 0, 0), thickness + 2), (radius + 1, colour, thickness))
        for size, paint, fill in rings:
            cv2.circle(canvas, centre, size * unit, paint, fill, cv2.LINE_AA, shift=_SHIFT)
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


_SHIFT = 3  # bits after the point in coordinates for OpenCV


def _fixed(points: torch.Tensor) -> np.ndarray:
    """Coordinates as OpenCV's fixed-point integers, kept in a range that it draws."""
    points = torch.nan_to_num(points.detach().cpu().float()).clamp(-10_000, 100_000)
    return (points * (1 << _SHIFT)).round().to(torch.int32).contiguous().numpy()


def to_canvas(frame: torch.Tensor) -> np.ndarray:
    """A uint8 frame ``(3, H, W)`` as a new ``(H, W, 3)`` array to draw upon."""
    if frame.dtype != torch.uint8 or frame.dim() != 3 or frame.shape[0] != 3:
        raise InputError(
            f"expected a uint8 frame (3, H, W) to draw on, got {frame.dtype} {tuple(frame.shape)}"
        )
    return np.array(frame.cpu().permute(1, 2, 0).numpy(), order="C")
