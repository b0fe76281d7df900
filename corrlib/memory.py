"""The references a video is matched against, and the search for the best cells in them.

Kept are the frames whose labels were given (the first one, and those on which objects were added),
the latest N, and a bounded number of older ones spaced over the past. The same result, written
slowly, is in :mod:`corrlib.propagation_reference`.

Target cells are cut into tiles. A tile's cells look into one *window* of a reference: all cells
that one of them may reach, moved inside the image where it would stick out. A reference is cut into
vertical strips, one per column of tiles, once, when it enters the memory; the window of a tile is
then a contiguous part of its strip, and the scores of a row of tiles are one batched matrix product
per reference. The top k over all references together are found exactly in two steps: the k best
cells lie at the k window positions whose maxima over the references are largest, so only those
positions are searched. Which of several equal scores is kept at the k-th place is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.profiler import record_function

if TYPE_CHECKING:
    from corrlib.propagation import PropagationConfig

TILE = 8
WORKSPACE_BYTES = 128 * 2**20
"""Upper bound of the temporary memory of a search; the least is one tile with its windows."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Windows:
    """Which window of a reference each tile of targets sees, for one radius.

    Along an axis of n cells, tile t has targets 8t ... 8t + 7 and its window is
    ``min(8 + 2·radius, n)`` long, from ``start[t]`` on. Radius ``None`` is the whole frame.
    """

    def __init__(self, height: int, width: int, radius: int | None, device: torch.device):
        self.height, self.width = height, width
        self.start_y, reach_y = _axis(height, radius)
        self.start_x, reach_x = _axis(width, radius)
        self.size_y, self.size_x = reach_y.shape[2], reach_x.shape[2]
        self.size = self.size_y * self.size_x
        # Where all tiles see the same columns, one strip serves them.
        self.strips = 1 if self.size_x == width else len(self.start_x)
        self.everything = bool((reach_y == 0).all() and (reach_x == 0).all())
        self.reach_y, self.reach_x = reach_y.to(device), reach_x.to(device)
        y, x = torch.arange(self.size_y), torch.arange(self.size_x)
        self.cells = (y[:, None] * width + x).flatten().to(device)  # of a window at the origin
        first_y, first_x = (torch.tensor(start) for start in (self.start_y, self.start_x))
        self.origins = (first_y[:, None] * width + first_x).to(device)  # (tiles_y, tiles_x)

    def cut(self, cells: torch.Tensor, out: torch.Tensor) -> None:
        """Strips of a map: ``(h, w, C)`` into ``(strips, h · size_x, C)``."""
        strips = out.unflatten(1, (self.height, self.size_x))
        for strip, left in zip(strips, self.start_x, strict=False):
            strip.copy_(cells[:, left : left + self.size_x])

    def window(self, strips: torch.Tensor, row: int, columns: slice) -> torch.Tensor:
        """The windows ``(columns or 1, size, C)`` of some tiles of a row."""
        start = self.start_y[row] * self.size_x
        columns = columns if self.strips > 1 else slice(None)
        return strips[columns, start : start + self.size]

    def exclude(self, scores: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
        """Set scores ``(..., columns · 64, size)`` of cells out of reach to -inf, in place."""
        if not self.everything:
            view = scores.unflatten(-1, (self.size_y, self.size_x)).unflatten(-3, (-1, TILE, TILE))
            view += self.reach_y[chunk.row, :, None, :, None]
            view += self.reach_x[chunk.columns, None, :, None, :]
        return scores

    def cells_of(self, places: torch.Tensor | slice, chunk: _Chunk) -> torch.Tensor:
        """Places in the windows to cells of the map: ``(..., columns · 64, k)`` as given, or all of
        them ``(columns, size)``."""
        origin = (self.origins[chunk.row, chunk.columns])[:, None]
        if isinstance(places, torch.Tensor):
            origin = origin.repeat_interleave(TILE * TILE, dim=0)
        return origin + self.cells[places]


def _axis(length: int, radius: int | None) -> tuple[list[int], torch.Tensor]:
    """Where the windows begin along one axis, and 0 (in reach) or -inf ``(tiles, 8, window)``."""
    radius = length if radius is None else radius
    window = min(TILE + 2 * radius, length)
    first = torch.arange(0, length, TILE)
    start = (first - radius).clamp(0, length - window)
    target = first[:, None] + torch.arange(TILE)
    distance = (start[:, None, None] + torch.arange(window) - target[:, :, None]).abs()
    # A tile may reach over the border; its targets there are no cells, and may reach anything.
    far = (distance > radius) & (target < length)[:, :, None]
    return start.tolist(), torch.zeros(far.shape).masked_fill_(far, -torch.inf)


@dataclass
class _Reference:
    frame: int
    given: bool  # its labels were given: it stays for ever
    windows: _Windows
    strips: torch.Tensor


class _Group(NamedTuple):
    """References that are seen through the same windows."""

    windows: _Windows
    strips: list[torch.Tensor]
    cells: torch.Tensor  # (R,), the first cell of each among those of all slots


class _Chunk(NamedTuple):
    """Part of a row of tiles of targets."""

    targets: torch.Tensor  # (columns, 64, C)
    row: int
    columns: slice


class ReferenceMemory:
    """Features and labels of the references, all of one size.

    Args:
        shape: ``(C, h, w)`` of the features.
        labels: number L of label maps.
        config: which frames are kept and how they are searched; its temperature is a number.
        device: of features and labels. Labels and weights are float32.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        labels: int,
        config: PropagationConfig,
        device: torch.device | str = "cpu",
    ):
        self.channels, self.height, self.width = shape
        self.config, self.device = config, torch.device(device)
        self.dtype = DTYPES[config.precision]
        self.tiles_y, self.tiles_x = -(-self.height // TILE), -(-self.width // TILE)
        self.windows = _Windows(self.height, self.width, config.radius, self.device)
        self.given_windows = self.windows
        if config.first_radius != "same":
            self.given_windows = _Windows(self.height, self.width, config.first_radius, self.device)
        self.seen = 0  # frames ever added
        self.references: list[_Reference] = []  # by slot
        capacity = config.first + config.references + config.long_term
        self.labels = torch.zeros(capacity, self.height * self.width, labels, device=self.device)

    @property
    def frames(self) -> list[int]:
        """The number of the frame in each slot: ``match`` says slot · h·w + cell."""
        return [reference.frame for reference in self.references]

    # -- what is kept --

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Remember a frame: features ``(C, h, w)``, labels ``(L, h, w)``."""
        frame = self.seen
        self.seen += 1
        given = frame == 0 and self.config.first
        slot = len(self.references) if given else self._slot_for(frame)
        if slot is not None:
            self._store(slot, frame, given, features, labels)

    def keep_latest(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep the frame that was added last for ever, with labels that may have more maps.

        All other references are 0 in the maps that are new.
        """
        more = len(labels) - self.labels.shape[2]
        if more:
            self.labels = torch.nn.functional.pad(self.labels, (0, more))
        # One slot more, as this one will not be used again.
        self.labels = torch.cat([self.labels, torch.zeros_like(self.labels[:1])])
        frame = self.seen - 1
        slot = self.frames.index(frame) if frame in self.frames else len(self.references)
        self._store(slot, frame, True, features, labels)

    def _slot_for(self, frame: int) -> int | None:
        """The slot that a new frame takes, ``None`` if it need not be kept.

        Of the frames that are not among the latest those stay longest whose number is divisible by
        the highest power of 2. So the older ones are always spread evenly over the past, by the
        least power of 2 at which they fit, however long the video is.
        """

        def power_of_2(number: int) -> float:
            return number & -number or math.inf  # every one divides 0

        slots = {r.frame: slot for slot, r in enumerate(self.references) if not r.given}
        old = [number for number in (*slots, frame) if number <= frame - self.config.references]
        if len(old) <= self.config.long_term:
            return len(self.references)
        return slots.get(min(old, key=lambda number: (power_of_2(number), number)))

    def _store(
        self, slot: int, frame: int, given: bool, features: torch.Tensor, labels: torch.Tensor
    ) -> None:
        windows = self.given_windows if given else self.windows
        with record_function("corrlib.tiles"):
            if slot < len(self.references) and self.references[slot].windows is windows:
                strips = self.references[slot].strips
            else:
                shape = (windows.strips, self.height * windows.size_x, self.channels)
                strips = torch.empty(shape, dtype=self.dtype, device=self.device)
            windows.cut(features.to(self.dtype).permute(1, 2, 0).contiguous(), strips)
            self.labels[slot] = labels.flatten(1).T
        self.references[slot : slot + 1] = [_Reference(frame, given, windows, strips)]

    # -- the search --

    def match(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best reference cells of every target cell.

        Args:
            target: features ``(C, h, w)``.

        Returns:
            weights ``(h·w, K)`` and indices ``(h·w, K)`` into the references' cells
            ``(slots·h·w)``, see ``frames``. K is k, or k per reference; the weights sum to 1 unless
            the policy keeps their share of all cells. Fewer than k cells in reach leave weights of
            0. Without top k, K counts all cells of the windows, those out of reach with weight 0.
        """
        groups = self._groups()
        weights, indices = [], []
        for chunk in self._chunks(target, groups):
            if self.config.topk is None:
                weight, index = self._all(groups, chunk)
                index = index[:, None].expand_as(weight)
            else:
                weight, index = self._best(groups, chunk)
            weights.append(weight)
            indices.append(index)
        return self._untile(torch.cat(weights)), self._untile(torch.cat(indices))

    def carry(self, target: torch.Tensor) -> torch.Tensor:
        """Labels ``(L, h, w)`` of a frame with features ``(C, h, w)``: matched and copied."""
        if self.config.topk is not None:
            return self.copy(*self.match(target))
        groups, cells = self._groups(), self.labels.flatten(0, 1)
        copied = []
        for chunk in self._chunks(target, groups):
            weights, indices = self._all(groups, chunk)
            with record_function("corrlib.copy"):
                copied.append(torch.bmm(weights, cells[indices]))
        return self._as_maps(self._untile(torch.cat(copied)))

    def copy(self, weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Labels ``(L, h, w)``: the weighted sum of the matched cells' labels."""
        cells = self.labels.flatten(0, 1)
        with record_function("corrlib.copy"):
            copied = torch.zeros(len(indices), cells.shape[1], device=cells.device)
            for rank in range(indices.shape[1]):
                copied.addcmul_(weights[:, rank, None], cells[indices[:, rank]])
        return self._as_maps(copied)

    def _groups(self) -> list[_Group]:
        slots: dict[_Windows, list[int]] = {}
        for slot, reference in enumerate(self.references):
            slots.setdefault(reference.windows, []).append(slot)
        size = self.height * self.width
        return [
            _Group(
                windows,
                [self.references[slot].strips for slot in numbers],
                torch.tensor([slot * size for slot in numbers]).to(self.device, non_blocking=True),
            )
            for windows, numbers in slots.items()
        ]

    def _chunks(self, target: torch.Tensor, groups: list[_Group]) -> Iterator[_Chunk]:
        """Rows of tiles, cut so that the scores of each part fit the workspace."""
        with record_function("corrlib.tiles"):
            tiles = target.new_zeros(
                self.tiles_y * TILE, self.tiles_x * TILE, self.channels, dtype=self.dtype
            )
            tiles[: self.height, : self.width] = target.permute(1, 2, 0)
            tiles = tiles.view(self.tiles_y, TILE, self.tiles_x, TILE, self.channels)
            tiles = tiles.transpose(1, 2).reshape(
                self.tiles_y, self.tiles_x, TILE * TILE, self.channels
            )
        counts = [(len(group.strips), group.windows.size) for group in groups]
        at_once = _columns_at_once(counts, self.config, self.tiles_x)
        for row in range(self.tiles_y):
            for left in range(0, self.tiles_x, at_once):
                columns = slice(left, min(left + at_once, self.tiles_x))
                yield _Chunk(tiles[row, columns], row, columns)

    def _scores(self, group: _Group, chunk: _Chunk) -> torch.Tensor:
        """Similarities ``(R, T, window)`` of the T targets of a chunk."""
        targets = chunk.targets
        shape = (len(group.strips), targets.shape[0] * TILE * TILE, group.windows.size)
        scores = targets.new_empty(shape)
        with record_function("corrlib.gemm"):
            for strips, out in zip(group.strips, scores, strict=True):
                window = group.windows.window(strips, chunk.row, chunk.columns)
                torch.bmm(
                    targets.view(len(window), -1, self.channels),
                    window.transpose(1, 2),
                    out=out.view(len(window), -1, group.windows.size),
                )
        return scores

    def _best(self, groups: list[_Group], chunk: _Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and indices ``(columns, 64, K)`` of the top k."""
        search = self._top_of_each if self.config.per_reference else self._top_of_all
        found = [search(group, chunk) for group in groups]
        with record_function("corrlib.topk"):
            if self.config.per_reference:
                value, index, total = (torch.cat(part) for part in zip(*found, strict=True))
            else:  # one top k of those of the groups
                value, index, total = (torch.cat(part, -1) for part in zip(*found, strict=True))
                if len(found) > 1:
                    value, chosen = value.topk(min(self.config.topk, value.shape[-1]))
                    index = index.gather(-1, chosen)
            if self.config.rescale:
                weight = value.softmax(-1)
            else:
                weight = (value - total.logsumexp(-1, keepdim=True)).exp()
            weight = weight / len(weight)
            # Fewer than k cells in reach leave some of weight 0: any valid index will do.
            index = torch.where(value > -torch.inf, index, 0)
            return tuple(
                part.transpose(0, 1).flatten(1).unflatten(0, (-1, TILE * TILE))
                for part in (weight, index)
            )

    def _top_of_all(self, group: _Group, chunk: _Chunk) -> tuple[torch.Tensor, ...]:
        """The top k of the references of a group together.

        Returns scores over temperature ``(1, T, k)``, indices ``(1, T, k)``, and the logarithm of
        the softmax's denominator ``(1, T, R)``, empty where it is not needed.
        """
        windows, count = group.windows, len(group.strips)
        scores = self._scores(group, chunk)
        with record_function("corrlib.topk"):
            most = windows.exclude(scores.amax(dim=0).float(), chunk)
            most, place = most.topk(min(self.config.topk, windows.size), sorted=False)
            value = scores.gather(2, place.expand(count, -1, -1)).float()
            # Places out of reach are among them where there are too few others.
            value.masked_fill_(most == -torch.inf, -torch.inf)
            value = value.transpose(0, 1).flatten(1)  # (T, R · k)
            value, chosen = value.topk(min(self.config.topk, value.shape[1]))
            number, rank = chosen // place.shape[1], chosen % place.shape[1]
            index = group.cells[number] + windows.cells_of(place.gather(1, rank), chunk)
            total = self._totals(windows, scores, chunk)
        return value[None] / self.config.temperature, index[None], total

    def _top_of_each(self, group: _Group, chunk: _Chunk) -> tuple[torch.Tensor, ...]:
        """The top k in each reference: as above with ``(R, T, k)`` and ``(R, T, 1)``."""
        scores = self._scores(group, chunk)
        with record_function("corrlib.topk"):
            total = self._totals(group.windows, scores, chunk)
            scores = group.windows.exclude(scores.float(), chunk)
            value, place = scores.topk(min(self.config.topk, group.windows.size))
            index = group.cells[:, None, None] + group.windows.cells_of(place, chunk)
        return value / self.config.temperature, index, total.permute(2, 1, 0)

    def _totals(self, windows: _Windows, scores: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
        """log Σ exp(score / τ) over the cells in reach, ``(1, T, R)``; changes nothing."""
        if self.config.rescale:
            return scores.new_empty(1, scores.shape[1], 0, dtype=torch.float32)
        scores = windows.exclude(scores.float() / self.config.temperature, chunk)
        return scores.logsumexp(-1).T[None]

    def _all(self, groups: list[_Group], chunk: _Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights ``(columns, 64, K)`` of all cells of the windows, indices ``(columns, K)``."""
        values, indices = [], []
        for group in groups:
            scores = self._scores(group, chunk).float()
            with record_function("corrlib.topk"):
                scores = group.windows.exclude(scores, chunk) / self.config.temperature
                if self.config.per_reference:
                    scores = scores.softmax(-1) / len(self.references)
                values.append(scores.transpose(0, 1).flatten(1))
                cells = group.windows.cells_of(slice(None), chunk)
                indices.append((cells[:, None] + group.cells[:, None]).flatten(1))
        with record_function("corrlib.topk"):
            weights = torch.cat(values, 1)
            if not self.config.per_reference:
                weights = weights.softmax(-1)
        return weights.unflatten(0, (-1, TILE * TILE)), torch.cat(indices, 1)

    def _untile(self, tiles: torch.Tensor) -> torch.Tensor:
        """``(tiles_y · tiles_x, 64, K)`` in tile order to ``(h·w, K)`` in image order."""
        cells = tiles.view(self.tiles_y, self.tiles_x, TILE, TILE, -1).transpose(1, 2)
        cells = cells.reshape(self.tiles_y * TILE, self.tiles_x * TILE, -1)
        return cells[: self.height, : self.width].reshape(self.height * self.width, -1)

    def _as_maps(self, cells: torch.Tensor) -> torch.Tensor:
        return cells.T.unflatten(1, (self.height, self.width))

    @staticmethod
    def estimate(
        shape: tuple[int, int, int], labels: int, config: PropagationConfig, given: int = 1
    ) -> int:
        """Bytes that a memory of this kind holds, its working space included.

        ``given`` counts the frames whose labels are given.
        """
        channels, height, width = shape
        item = DTYPES[config.precision].itemsize
        own = config.radius if config.first_radius == "same" else config.first_radius
        given = given - (not config.first)
        counts = []
        held = 0
        for radius, count in ((own, given), (config.radius, config.references + config.long_term)):
            size_y, size_x = (_window(side, radius) for side in (height, width))
            strips = 1 if size_x == width else -(-width // TILE)
            held += count * item * strips * height * size_x * channels
            counts.append((count, size_y * size_x))
        total = given + config.references + config.long_term
        held += 4 * total * height * width * labels
        tiles = item * channels * (height + TILE) * (width + TILE) * 2
        columns = -(-width // TILE)
        work = _columns_at_once(counts, config, columns) * _tile_bytes(counts, config)
        kept = 1 if config.topk is None else config.topk * (total if config.per_reference else 1)
        return held + tiles + work + 3 * 12 * kept * (height + TILE) * (width + TILE)


def _window(side: int, radius: int | None) -> int:
    return side if radius is None else min(TILE + 2 * radius, side)


def _tile_bytes(groups: list[tuple[int, int]], config: PropagationConfig) -> int:
    """Working space of one tile, for groups of (references, window size)."""
    item = DTYPES[config.precision].itemsize
    as_float = 4 if item < 4 else 0
    copies, most = item, 0
    if config.topk is None:
        copies += as_float + 12
    else:
        copies += as_float if config.per_reference else 0
        copies += 0 if config.rescale else as_float + 8
        most = 0 if config.per_reference else 8
    return TILE * TILE * sum((count * copies + most) * size for count, size in groups)


def _columns_at_once(groups: list[tuple[int, int]], config: PropagationConfig, columns: int) -> int:
    return max(1, min(columns, WORKSPACE_BYTES // _tile_bytes(groups, config)))
