"""The fast path of restricted affinity: tiles of targets, windows of references, one batched GEMM.

Three linear maps between maps and windows are all that restricted attention needs. For a target
cell p, an offset d with |d_y|, |d_x| ≤ M, and zeros outside the image:

==============  ========================================  ==================================
``correlate``   S[p, d]  = Σ_c  T[c, p] · R[c, p + d]     features to scores
``gather``      out[:, p] = Σ_d  S[p, d] · V[:, p + d]    copy values through an affinity
``splat``       out[:, q] = Σ_{p + d = q} S[p, d] · U[:, p]   its transpose
==============  ========================================  ==================================

The derivative of each is made of the other two, so the set is closed under differentiation of any
order, and backward needs nothing but what forward was given: no window is ever kept.

How it is fast. Targets are cut into 8x8 tiles. All 64 targets of a tile look into the same
``(8 + 2M)²`` window of the reference, so a tile is one GEMM ``(64, C) x (C, window)``: about twice
the multiplications strictly needed, at the full speed of the machine's matrix product. The
windows of one column of tiles overlap in memory: they are views of one strip ``8 + 2M`` wide, so
only strips are copied. The ``(2M+1)²`` scores that belong to each target lie on a slanted band of
the tile's ``(64, window)`` result, which is one strided view.

Windows and tiles hold the channels of a cell side by side, and so do results: maps that come in
memory format ``channels_last`` are handled best.

A call works on as many samples, then rows, then columns of tiles at once as fit in
``WORKSPACE_BYTES``, in few large operations: where other programs want the cores too, each
operation that is split over threads may have to wait for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

TILE = 8
WORKSPACE_BYTES = 128 * 2**20
"""Upper bound of the temporary memory of one call, beyond its inputs and its result; the least
that can be worked on is one tile with its window."""


def correlate(target: torch.Tensor, reference: torch.Tensor, radius: int) -> torch.Tensor:
    """Scores of every target cell against the window around it in the reference.

    Args:
        target: ``(N, C, h, w)``.
        reference: ``(N, C, h, w)``.
        radius: M ≥ 0, in cells; may exceed the map.

    Returns:
        ``(N, h, w, (2M+1)²)``, 0 for cells outside the image.
    """
    return _Correlate.apply(target, reference, radius)


def gather(scores: torch.Tensor, values: torch.Tensor, radius: int) -> torch.Tensor:
    """Sum the values in each target's window, weighted: ``(N, h, w, K)``, ``(N, D, h, w)`` to
    ``(N, D, h, w)``."""
    return _Gather.apply(scores, values, radius)


def splat(scores: torch.Tensor, values: torch.Tensor, radius: int) -> torch.Tensor:
    """Send each target's value to the cells of its window, weighted: the transpose of ``gather``.

    ``(N, h, w, K)``, ``(N, D, h, w)`` to ``(N, D, h, w)``.
    """
    return _Splat.apply(scores, values, radius)


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, target, reference, radius):
        ctx.radius = radius
        ctx.save_for_backward(target, reference)
        plan = _Plan(target, radius)
        scores = target.new_zeros(plan.scores_shape)
        for part in plan.parts(2 * target.shape[1]):
            windows, tiles = part.windows(reference), part.tiles(target)
            products = part.tile_scores(torch.empty)
            for row, window in enumerate(part.rows(windows)):
                torch.bmm(tiles[row], window.transpose(1, 2), out=products[row])
            part.read_band(products, scores)
            del windows, tiles, products  # or they would be alive while the next are made
        return scores

    @staticmethod
    def backward(ctx, grad):
        target, reference = ctx.saved_tensors
        return (
            gather(grad, reference, ctx.radius) if ctx.needs_input_grad[0] else None,
            splat(grad, target, ctx.radius) if ctx.needs_input_grad[1] else None,
            None,
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, values, radius):
        ctx.radius = radius
        ctx.save_for_backward(scores, values)
        plan = _Plan(values, radius)
        gathered = torch.empty_like(values, memory_format=torch.channels_last)
        for part in plan.parts(2 * values.shape[1]):
            windows, weights = part.windows(values), part.tile_scores(torch.zeros)
            part.write_band(scores, weights)
            tiles = part.empty_tiles(values)
            for row, window in enumerate(part.rows(windows)):
                torch.bmm(weights[row], window, out=tiles[row])
            part.write_tiles(tiles, gathered)
            del windows, weights, tiles
        return gathered

    @staticmethod
    def backward(ctx, grad):
        scores, values = ctx.saved_tensors
        return (
            correlate(grad, values, ctx.radius) if ctx.needs_input_grad[0] else None,
            splat(scores, grad, ctx.radius) if ctx.needs_input_grad[1] else None,
            None,
        )


class _Splat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, values, radius):
        ctx.radius = radius
        ctx.save_for_backward(scores, values)
        plan = _Plan(values, radius)
        result = torch.zeros_like(values, memory_format=torch.channels_last)
        for part in plan.parts(3 * values.shape[1]):
            windows, weights = part.empty_windows(values), part.tile_scores(torch.zeros)
            part.write_band(scores, weights)
            tiles = part.tiles(values)
            for row, window in enumerate(part.rows(windows)):  # windows of two rows overlap
                window += torch.bmm(weights[row].transpose(1, 2), tiles[row])
            part.add_windows(windows, result)
            del windows, weights, tiles
        return result

    @staticmethod
    def backward(ctx, grad):
        scores, values = ctx.saved_tensors
        return (
            correlate(values, grad, ctx.radius) if ctx.needs_input_grad[0] else None,
            gather(scores, grad, ctx.radius) if ctx.needs_input_grad[1] else None,
            None,
        )


class _Plan:
    """How maps of one shape are cut into tiles, windows and parts.

    Offsets further than the map are always outside it, so the radius that is computed with is
    clipped per axis to ``h - 1`` and ``w - 1``; the scores beyond stay 0.
    """

    def __init__(self, maps: torch.Tensor, radius: int):
        self.samples, _, self.height, self.width = maps.shape
        self.options = {"dtype": maps.dtype, "device": maps.device}
        self.radius = radius
        self.radius_y = min(radius, self.height - 1)
        self.radius_x = min(radius, self.width - 1)
        self.tiles_y = -(-self.height // TILE)
        self.tiles_x = -(-self.width // TILE)
        self.window_y = TILE + 2 * self.radius_y
        self.window_x = TILE + 2 * self.radius_x
        self.item = maps.element_size()

    @property
    def scores_shape(self) -> tuple[int, int, int, int]:
        return self.samples, self.height, self.width, (2 * self.radius + 1) ** 2

    def parts(self, channels: int) -> Iterator[_Part]:
        """Cut samples x rows x columns of tiles so that each part fits the workspace.

        ``channels`` counts the values per cell that a part holds at once: the strips, and the
        padded map they are cut from or the products that are added to them; for tiles alike.
        """

        def bytes_of(samples: int, rows: int, columns: int) -> int:
            strip = (rows * TILE + 2 * self.radius_y) * self.window_x * channels
            tiles = rows * TILE * TILE * (self.window_y * self.window_x + channels)
            return self.item * samples * columns * (strip + tiles)

        samples = rows = columns = 1
        while columns < self.tiles_x and bytes_of(1, 1, columns + 1) <= WORKSPACE_BYTES:
            columns += 1
        if columns == self.tiles_x:
            while rows < self.tiles_y and bytes_of(1, rows + 1, columns) <= WORKSPACE_BYTES:
                rows += 1
        if rows == self.tiles_y:
            while (
                samples < self.samples and bytes_of(samples + 1, rows, columns) <= WORKSPACE_BYTES
            ):
                samples += 1
        for n in range(0, self.samples, samples):
            for r in range(0, self.tiles_y, rows):
                for c in range(0, self.tiles_x, columns):
                    yield _Part(
                        self,
                        slice(n, min(n + samples, self.samples)),
                        (r * TILE, min(rows, self.tiles_y - r)),
                        (c * TILE, min(columns, self.tiles_x - c)),
                    )


class _Part:
    """A block of samples, rows and columns of tiles that is worked on at once.

    Args:
        vertical, horizontal: first row (column) of cells, and number of tiles.
    """

    def __init__(
        self,
        plan: _Plan,
        samples: slice,
        vertical: tuple[int, int],
        horizontal: tuple[int, int],
    ):
        self.plan, self.samples = plan, samples
        self.count = samples.stop - samples.start
        (self.y, self.tiles_y), (self.x, self.tiles_x) = vertical, horizontal
        self.rows_covered = self.tiles_y * TILE + 2 * plan.radius_y
        self.columns_covered = self.tiles_x * TILE + 2 * plan.radius_x

    # -- windows: strips of the reference, one for each column of tiles --

    def windows(self, maps: torch.Tensor) -> torch.Tensor:
        """Strips of ``maps``: ``(n · columns, rows_covered · window_x, C)``."""
        cells, margins = self._covered(maps)
        padded = F.pad(cells.permute(0, 2, 3, 1), (0, 0, *margins))  # (n, rows, columns, C)
        strips = padded.unfold(2, self.plan.window_x, TILE)  # (n, rows, tiles, C, window_x)
        strips = strips.permute(0, 2, 1, 4, 3).contiguous()
        return strips.view(self.count * self.tiles_x, -1, maps.shape[1])

    def empty_windows(self, maps: torch.Tensor) -> torch.Tensor:
        strip = self.rows_covered * self.plan.window_x
        return maps.new_zeros(self.count * self.tiles_x, strip, maps.shape[1])

    def rows(self, windows: torch.Tensor) -> Iterator[torch.Tensor]:
        """The windows of each row of tiles, views ``(n · columns, window, C)`` of the strips."""
        window = self.plan.window_y * self.plan.window_x
        for row in range(self.tiles_y):
            start = row * TILE * self.plan.window_x
            yield windows[:, start : start + window]

    def add_windows(self, windows: torch.Tensor, maps: torch.Tensor) -> None:
        """Add every strip to the place in ``maps`` it stands for: the transpose of ``windows``."""
        plan = self.plan
        strips = windows.view(
            self.count, self.tiles_x, self.rows_covered, plan.window_x, maps.shape[1]
        )
        padded = maps.new_zeros(self.count, self.rows_covered, self.columns_covered, maps.shape[1])
        for column in range(self.tiles_x):
            left = column * TILE
            padded[:, :, left : left + plan.window_x] += strips[:, column]
        cells, (left, _, top, _) = self._covered(maps)
        height, width = cells.shape[2:]
        cells += padded[:, top : top + height, left : left + width].permute(0, 3, 1, 2)

    def _covered(self, maps: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
        """What this part's windows cover of ``maps``, and their margins (left, right, top, bottom)
        beyond the map."""
        plan = self.plan
        top, left = self.y - plan.radius_y, self.x - plan.radius_x
        bottom, right = top + self.rows_covered, left + self.columns_covered
        cells = maps[
            self.samples,
            :,
            max(top, 0) : min(bottom, plan.height),
            max(left, 0) : min(right, plan.width),
        ]
        return cells, (
            max(-left, 0),
            max(right - plan.width, 0),
            max(-top, 0),
            max(bottom - plan.height, 0),
        )

    # -- tiles of targets --

    def tiles(self, maps: torch.Tensor) -> torch.Tensor:
        """Cells of ``maps`` as ``(rows, n · columns, 64, C)``, zeros beyond the map."""
        tiles = maps.new_zeros(self._tiles_shape(maps.shape[1]))
        self._copy_tiles(tiles, maps, into_tiles=True)
        return tiles

    def empty_tiles(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.new_empty(self._tiles_shape(maps.shape[1]))

    def write_tiles(self, tiles: torch.Tensor, maps: torch.Tensor) -> None:
        """Put tiles back in their place in ``maps``: the transpose of ``tiles``."""
        self._copy_tiles(tiles, maps, into_tiles=False)

    def _tiles_shape(self, channels: int) -> tuple[int, int, int, int]:
        return self.tiles_y, self.count * self.tiles_x, TILE * TILE, channels

    def _copy_tiles(self, tiles: torch.Tensor, maps: torch.Tensor, into_tiles: bool) -> None:
        tiles = tiles.view(self.tiles_y, self.count, self.tiles_x, TILE, TILE, -1)
        for (rows, y), (columns, x) in self._blocks():
            cells = maps[self.samples, :, y, x]
            cells = cells.unflatten(3, (columns.stop - columns.start, -1))
            cells = cells.unflatten(2, (rows.stop - rows.start, -1)).permute(2, 0, 4, 3, 5, 1)
            tile = tiles[rows, :, columns, : cells.shape[3], : cells.shape[4]]
            tile.copy_(cells) if into_tiles else cells.copy_(tile)

    # -- scores of tiles against their windows --

    def tile_scores(self, make) -> torch.Tensor:
        """A buffer ``(rows, n · columns, 64, window)``; of zeros where the band is to be filled."""
        plan = self.plan
        return make(
            self.tiles_y,
            self.count * self.tiles_x,
            TILE * TILE,
            plan.window_y * plan.window_x,
            **plan.options,
        )

    def read_band(self, products: torch.Tensor, scores: torch.Tensor) -> None:
        """Copy each target's own offsets out of the tiles' products into ``(N, h, w, K)``."""
        for band, place in self._bands(products, scores):
            place.copy_(band)

    def write_band(self, scores: torch.Tensor, weights: torch.Tensor) -> None:
        """The other way round."""
        for band, place in self._bands(weights, scores):
            band.copy_(place)

    def _bands(self, tiles: torch.Tensor, scores: torch.Tensor):
        """Pairs of views, equal in shape: bands of the tiles' scores, and their place in the map.

        Target (i, j) of a tile meets offset (dy, dx) at window cell (i + dy, j + dx): one target
        down or right is one window cell down or right, hence the slanted strides.
        """
        plan = self.plan
        window = plan.window_y * plan.window_x
        ky, kx = 2 * plan.radius_y + 1, 2 * plan.radius_x + 1
        tile = TILE * TILE * window
        bands = tiles.as_strided(
            (self.tiles_y, self.count, self.tiles_x, TILE, TILE, ky, kx),
            (
                self.count * self.tiles_x * tile,
                self.tiles_x * tile,
                tile,
                TILE * window + plan.window_x,
                window + 1,
                plan.window_x,
                1,
            ),
        )
        side = 2 * plan.radius + 1
        by, bx = plan.radius - plan.radius_y, plan.radius - plan.radius_x
        for (rows, y), (columns, x) in self._blocks():
            place = scores[self.samples, y, x].unflatten(3, (side, side))
            place = place[..., by : by + ky, bx : bx + kx]
            place = place.unflatten(2, (columns.stop - columns.start, -1))
            place = place.unflatten(1, (rows.stop - rows.start, -1)).permute(1, 0, 3, 2, 4, 5, 6)
            yield bands[rows, :, columns, : place.shape[3], : place.shape[4]], place

    def _blocks(self):
        """Whole tiles, and the cut ones at the lower and right border: for each block, which tiles
        and which cells of the map, for rows and for columns."""

        def spans(first: int, tiles: int, size: int):
            whole = (min(first + tiles * TILE, size) - first) // TILE
            end = first + whole * TILE
            if whole:
                yield slice(0, whole), slice(first, end)
            if whole < tiles:
                yield slice(whole, tiles), slice(end, size)

        plan = self.plan
        for rows in spans(self.y, self.tiles_y, plan.height):
            for columns in spans(self.x, self.tiles_x, plan.width):
                yield rows, columns
