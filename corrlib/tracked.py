"""Inference with tracking: find each object's box first, then match inside it (Li et al. 2019, §3).

The frame is not read whole. Each object has a *window* of its own, its box with a margin, which
follows it from frame to frame, and masks are carried from window to window by the engine of
:mod:`corrlib.propagation`. So nothing far away is taken for the object; cells are compared by where
they are in their windows, which makes the radius follow the motion (as in MAMP, 2021); and where
the object is small, part of the work saved is spent on smaller cells: windows are enlarged before
they are encoded.

For every frame and object

1. the window is put where the box is expected, encoded and matched. The box is read from where the
   object's pixels are found: their mean, and twice their mean absolute deviation
   (:func:`corrlib.regions.boxes_from_coordinates`). Its sides change by a bounded factor per frame;
2. if the box is found away from the middle, the window is moved there and matched again;
3. an object of which too little is found is lost. It is searched in the whole frame, which is read
   for that as it is without tracking, by its pixels on the first frame, and followed again from
   where its window shows it. What it looked like when it was last seen is remembered until then;
4. where the box has grown or shrunk so far that another window fits it better, the references are
   read anew in windows of that kind: the first frame and the latest.

A window lies on the frame's grid of its cells, so what stands still is read alike on every frame.
An object that is too large for a window has the whole frame, and is carried as without tracking.
Objects are carried independently of one another; a pixel belongs to the one whose soft label is
largest, unless it is more likely to belong to none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from corrlib.geometry import cell_centres, of_one_size
from corrlib.masks import VOID, check_mask, mask_array
from corrlib.propagation import (
    NATIVE_SHORT_SIDE,
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    check_memory,
    encoded_size,
    harden,
    mask_to_labels,
    stretch,
)
from corrlib.regions import LOST, boxes_from_coordinates
from corrlib.stages import stage

SHARE = 0.5
"""A window has at most this share of the cells that the whole frame has without tracking."""

ENLARGE = 2.67
"""The cells of a window are at most so many times smaller, per axis, than those."""

MARGIN, MARGIN_CELLS = 0.3, 8
"""On each side of the box: this share of its longer side, and at least so many cells."""

GROWTH = 1.1
"""The factor by which a side of the box may change from one frame to the next."""

LARGER, SMALLER = 1.25, 0.7
"""How far the sides of the box change before another window is considered."""

AHEAD = 0.5
"""The share of its latest motion that a box is expected to repeat."""

MOVED = 4
"""Cells between where a window is and where its box wants it for the frame to be read again."""

FIRM = 0.25
"""The share of the most certain cell from which on a cell counts for the box."""

GONE = 0.3
"""An object is lost where its area falls to this share of what it was."""


@dataclass(frozen=True)
class Window:
    """A rectangle of the grid of cells of a frame. It may stick out of it below and on the right.

    Attributes:
        size: height and width of the frame in pixels.
        cell: pixels per cell and axis.
        shape: rows and columns of cells.
        origin: its first row and column on the grid.
    """

    size: tuple[int, int]
    cell: int
    shape: tuple[int, int]
    origin: tuple[int, int] = (0, 0)

    @property
    def whole(self) -> bool:
        """Whether it shows the whole frame."""
        return self.shape == _cells(self.size, self.cell)

    def around(self, centre: torch.Tensor) -> Window:
        """The same moved so that its middle is as near to a pixel (x, y) as the frame allows."""
        origin = []
        middle = (centre.flip(0) + 0.5).tolist()
        for pixel, most, cells in zip(
            middle, _cells(self.size, self.cell), self.shape, strict=True
        ):
            origin.append(min(max(round(pixel / self.cell - cells / 2), 0), max(most - cells, 0)))
        return replace(self, origin=tuple(origin))

    def distance(self, other: Window) -> int:
        """Cells to the same window elsewhere, along the axis on which it is further away."""
        return max(abs(a - b) for a, b in zip(self.origin, other.origin, strict=True))

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """Its pixels ``(..., rows · cell, columns · cell)`` of an image ``(..., H, W)``.

        Outside the image its last row and column are repeated.
        """
        axes = zip((-2, -1), self.origin, self.shape, self.size, strict=True)
        for axis, first, cells, side in axes:
            pixels = torch.arange(first * self.cell, (first + cells) * self.cell)
            image = image.index_select(axis, pixels.clamp(max=side - 1))
        return image

    def labels(self, share: torch.Tensor) -> torch.Tensor:
        """Of each cell what is none of the object's and what is, ``(2, rows, columns)``; the
        object's share of each pixel is ``(H, W)``."""
        share = F.avg_pool2d(self.cut(share)[None], self.cell)[0]
        return torch.stack([1 - share, share])

    def pixels(self, labels: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, slice]]:
        """Labels ``(L, rows, columns)`` at the pixels that it shows, and which pixels these are."""
        fine = F.interpolate(labels[None], scale_factor=self.cell, mode="bilinear")[0]
        top, left = (first * self.cell for first in self.origin)
        fine = fine[:, : self.size[0] - top, : self.size[1] - left]
        return fine, (slice(top, top + fine.shape[1]), slice(left, left + fine.shape[2]))

    def box(self, share: torch.Tensor) -> torch.Tensor:
        """The box x0, y0, x1, y1 in pixels of the frame, of shares ``(rows, columns)``.

        NaN if there is nothing.
        """
        first = torch.tensor(self.origin).flip(0)[:, None, None]
        places = cell_centres(*self.shape, self.cell) + self.cell * first
        firm = torch.where(share >= FIRM * share.max(), share, 0)
        return boxes_from_coordinates(places, firm[None], self.size, (self.cell, self.cell))[0]


def fitting_window(
    box: torch.Tensor, size: tuple[int, int], stride: int, config: PropagationConfig
) -> Window:
    """The window for a box: that with the smallest cells among those with few enough of them.

    Args:
        box: ``(4,)`` x0, y0, x1, y1 in pixels.
        size: height and width of the frame.
        stride: of the features.
        config: its ``short_side`` decides how large cells are without tracking.

    Returns:
        a window around the box; where none has at most ``SHARE`` of the cells, the whole frame.
    """
    encoded = encoded_size(size, config)
    pixels = min(size) * stride / min(encoded)  # per cell without tracking
    largest, smallest = max(1, int(pixels)), max(1, round(pixels / ENLARGE))
    limit = SHARE * math.prod(encoded) / stride**2
    sides = _sides(box).flip(0).tolist()
    for cell in range(smallest, largest + 1):
        margin = max(MARGIN * max(sides), MARGIN_CELLS * cell)
        room = tuple(math.ceil((side + 2 * margin) / cell) for side in sides)
        shape = tuple(map(min, room, _cells(size, cell)))
        if math.prod(shape) <= limit:
            return Window(size, cell, shape).around(_centre(box))
    return Window(size, largest, _cells(size, largest))


def propagate_tracked(
    frames: Iterable[torch.Tensor],
    mask: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """Yield a mask for every frame; the first is the one given.

    The work per frame is that of the objects' windows, each at most half of what whole frames
    take, or a whole frame for an object too large for that; it adds up over objects.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        mask: ``(H, W)`` uint8 ids of the objects on the first frame, 0 is background.
        extractor, config, device: as for :func:`corrlib.propagation.propagate_mask`. The radius is
            in the cells of windows.

    Yields:
        ``(H, W)`` uint8 masks on the CPU.

    Raises:
        InputError: as :func:`corrlib.propagation.propagate_mask`.
    """
    config = config or PropagationConfig()
    frames = of_one_size(frames)
    first = next(frames)
    size = tuple(first.shape[1:])
    objects = check_mask(mask, *size)
    check_memory(size, objects, extractor, held(mask, extractor, config), device)
    yield mask
    tracked = {
        number: _Tracked(first, share, extractor, config, device)
        for number, share in _objects(mask).items()
    }
    search = _Search(first, mask, extractor, config, device)
    for frame in frames:
        seen = {number: one.step(frame) for number, one in tracked.items()}
        lost = [number for number, found in seen.items() if found is None]
        if lost:
            for number, centre in search.centres(frame, lost).items():
                seen[number] = tracked[number].step(frame, centre)
        yield _merged(seen, size)


def held(
    mask: torch.Tensor, extractor: FeatureExtractor, config: PropagationConfig
) -> PropagationConfig:
    """The configuration whose references, of whole frames, need as much memory as the windows."""
    size = tuple(mask.shape)
    cells = 0.0
    for share in _objects(mask).values():
        window = fitting_window(_frame(size).box(share), size, extractor.stride, config)
        cells += math.prod(window.shape)
    whole = math.prod(encoded_size(size, config)) / extractor.stride**2
    count = config.first + config.references + config.long_term
    return replace(config, references=math.ceil(count * cells / whole))


def _merged(
    seen: dict[int, tuple[Window, torch.Tensor] | None], size: tuple[int, int]
) -> torch.Tensor:
    """The most likely id of every pixel, of windows and labels ``(2, rows, columns)`` by id."""
    with stage("upsample"):
        none, most = torch.ones(size), torch.zeros(size)
        ids = torch.zeros(size, dtype=torch.uint8)
        for number, found in seen.items():
            if found is None:
                continue
            (rest, share), where = found[0].pixels(found[1].cpu())
            ids[where] = torch.where(share > most[where], number, ids[where])
            most[where] = torch.maximum(share, most[where])
            none[where] *= rest
        return torch.where(most > none, ids, 0)


class _Tracked:
    """What is carried of one object: its box, its window, and the references read in windows.

    Args:
        frame: the first, ``(3, H, W)`` uint8.
        share: the object's share of each of its pixels, ``(H, W)``.
    """

    def __init__(
        self,
        frame: torch.Tensor,
        share: torch.Tensor,
        extractor: FeatureExtractor,
        config: PropagationConfig,
        device: torch.device | str,
    ):
        self.extractor, self.config, self.device = extractor, config, device
        self.first = (frame, share)
        self.box = _frame(tuple(share.shape)).box(share)
        self.motion = torch.zeros(2)
        self._read([self.first])
        self.area = self._area(self.window, self.window.labels(share)[1])

    @torch.inference_mode()
    def step(
        self, frame: torch.Tensor, centre: torch.Tensor | None = None
    ) -> tuple[Window, torch.Tensor] | None:
        """Find the object on the next frame, ``(3, H, W)`` uint8.

        Args:
            centre: where to look, (x, y); by default where it is expected.

        Returns:
            its window there with the labels ``(2, rows, columns)`` of what is none of the object's
            and what is, or ``None`` while it is lost.
        """
        if centre is None:
            centre = _centre(self.box) + AHEAD * self.motion
        window = self.window.around(centre)
        features, labels, share = self._look(frame, window)
        if self._seen(window, share):
            there = window.around(_centre(window.box(share)))
            if there.distance(window) >= MOVED:
                window = there
                features, labels, share = self._look(frame, window)
        seen = self._seen(window, share)
        if not seen and not window.whole:
            self.motion = torch.zeros(2)
            return None
        labels = self._remember(features, labels)
        if seen:
            self._follow(window.box(share), self._area(window, share))
        self.window = window
        self._refit(frame, labels)
        return window, labels

    def _read(self, references: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Choose the window for the box, and read references in it, frames and shares."""
        size = tuple(self.first[1].shape)
        self.fitted = _sides(self.box)
        self.window = fitting_window(self.box, size, self.extractor.stride, self.config)
        side = min(self.window.shape) * self.extractor.stride
        # Windows are cut at the size at which they are encoded.
        config = replace(self.config, short_side=side if side > NATIVE_SHORT_SIDE else None)
        self.propagator = Propagator(self.extractor, config, self.device)
        for frame, share in references:
            window = self.window.around(_centre(_frame(size).box(share)))
            labels = window.labels(share)
            if self.propagator.memory is None:
                self.least = LOST * labels[1].max()
                self.propagator.start(self._cut(frame, window), labels)
            else:
                features = self.propagator.encode(self._cut(frame, window))
                self.propagator.memory.add(features, labels.to(self.device))

    def _refit(self, frame: torch.Tensor, labels: torch.Tensor) -> None:
        """Take another window if that fits the box better by now."""
        change = (_sides(self.box) / self.fitted).max()
        if SMALLER <= change <= LARGER:
            return
        window = fitting_window(self.box, self.window.size, self.extractor.stride, self.config)
        if (window.cell, window.shape) != (self.window.cell, self.window.shape):
            share = torch.zeros(window.size)
            fine, where = self.window.pixels(labels.cpu())
            share[where] = fine[1]
            self._read([self.first, (frame, share)])

    def _look(
        self, frame: torch.Tensor, window: Window
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, labels, and the object's share on the CPU of a window's cells."""
        features = self.propagator.encode(self._cut(frame, window))
        labels = self.propagator.memory.carry(features)
        return features, labels, labels[1].cpu()

    def _cut(self, frame: torch.Tensor, window: Window) -> torch.Tensor:
        """What a window shows of a frame, a stride's pixels per cell."""
        part, stride = window.cut(frame), self.extractor.stride
        if window.cell == stride:
            return part
        size = [cells * stride for cells in window.shape]
        return F.interpolate(part[None], size, mode="bilinear", antialias=True)[0]

    def _area(self, window: Window, share: torch.Tensor) -> torch.Tensor:
        """The area in pixels of the cells that belong to the object beyond doubt."""
        return torch.where(share > self.least, share, 0).sum() * window.cell**2

    def _seen(self, window: Window, share: torch.Tensor) -> bool:
        """Whether enough of the object is found to follow it."""
        return bool(self._area(window, share) > GONE * self.area)

    def _follow(self, box: torch.Tensor, area: torch.Tensor) -> None:
        """Take a box that was found, its sides not too far from what they were."""
        before, centre = _sides(self.box), _centre(box)
        sides = torch.minimum(torch.maximum(_sides(box), before / GROWTH), before * GROWTH)
        self.motion = centre - _centre(self.box)
        self.area = torch.maximum(area, self.area / GROWTH**2)
        self.box = torch.cat([centre - sides / 2, centre + sides / 2])

    def _remember(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add a window to the references; the labels as they are read."""
        copied = labels
        if self.propagator.config.normalise_labels:
            labels = stretch(labels)
        if self.propagator.config.feedback == "hard":
            stride = self.extractor.stride
            copied = harden(labels, [cells * stride for cells in labels.shape[1:]], stride)
        self.propagator.memory.add(features, copied)
        return labels


class _Search:
    """Looks for objects in whole frames by the first one, from the first time that one is lost."""

    def __init__(
        self,
        frame: torch.Tensor,
        mask: torch.Tensor,
        extractor: FeatureExtractor,
        config: PropagationConfig,
        device: torch.device | str,
    ):
        self.first = (frame, mask)
        self.config = replace(
            config, first=True, references=0, long_term=0, radius=None, first_radius="same"
        )
        self.propagator = Propagator(extractor, self.config, device)

    @torch.inference_mode()
    def centres(self, frame: torch.Tensor, numbers: list[int]) -> dict[int, torch.Tensor]:
        """Where, (x, y) in pixels, those of some objects are that are found."""
        frame_one, mask = self.first
        stride = self.propagator.extractor.stride
        if self.propagator.memory is None:
            self.labels = mask_to_labels(mask, stride, self.config)
            self.propagator.start(frame_one, self.labels)
        found = self.propagator.memory.carry(self.propagator.encode(frame)).cpu()
        encoded = encoded_size(tuple(mask.shape), self.config)
        scale = torch.tensor([mask.shape[1] / encoded[1], mask.shape[0] / encoded[0]])
        centres = {}
        for number in numbers:
            if found[number].max() <= LOST * self.labels[number].max():
                continue
            # Where most of it is in a square of about the object's area.
            side = 2 * (math.isqrt(int(self.labels[number].sum())) // 2) + 1
            inside = F.avg_pool2d(found[number][None], side, stride=1, padding=side // 2)[0]
            row, column = divmod(int(inside.argmax()), inside.shape[1])
            cell = torch.tensor([column, row])
            centres[number] = (cell * stride + stride / 2) * scale - 0.5
        return centres


def _objects(mask: torch.Tensor) -> dict[int, torch.Tensor]:
    """The share ``(H, W)`` of every pixel that each object has, by id."""
    ids = torch.from_numpy(mask_array(mask))
    numbers = [number for number in ids.unique().tolist() if number not in (0, VOID)]
    return {number: (ids == number).float() for number in numbers}


def _frame(size: tuple[int, int]) -> Window:
    """The window whose cells are the pixels of the frame."""
    return Window(size, 1, size)


def _cells(size: tuple[int, int], cell: int) -> tuple[int, int]:
    return tuple(-(-side // cell) for side in size)


def _centre(box: torch.Tensor) -> torch.Tensor:
    return (box[:2] + box[2:]) / 2


def _sides(box: torch.Tensor) -> torch.Tensor:
    return box[2:] - box[:2]
