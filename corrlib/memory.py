"""The references a video is matched against, and the search for the best cells in them.

Kept are the frames whose labels were given (the first one, and those on which objects were added),
the latest N, and a bounded number of older ones spaced over the past. The same result, written
slowly, is in :mod:`corrlib.propagation_reference`.

Target cells are cut into tiles. A tile's cells look into one *window* of a reference: all cells
that one of them may reach. A reference is cut into vertical strips, one per column of tiles, once,
when it enters the memory; the window of a tile is then a contiguous part of its strip, and the
scores of a column of tiles, whose strip stays in the cache, are one batched matrix product per
reference. The top k over all references together are found exactly in two steps: the k best cells
lie at the k window positions whose maxima over the references are largest, so only those positions
are searched. Which of several equal scores is kept at the k-th place is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from corrlib.stages import stage

if TYPE_CHECKING:
    from corrlib.propagation import PropagationConfig

TILE = 8
WORKSPACE_BYTES = 128 * 2**20
"""Upper bound of the temporary memory of a search; the least is one tile with its windows."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Windows:
    """Which window of a reference each tile of targets sees, for one radius.

    A window is ``8 + 2·radius`` cells high and wide, or as the map where that is less; radius
    ``None`` is the whole map. Columns of windows are moved inside the map. Strips are extended
    above and below instead, so that windows follow each other at equal steps, unless windows are as
    high as the map.
    """

    def __init__(self, height: int, width: int, radius: int | None, device: torch.device):
        self.height, self.width = height, width
        self.size_y, self.size_x = _window(height, radius), _window(width, radius)
        self.size = self.size_y * self.size_x
        whole_y, whole_x = self.size_y == height, self.size_x == width
        self.strips = 1 if whole_x else -(-width // TILE)  # one serves all columns, if it can
        self.step = 0 if whole_y else TILE * self.size_x  # in cells of a strip
        self.margin = 0 if whole_y else radius
        self.rows = _strip_rows(height, radius)

        start_y = torch.arange(0, height, TILE) * (not whole_y) - self.margin
        start_x = torch.arange(0, width, TILE) - (radius or 0)
        start_x = start_x.clamp(0, width - self.size_x)
        self.start_x = start_x.tolist()
        self.origins = (start_y[:, None] * width + start_x).to(device)  # (tiles_y, tiles_x)
        y, x = torch.arange(self.size_y), torch.arange(self.size_x)
        self.cells = (y[:, None] * width + x).flatten().to(device)  # of a window at the origin
        # 0 in reach, -inf out of it: (tiles, 8, size) for each axis.
        self.reach_y = _reach(height, radius, start_y, self.size_y).to(device)
        self.reach_x = _reach(width, radius, start_x, self.size_x).to(device)
        self.everything = bool((self.reach_y == 0).all() and (self.reach_x == 0).all())

    def empty(self, channels: int, **options) -> torch.Tensor:
        """Strips ``(strips, rows · size_x, C)`` for ``cut``."""
        return torch.zeros(self.strips, self.rows * self.size_x, channels, **options)

    def cut(self, cells: torch.Tensor, out: torch.Tensor) -> None:
        """Write a map ``(h, w, C)`` into strips; cells outside stay 0."""
        strips = out.unflatten(1, (self.rows, self.size_x))
        for strip, left in zip(strips, self.start_x, strict=False):
            inside = strip[self.margin : self.margin + self.height]
            inside.copy_(cells[:, left : left + self.size_x])

    def of(self, strips: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
        """The windows ``(rows, size, C)`` of a chunk's tiles; one where they are all the same."""
        strip = strips[chunk.column if self.strips > 1 else 0]
        if not self.step:
            return strip[None]
        windows = strip.unfold(0, self.size, self.step)  # (tiles_y, C, size), a view
        return windows[chunk.rows].transpose(1, 2)

    def exclude(self, scores: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
        """Set scores ``(..., T, size)`` of cells out of reach to -inf, in place."""
        if not self.everything:
            view = scores.unflatten(-1, (self.size_y, self.size_x)).unflatten(-3, (-1, TILE, TILE))
            view += self.reach_y[chunk.rows, :, None, :, None]
            view += self.reach_x[chunk.column, :, None, :]
        return scores

    def cells_of(self, places: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
        """Places in the windows, ``(..., rows · n, k)`` with n per tile, to cells of the map."""
        origins = self.origins[chunk.rows, chunk.column]
        each = places.shape[-2] // len(origins)
        return origins.repeat_interleave(each)[:, None] + self.cells[places]


def _window(side: int, radius: int | None) -> int:
    return side if radius is None else min(TILE + 2 * radius, side)


def _strip_rows(height: int, radius: int | None) -> int:
    if _window(height, radius) == height:
        return height
    return -(-height // TILE) * TILE + 2 * radius


def _reach(length: int, radius: int | None, start: torch.Tensor, size: int) -> torch.Tensor:
    target = torch.arange(0, length, TILE)[:, None] + torch.arange(TILE)
    cell = (start[:, None] + torch.arange(size))[:, None]
    reached = (cell >= 0) & (cell < length)
    if radius is not None:
        # A tile may stick out of the map; its targets there are no cells, and may reach anything.
        reached = reached & ((cell - target[..., None]).abs() <= radius) | (
            reached & (target >= length)[..., None]
        )
    reached = reached.expand(-1, TILE, -1)
    return torch.zeros(reached.shape).masked_fill_(~reached, -torch.inf)


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
    """Part of a column of tiles of targets, T = rows · 64 of them."""

    targets: torch.Tensor  # (rows, 64, C)
    rows: slice
    column: int


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
        self._buffer = torch.empty(0, dtype=self.dtype, device=self.device)
        self.seen = 0  # frames ever added
        self.references: list[_Reference] = []  # by slot
        capacity = config.first + config.references + config.long_term
        self.labels = torch.zeros(capacity, self.height * self.width, labels, device=self.device)

    @property
    def frames(self) -> list[int]:
        """The number of the frame in each slot: ``match`` says slot · h·w + cell."""
        return [reference.frame for reference in self.references]

    # -- what is kept --

    @torch.inference_mode()
    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Remember a frame: features ``(C, h, w)``, labels ``(L, h, w)``."""
        frame = self.seen
        self.seen += 1
        given = frame == 0 and self.config.first
        slot = len(self.references) if given else self._slot_for(frame)
        if slot is not None:
            self._store(slot, frame, given, features, labels)

    @torch.inference_mode()
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
        with stage("tiles"):
            if slot < len(self.references) and self.references[slot].windows is windows:
                strips = self.references[slot].strips
            else:
                strips = windows.empty(self.channels, dtype=self.dtype, device=self.device)
            windows.cut(features.to(self.dtype).permute(1, 2, 0).contiguous(), strips)
            self.labels[slot] = labels.flatten(1).T
        self.references[slot : slot + 1] = [_Reference(frame, given, windows, strips)]

    # -- the search --

    @torch.inference_mode()
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
                weight, index = weight.flatten(0, 1), index.repeat_interleave(TILE * TILE, dim=0)
            else:
                weight, index = self._best(groups, chunk)
            weights.append(weight)
            indices.append(index)
        return self._untile(torch.cat(weights)), self._untile(torch.cat(indices))

    @torch.inference_mode()
    def carry(self, target: torch.Tensor) -> torch.Tensor:
        """Labels ``(L, h, w)`` of a frame with features ``(C, h, w)``: matched and copied."""
        if self.config.topk is not None:
            return self.copy(*self.match(target))
        groups, cells = self._groups(), self.labels.flatten(0, 1)
        copied = []
        for chunk in self._chunks(target, groups):
            weights, indices = self._all(groups, chunk)
            with stage("copy"):
                copied.append(torch.bmm(weights, cells[indices]).flatten(0, 1))
        return self._as_maps(self._untile(torch.cat(copied)))

    @torch.inference_mode()
    def copy(self, weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Labels ``(L, h, w)``: the weighted sum of the matched cells' labels."""
        cells = self.labels.flatten(0, 1)
        with stage("copy"):
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
        """Columns of tiles, cut so that the scores of each part fit the workspace."""
        with stage("tiles"):
            padded = target.new_zeros(
                self.tiles_y * TILE, self.tiles_x * TILE, self.channels, dtype=self.dtype
            )
            padded[: self.height, : self.width] = target.permute(1, 2, 0)
            tiles = padded.unflatten(1, (self.tiles_x, TILE)).unflatten(0, (self.tiles_y, TILE))
            tiles = tiles.permute(2, 0, 1, 3, 4).flatten(2, 3).contiguous()
        counts = [(len(group.strips), group.windows.size) for group in groups]
        at_once = _rows_at_once(counts, self.config, self.tiles_y)
        for column in range(self.tiles_x):
            for top in range(0, self.tiles_y, at_once):
                rows = slice(top, min(top + at_once, self.tiles_y))
                yield _Chunk(tiles[column, rows], rows, column)

    def _scores(self, group: _Group, chunk: _Chunk) -> torch.Tensor:
        """Similarities ``(R, B, window, T / B)``; the windows of B batches of targets differ.

        They are valid until the next call.
        """
        windows = group.windows
        batches = len(chunk.targets) if windows.step else 1
        targets = chunk.targets.view(batches, -1, self.channels)
        shape = [len(group.strips), batches, windows.size, targets.shape[1]]
        # Where all see one window the long side comes last, for what follows.
        order = [0, 1, 2, 3] if windows.step else [0, 1, 3, 2]
        # One buffer for all chunks: to be given fresh pages takes as long as to fill them.
        if self._buffer.numel() < math.prod(shape):
            self._buffer = targets.new_empty(math.prod(shape))
        scores = self._buffer[: math.prod(shape)].view([shape[i] for i in order])
        with stage("gemm"):
            for strips, out in zip(group.strips, scores, strict=True):
                window = windows.of(strips, chunk)
                pair = (window, targets) if windows.step else (targets, window)
                torch.bmm(pair[0], pair[1].transpose(1, 2), out=out)
        return scores.permute(order)

    def _best(self, groups: list[_Group], chunk: _Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and indices ``(T, K)`` of the top k."""
        search = self._top_of_each if self.config.per_reference else self._top_of_all
        found = [search(group, chunk) for group in groups]
        with stage("topk"):
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
            return tuple(part.transpose(0, 1).flatten(1) for part in (weight, index))

    def _top_of_all(self, group: _Group, chunk: _Chunk) -> tuple[torch.Tensor, ...]:
        """The top k of the references of a group together.

        Returns scores over temperature ``(1, T, k)``, indices ``(1, T, k)``, and the logarithm of
        the softmax's denominator ``(1, T, R)``, empty where it is not needed.
        """
        windows, count = group.windows, len(group.strips)
        scores = self._scores(group, chunk)
        with stage("topk"):
            most = windows.exclude(_by_target(scores.amax(dim=0)), chunk)
            most, place = most.topk(min(self.config.topk, windows.size), sorted=False)
            where = place.unflatten(0, (scores.shape[1], -1)).transpose(1, 2)
            value = _by_target(scores.gather(2, where.expand(count, -1, -1, -1)))  # (R, T, k)
            # Places out of reach are among them where there are too few others.
            value.masked_fill_(most == -torch.inf, -torch.inf)
            value = value.transpose(0, 1).flatten(1)
            value, chosen = value.topk(min(self.config.topk, value.shape[1]))
            number, rank = chosen // place.shape[1], chosen % place.shape[1]
            index = group.cells[number] + windows.cells_of(place.gather(1, rank), chunk)
            total = self._none(1, len(value), 0)
            if not self.config.rescale:
                every = windows.exclude(_by_target(scores), chunk).div_(self.config.temperature)
                total = every.logsumexp(-1).T[None]
        return value[None] / self.config.temperature, index[None], total

    def _top_of_each(self, group: _Group, chunk: _Chunk) -> tuple[torch.Tensor, ...]:
        """The top k in each reference: as above with ``(R, T, k)`` and ``(R, T, 1)``."""
        windows, temperature = group.windows, self.config.temperature
        scores = self._scores(group, chunk)
        with stage("topk"):
            scores = windows.exclude(_by_target(scores), chunk).div_(temperature)
            total = self._none(scores.shape[0], scores.shape[1], 0)
            if not self.config.rescale:
                total = scores.logsumexp(-1, keepdim=True)
            value, place = scores.topk(min(self.config.topk, windows.size))
            index = group.cells[:, None, None] + windows.cells_of(place, chunk)
        return value, index, total

    def _none(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device=self.device)

    def _all(self, groups: list[_Group], chunk: _Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights ``(rows, 64, K)`` of all cells of the windows, indices ``(rows, K)``."""
        values, indices = [], []
        for group in groups:
            scores = _by_target(self._scores(group, chunk))
            with stage("topk"):
                scores = group.windows.exclude(scores, chunk).div_(self.config.temperature)
                if self.config.per_reference:
                    scores = scores.softmax(-1).div_(len(self.references))
                values.append(scores.transpose(0, 1).flatten(1))
                places = torch.arange(group.windows.size, device=scores.device)
                cells = group.windows.cells_of(places.expand(len(chunk.targets), -1), chunk)
                cells = (cells[:, None] + group.cells[:, None]).flatten(1)
                # What is out of reach has weight 0: any valid index will do.
                indices.append(cells.clamp(0, self.labels.shape[0] * self.labels.shape[1] - 1))
        with stage("topk"):
            weights = torch.cat(values, 1)
            if not self.config.per_reference:
                weights = weights.softmax(-1)
        return weights.unflatten(0, (-1, TILE * TILE)), torch.cat(indices, 1)

    def _untile(self, tiles: torch.Tensor) -> torch.Tensor:
        """``(tiles_x · tiles_y · 64, K)``, column by column, to ``(h·w, K)`` in image order."""
        cells = tiles.view(self.tiles_x, self.tiles_y, TILE, TILE, -1).permute(1, 2, 0, 3, 4)
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
        held, groups = 0, []
        for radius, count in ((own, given), (config.radius, config.references + config.long_term)):
            size_x = _window(width, radius)
            strips = 1 if size_x == width else -(-width // TILE)
            held += count * item * strips * _strip_rows(height, radius) * size_x * channels
            groups.append((count, _window(height, radius) * size_x))
        total = given + config.references + config.long_term
        cells = (height + TILE) * (width + TILE)
        held += 4 * total * height * width * labels + 2 * item * channels * cells
        # Weights and indices, in parts, joined, and in image order.
        kept = 0 if config.topk is None else config.topk * (total if config.per_reference else 1)
        rows = _rows_at_once(groups, config, -(-height // TILE))
        return held + 3 * 12 * kept * cells + rows * _tile_bytes(groups, config)


def _by_target(scores: torch.Tensor) -> torch.Tensor:
    """``(..., B, n, T / B)`` to float32 ``(..., T, n)``, a copy."""
    options = {"copy": True, "memory_format": torch.contiguous_format}
    return scores.transpose(-1, -2).to(torch.float32, **options).flatten(-3, -2)


def _tile_bytes(groups: list[tuple[int, int]], config: PropagationConfig) -> int:
    """Working space of one tile, for groups of (references, window size)."""
    item = DTYPES[config.precision].itemsize
    copies, most = item, 12  # the scores, and their maxima over the references, transposed
    if config.topk is None:
        copies += 16
    elif config.per_reference or not config.rescale:
        copies += 4 if config.rescale else 12
    return TILE * TILE * sum((count * copies + most) * size for count, size in groups)


def _rows_at_once(groups: list[tuple[int, int]], config: PropagationConfig, rows: int) -> int:
    return max(1, min(rows, WORKSPACE_BYTES // _tile_bytes(groups, config)))
