"""Points: where each point of the first frame is in every later one, and whether it is seen there.

A point is carried by matching, not by copying a label: its template is one half the feature at the
query point, which cannot drift, and one half the feature where the point was last, which follows
changes of light and shape. For every frame

1. the template is compared with all places within the radius M of where the point was that lie
   within their cell as the query point in its own, features interpolated between the cells; moves
   of more than about M/4 cells are penalised (a Gaussian prior on the motion);
2. around the best place it is compared with those on a lattice of 1/4 cell, and around the best of
   them on one of 1/32 cell. So what stands still, or moves by whole cells, is found where it is,
   and other moves are measured to a fraction of a pixel;
3. the feature found there is matched back to the first frame in the same way. The share of that
   affinity (softmax of the top k) which returns to within ``RETURN`` cells of the query point is
   the confidence. It falls when the match returns elsewhere (cycle consistency) and when it is
   spread out (entropy).

On made-up clips with known motion this was compared with heat maps, one a point, propagated like
masks, which drift because each frame adds its own blur, and with the query's feature or the latest
one alone. Taking the latest feature only while the point is visible made it worse, too. What it
cannot do: a point that strays while it is covered, to something alike that stands still, may stay
there. Tracking any point and its measures: Doersch et al. 2022, "TAP-Vid"; see
:mod:`corrlib.tapvid`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from corrlib.affinity import normalise
from corrlib.errors import InputError
from corrlib.geometry import grid_to_points, of_one_size, points_to_grid
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    encoded_size,
)

VISIBLE = 0.15
"""A point is visible where its confidence is above this; chosen on made-up clips."""

RETURN = 1.5
"""Cells from the query point within which a match back counts as returned."""

MAX_POINTS = 10_000
LATTICES = ((1, 4), (1 / 4, 8))  # each: reach in cells, steps to it
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
    frames = of_one_size(frames)
    first = next(frames)
    size = (first.shape[1], first.shape[2])
    points = check_points(points, *size)
    yield PointEstimate(
        points.clone(), torch.ones(len(points), dtype=torch.bool), torch.ones(len(points))
    )
    tracker = _Tracker(first, points, extractor, config or PropagationConfig(), device)
    for frame in frames:
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
        self.first = Field(self._encode(frame))
        self.query = to_cells(points.to(device), self.scale, self.stride)
        self.query_feature = sample(self.first.features, self.query)
        self.place, self.feature = self.query, self.query_feature

    def _encode(self, frame: torch.Tensor) -> torch.Tensor:
        return normalise(self.propagator.encode(frame))

    @torch.inference_mode()
    def step(self, frame: torch.Tensor) -> PointEstimate:
        field = Field(self._encode(frame))
        blocks = [
            self._match(field, slice(start, start + BLOCK))
            for start in range(0, len(self.query), BLOCK)
        ]
        self.place, confidence = (torch.cat(part) for part in zip(*blocks, strict=True))
        self.feature = sample(field.features, self.place)
        limit = torch.tensor([self.size[1], self.size[0]]) - 0.5
        position = to_pixels(self.place, self.scale, self.stride).cpu()
        position = torch.minimum(position.clamp(min=-0.5), limit)
        confidence = confidence.cpu()
        return PointEstimate(position, confidence > VISIBLE, confidence)

    def _match(self, field: Field, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in cells ``(N, 2)`` and confidence ``(N,)`` of a block of points."""
        query, place = self.query[block], self.place[block]
        phase = query - query.floor()
        template = (self.query_feature[block] + self.feature[block]) / 2
        radius, temperature = self.config.radius, self.config.temperature
        scores = field.compare(template, phase)  # (N, rows, columns)
        if radius is not None:
            x, y = field.offsets(phase, place)
            prior = temperature / 2 / (radius / 4) ** 2
            x, y = (
                (prior * part.square()).masked_fill(part.abs() > radius + 0.5, torch.inf)
                for part in (x, y)
            )
            scores = scores - (y[:, :, None] + x[:, None])
        found = refine(field.features, template, field.places(scores, phase))

        back = self.first.compare(sample(field.features, found), phase)
        x, y = self.first.offsets(phase, query)
        offset = torch.maximum(y.abs()[:, :, None], x.abs()[:, None]).flatten(1)
        back = back.flatten(1)
        if radius is not None:
            back = back.masked_fill(offset > radius + 0.5, -torch.inf)
        k = back.shape[1] if self.config.topk is None else min(self.config.topk, back.shape[1])
        value, index = back.topk(k, dim=1)
        affinity = (value / temperature).softmax(dim=1)
        returned = offset.gather(1, index) <= RETURN
        return found, (affinity * returned).sum(dim=1).clamp(max=1)


class Field:
    """Unit features ``(C, h, w)`` of a frame, compared between their cells as well as at them.

    A template is compared with the features interpolated at all places ``(u + φx, v + φy)``, u
    from -1 to w - 1 and v from -1 to h - 1, with the edge repeated. An interpolated feature Σ w f
    of four cells has the product Σ w (f·t) with the template and the squared length Σ w w' (f·f'),
    so it never has to be made: the products of neighbouring cells are enough.
    """

    def __init__(self, features: torch.Tensor):
        self.features = features
        padded = F.pad(features[None], (1, 1, 1, 1), mode="replicate")[0]
        corners = [padded[:, i : i + features.shape[1] + 1] for i in (0, 1)]
        corners = [row[:, :, j : j + features.shape[2] + 1] for row in corners for j in (0, 1)]
        self.products = torch.stack(
            [(corners[i] * corners[j]).sum(0) for i, j in itertools.combinations(range(4), 2)]
        )

    def compare(self, templates: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Cosines of templates ``(N, C)`` at phases ``(N, 2)`` in [0, 1): ``(N, h + 1, w + 1)``,
        times the length of the template."""
        x, y = phase[:, 0, None, None], phase[:, 1, None, None]
        dots = (templates @ self.features.flatten(1)).unflatten(1, self.features.shape[1:])
        dots = F.pad(dots, (1, 1, 1, 1), mode="replicate")
        dots = torch.lerp(dots[:, :-1], dots[:, 1:], y)
        dots = torch.lerp(dots[:, :, :-1], dots[:, :, 1:], x)
        weights = torch.cat([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], dim=1)[..., 0]
        pairs = [weights[:, i] * weights[:, j] for i, j in itertools.combinations(range(4), 2)]
        length = 2 * torch.stack(pairs, dim=1) @ self.products.flatten(1)
        length = length + weights.square().sum(dim=1, keepdim=True)
        return dots / length.clamp_min(1e-6).sqrt().view_as(dots)

    def places(self, scores: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Where scores ``(N, h + 1, w + 1)`` of :meth:`compare` are largest: ``(N, 2)`` cells."""
        best = scores.flatten(1).max(dim=1)[1]
        columns = scores.shape[2]
        return torch.stack([best % columns, best // columns], dim=1) - 1 + phase

    def offsets(
        self, phase: torch.Tensor, place: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From places ``(N, 2)`` to those compared: x ``(N, w + 1)`` and y ``(N, h + 1)``."""
        height, width = self.features.shape[1:]
        sides = (torch.arange(-1, side, device=place.device) for side in (width, height))
        x, y = (side + phase[:, i, None] - place[:, i, None] for i, side in enumerate(sides))
        return x, y


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
    corners = _crop(features, low.long(), 2)  # (N, 2, 2, C)
    weight_y = torch.stack([1 - y, y], dim=1)
    weight_x = torch.stack([1 - x, x], dim=1)
    mean = torch.einsum("ni,nj,nijc->nc", weight_y, weight_x, corners)
    return F.normalize(mean, dim=1)


def refine(features: torch.Tensor, template: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The place near a given one whose interpolated feature is most like the template.

    Args:
        features: unit features ``(C, h, w)``.
        template: ``(N, C)``.
        places: ``(N, 2)`` in cells. Among equals the nearest wins: beyond the centres of the
            outermost cells all places are alike.

    Returns:
        ``(N, 2)`` in cells, within the map.
    """
    height, width = features.shape[1:]
    limit = torch.tensor([width, height], device=places.device) - 0.5
    for reach, steps in LATTICES:
        offset = torch.linspace(-reach, reach, 2 * steps + 1, device=places.device)
        lattice = places[:, :, None] + offset  # (N, 2, S)
        first = lattice[:, :, 0].floor()
        cells = torch.arange(math.ceil(2 * reach) + 2, device=places.device)
        weight = (lattice - first[:, :, None])[..., None] - cells
        weight = (1 - weight.abs()).clamp(min=0)  # (N, 2, S, cells)
        crop = _crop(features, first.long(), len(cells)).flatten(1, 2)  # (N, cells², C)
        # As in Field: lengths of interpolated features from the products of the cells'.
        mix = weight[:, 1, :, None, :, None] * weight[:, 0, None, :, None, :]
        mix = mix.flatten(3).flatten(1, 2)  # (N, S², cells²)
        length = ((mix @ (crop @ crop.transpose(1, 2))) * mix).sum(-1).clamp_min(1e-6).sqrt()
        score = (mix @ (crop @ template[..., None]))[..., 0] / length
        score = score - 1e-3 * (offset.square()[:, None] + offset.square()).flatten()
        best = score.max(dim=1)[1]
        found = torch.stack([offset[best % len(offset)], offset[best // len(offset)]], dim=1)
        places = torch.minimum((places + found).clamp(min=-0.5), limit)
    return places


def _crop(features: torch.Tensor, first: torch.Tensor, count: int) -> torch.Tensor:
    """Features of ``count`` x ``count`` cells from cells ``(N, 2)`` on: ``(N, count, count, C)``,
    the edge repeated."""
    height, width = features.shape[1:]
    span = torch.arange(count, device=first.device)
    x = (first[:, 0, None] + span).clamp(0, width - 1)
    y = (first[:, 1, None] + span).clamp(0, height - 1)
    return features.permute(1, 2, 0)[y[:, :, None], x[:, None, :]]


def confidence_colours(confidence: torch.Tensor) -> np.ndarray:
    """Confidence ``(N,)`` in [0, 1] to RGB ``(N, 3)`` uint8 of viridis, dark to bright.

    Colour-blind readers can tell its order, too.
    """
    levels = (confidence.detach().cpu().float().clamp(0, 1) * 255).round().long().numpy()
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)
    return ramp[:, 0, ::-1][levels]


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
            rings = ((radius + 2, (0, 0, 0), thickness + 2), (radius + 2, colour, thickness))
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
