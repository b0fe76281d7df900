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

Work proceeds row of tiles by row of tiles, over as many samples at once as fit in
``WORKSPACE_BYTES``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

TILE = 8
WORKSPACE_BYTES = 64 * 2**20
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
            windows = part.windows(reference)
            for row in part.rows():
                tile = torch.bmm(row.target_tiles(target), row.window(windows).transpose(1, 2))
                row.read_band(tile, scores)
                del tile  # or two would be alive while the next is computed
            del windows
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
        gathered = torch.empty_like(values, memory_format=torch.contiguous_format)
        for part in plan.parts(2 * values.shape[1]):
            windows = part.windows(values)
            band = part.band_buffer()
            for row in part.rows():
                row.write_band(scores, band)
                row.write_targets(torch.bmm(band, row.window(windows)), gathered)
            del windows, band
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
        result = torch.zeros_like(values, memory_format=torch.contiguous_format)
        for part in plan.parts(3 * values.shape[1]):
            windows = part.empty_windows(values)
            band = part.band_buffer()
            for row in part.rows():
                row.write_band(scores, band)
                row.window(windows).add_(torch.bmm(band.transpose(1, 2), row.target_tiles(values)))
            part.add_windows(windows, result)
            del windows, band
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
    """How a map of one shape is cut into parts, rows of tiles and windows.

    Offsets further than the map are always outside it, so the radius that is computed with is
    clipped per axis to ``h - 1`` and ``w - 1``; the scores beyond stay 0.
    """

    def __init__(self, maps: torch.Tensor, radius: int):
        self.samples, _, self.height, self.width = maps.shape
        self.like = maps
        self.radius = radius
        self.radius_y = min(radius, self.height - 1)
        self.radius_x = min(radius, self.width - 1)
        self.tiles_y = -(-self.height // TILE)
        self.tiles_x = -(-self.width // TILE)
        self.window_y = TILE + 2 * self.radius_y
        self.window_x = TILE + 2 * self.radius_x

    @property
    def scores_shape(self) -> tuple[int, int, int, int]:
        return self.samples, self.height, self.width, (2 * self.radius + 1) ** 2

    def parts(self, channels: int) -> Iterator[_Part]:
        """Cut samples x rows of tiles x columns of tiles so that each part fits the workspace.

        ``channels`` counts the values per window cell that a part holds at once: the windows,
        and the padded map they are cut from or the products that are added to them.
        """
        item = self.like.element_size()
        # A tile needs its share of a strip, plus its (64, window) scores and its targets' values.
        scores = TILE * TILE * (self.window_y * self.window_x + channels)

        def bytes_of(samples: int, rows: int, columns: int) -> int:
            strip = (rows * TILE + 2 * self.radius_y) * self.window_x * channels
            return item * samples * columns * (strip + scores)

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
                        range(r, min(r + rows, self.tiles_y)),
                        range(c, min(c + columns, self.tiles_x)),
                    )


class _Part:
    """A block of samples, rows and columns of tiles that is worked on at once."""

    def __init__(self, plan: _Plan, samples: slice, tile_rows: range, tile_columns: range):
        self.plan = plan
        self.samples = samples
        self.tile_rows = tile_rows
        self.tile_columns = tile_columns
        self.count = samples.stop - samples.start
        # The piece of the map that the windows of this part cover, in map coordinates ...
        self.top = tile_rows[0] * TILE - plan.radius_y
        self.left = tile_columns[0] * TILE - plan.radius_x
        self.rows_covered = len(tile_rows) * TILE + 2 * plan.radius_y
        self.columns_covered = len(tile_columns) * TILE + 2 * plan.radius_x
        # ... and what of that lies inside the map.
        self.inside_y = slice(max(self.top, 0), min(self.top + self.rows_covered, plan.height))
        self.inside_x = slice(max(self.left, 0), min(self.left + self.columns_covered, plan.width))

    def rows(self) -> Iterator[_Row]:
        return (_Row(self, index) for index in range(len(self.tile_rows)))

    def windows(self, maps: torch.Tensor) -> torch.Tensor:
        """Strips of ``maps``, one per column of tiles: ``(n · columns, rows · window_x, C)``."""
        inside = maps[self.samples, :, self.inside_y, self.inside_x].permute(0, 2, 3, 1)
        top, left = self.inside_y.start - self.top, self.inside_x.start - self.left
        bottom = self.rows_covered - inside.shape[1] - top
        right = self.columns_covered - inside.shape[2] - left
        padded = F.pad(inside, (0, 0, left, right, top, bottom))  # (n, rows, columns, C)
        strips = padded.unfold(2, self.plan.window_x, TILE)  # (n, rows, tiles, C, window_x)
        strips = strips.permute(0, 2, 1, 4, 3).contiguous()
        return strips.view(self.count * len(self.tile_columns), -1, maps.shape[1])

    def empty_windows(self, maps: torch.Tensor) -> torch.Tensor:
        rows = self.rows_covered * self.plan.window_x
        return maps.new_zeros(self.count * len(self.tile_columns), rows, maps.shape[1])

    def add_windows(self, windows: torch.Tensor, maps: torch.Tensor) -> None:
        """Add every strip to the place in ``maps`` it was cut from (transpose of ``windows``)."""
        plan, channels = self.plan, maps.shape[1]
        padded = maps.new_zeros(self.count, self.rows_covered, self.columns_covered, channels)
        strips = windows.view(self.count, -1, self.rows_covered, plan.window_x, channels)
        for column in range(len(self.tile_columns)):
            left = column * TILE
            padded[:, :, left : left + plan.window_x] += strips[:, column]
        top, left = self.inside_y.start - self.top, self.inside_x.start - self.left
        inside = padded[
            :,
            top : top + self.inside_y.stop - self.inside_y.start,
            left : left + self.inside_x.stop - self.inside_x.start,
        ]
        maps[self.samples, :, self.inside_y, self.inside_x] += inside.permute(0, 3, 1, 2)

    def band_buffer(self) -> torch.Tensor:
        """Zeros ``(n · columns, 64, window)``; writing a band again touches the same places."""
        plan = self.plan
        return plan.like.new_zeros(
            self.count * len(self.tile_columns), TILE * TILE, plan.window_y * plan.window_x
        )


class _Row:
    """One row of tiles of a part."""

    def __init__(self, part: _Part, index: int):
        plan = part.plan
        self.part, self.plan, self.index = part, plan, index
        y = part.tile_rows[index] * TILE
        self.y = slice(y, min(y + TILE, plan.height))
        self.height = self.y.stop - self.y.start
        # Whole tiles, then the narrower one at the right border if the width asks for it.
        x = part.tile_columns[0] * TILE
        end = min(x + len(part.tile_columns) * TILE, plan.width)
        whole = (end - x) // TILE
        spans = [(0, whole, x, TILE)] if whole else []
        if (end - x) % TILE:
            spans.append((whole, 1, x + whole * TILE, (end - x) % TILE))
        self.spans = spans  # (first tile, number of tiles, first column of the map, tile width)

    def window(self, windows: torch.Tensor) -> torch.Tensor:
        """The windows of this row of tiles, a view ``(n · columns, window, C)`` of the strips."""
        start = self.index * TILE * self.plan.window_x
        return windows[:, start : start + self.plan.window_y * self.plan.window_x]

    def target_tiles(self, maps: torch.Tensor) -> torch.Tensor:
        """Cells of this row of tiles ``(n · columns, 64, C)``, zeros beyond the map."""
        count, channels = self.part.count, maps.shape[1]
        columns = len(self.part.tile_columns)
        tiles = maps.new_zeros(count, columns, TILE, TILE, channels)
        for first, number, x, width in self.spans:
            cells = maps[self.part.samples, :, self.y, x : x + number * width]
            cells = cells.reshape(count, channels, self.height, number, width)
            tiles[:, first : first + number, : self.height, :width] = cells.permute(0, 3, 2, 4, 1)
        return tiles.view(count * columns, TILE * TILE, channels)

    def write_targets(self, tiles: torch.Tensor, maps: torch.Tensor) -> None:
        """Put ``(n · columns, 64, C)`` back in its place in ``maps``."""
        count, channels = self.part.count, maps.shape[1]
        tiles = tiles.view(count, -1, TILE, TILE, channels)
        for first, number, x, width in self.spans:
            cells = tiles[:, first : first + number, : self.height, :width]
            cells = cells.permute(0, 4, 2, 1, 3).reshape(count, channels, self.height, -1)
            maps[self.part.samples, :, self.y, x : x + number * width] = cells

    def read_band(self, tile: torch.Tensor, scores: torch.Tensor) -> None:
        for band, place in self._bands(tile, scores):
            place.copy_(band)

    def write_band(self, scores: torch.Tensor, tile: torch.Tensor) -> None:
        for band, place in self._bands(tile, scores):
            band.copy_(place)

    def _bands(self, tile: torch.Tensor, scores: torch.Tensor):
        """Pairs of views, equal in shape: the band of a tile's scores, and its place in the map.

        Target (i, j) of a tile reads offset (dy, dx) at window cell (i + dy, j + dx): stepping a
        target down or right steps the window with it, hence the slanted strides.
        """
        plan, count = self.plan, self.part.count
        window = plan.window_y * plan.window_x
        ky, kx = 2 * plan.radius_y + 1, 2 * plan.radius_x + 1
        columns = len(self.part.tile_columns)
        band = tile.as_strided(
            (count, columns, TILE, TILE, ky, kx),
            (
                columns * TILE * TILE * window,
                TILE * TILE * window,
                TILE * window + plan.window_x,
                window + 1,
                plan.window_x,
                1,
            ),
            tile.storage_offset(),
        )
        side = 2 * plan.radius + 1
        by, bx = plan.radius - plan.radius_y, plan.radius - plan.radius_x
        places = scores[self.part.samples, self.y]
        for first, number, x, width in self.spans:
            place = places[:, :, x : x + number * width].unflatten(2, (number, width))
            place = place.unflatten(4, (side, side))[..., by : by + ky, bx : bx + kx]
            yield (
                band[:, first : first + number, : self.height, :width],
                place.permute(0, 2, 1, 3, 4, 5),
            )
