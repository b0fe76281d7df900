"""The references a video is matched against: the first frame, and the latest N.

One search finds, for every target cell, the k most similar cells of *all* references together
(Jabri et al. 2020, test-time algorithm), and their labels are averaged with softmax weights. The
same result, written slowly, is ::

    transport(labels, keep_top(restricted_affinity(references, target, M, τ), k))

Here each reference is cut into strips once, when it enters the memory. Per row of tiles, scores
are one matrix product per reference (see :mod:`corrlib.tiles`), and the top k are found exactly in
two steps: the k best of all cells lie in the k window rows with the largest maxima, so only those
rows are searched.
"""

from __future__ import annotations

import torch

from corrlib.tiles import TILE


class ReferenceMemory:
    """Features and labels of up to ``1 + latest`` references of one size.

    Args:
        shape: ``(C, h, w)`` of the features.
        labels: number L of label maps.
        latest: how many frames are kept besides the first.
        radius: M, in cells.
        topk: k, over all references together.
        temperature: τ of the softmax over the k scores.
        dtype: of features and scores; labels and weights are float32.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        labels: int,
        *,
        latest: int,
        radius: int,
        topk: int,
        temperature: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.channels, self.height, self.width = shape
        self.topk, self.temperature = topk, temperature
        self.radius_y = min(radius, self.height - 1)
        self.radius_x = min(radius, self.width - 1)
        self.tiles_y, self.tiles_x = -(-self.height // TILE), -(-self.width // TILE)
        self.window_y, self.window_x = TILE + 2 * self.radius_y, TILE + 2 * self.radius_x
        self.covered_y = self.tiles_y * TILE + 2 * self.radius_y
        self.slots = 1 + latest
        self.seen = 0  # references ever added
        strips = (self.slots, self.tiles_x, self.covered_y * self.window_x, self.channels)
        self.strips = torch.zeros(strips, dtype=dtype, device=device)
        self.labels = torch.zeros(self.slots, self.height * self.width, labels, device=device)
        self._outside: dict[tuple[int, int], torch.Tensor] = {}

    @staticmethod
    def estimate(
        shape: tuple[int, int, int], labels: int, latest: int, radius: int, item: int = 4
    ) -> int:
        """Bytes that a memory of this kind holds, its working space included."""
        channels, height, width = shape
        tiles_y, tiles_x = -(-height // TILE), -(-width // TILE)
        radius_y, radius_x = min(radius, height - 1), min(radius, width - 1)
        window = (TILE + 2 * radius_y) * (TILE + 2 * radius_x)
        strip = (tiles_y * TILE + 2 * radius_y) * (TILE + 2 * radius_x) * channels
        scores = tiles_x * TILE * TILE * window
        borders = min(tiles_y, 2 * -(-radius_y // TILE) + 1)
        references = (1 + latest) * (
            item * (tiles_x * strip + scores) + 4 * height * width * labels
        )
        return references + borders * scores * item

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Remember a frame: features ``(C, h, w)``, labels ``(L, h, w)``.

        The first stays for ever; once the memory is full each further one replaces the oldest.
        """
        if self.seen == 0:
            slot = 0
        elif self.slots == 1:
            return
        else:
            slot = 1 + (self.seen - 1) % (self.slots - 1)
        self.seen += 1
        self.labels[slot] = labels.flatten(1).T
        cells = features.permute(1, 2, 0).to(self.strips.dtype)  # (h, w, C)
        strips = self.strips[slot].view(self.tiles_x, self.covered_y, self.window_x, self.channels)
        rows = slice(self.radius_y, self.radius_y + self.height)
        for tile in range(self.tiles_x):  # cells outside the image stay zero; they are masked
            left = tile * TILE - self.radius_x
            start, stop = max(left, 0), min(left + self.window_x, self.width)
            strips[tile, rows, start - left : stop - left] = cells[:, start:stop]

    def match(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best reference cells of every target cell.

        Args:
            target: features ``(C, h, w)``.

        Returns:
            weights ``(h·w, k)``, summing to 1 over k, and indices ``(h·w, k)`` into the references'
            cells ``(R·h·w)``. Fewer than k cells in reach leave weights of 0.
        """
        references = min(self.seen, self.slots)
        windows = self.window_y * self.window_x
        strips = self.strips[:references]
        scores = strips.new_empty(references, self.tiles_x, TILE * TILE, windows)
        weights, indices = [], []
        for row in range(self.tiles_y):
            tiles = self._target_tiles(target, row)
            start = row * TILE * self.window_x
            outside = self._outside_of(row)
            for reference in range(references):
                window = strips[reference, :, start : start + windows]
                torch.bmm(tiles, window.transpose(1, 2), out=scores[reference])
                scores[reference] += outside
            value, index = self._top(scores, row)
            weights.append((value.float() / self.temperature).softmax(dim=-1))
            indices.append(index)
        return self._untile(torch.stack(weights)), self._untile(torch.stack(indices))

    def copy(self, weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Labels ``(L, h, w)``: the weighted mean of the matched cells' labels."""
        cells = self.labels.flatten(0, 1)
        copied = torch.zeros(len(indices), cells.shape[1], device=cells.device)
        for rank in range(indices.shape[1]):
            copied.addcmul_(weights[:, rank, None], cells[indices[:, rank]])
        return copied.T.unflatten(1, (self.height, self.width))

    def _target_tiles(self, target: torch.Tensor, row: int) -> torch.Tensor:
        """``(tiles_x, 64, C)``; cells beyond the map are zeros."""
        y = row * TILE
        rows = target[:, y : y + TILE].permute(1, 2, 0)
        tiles = self.strips.new_zeros(TILE, self.tiles_x * TILE, self.channels)
        tiles[: rows.shape[0], : self.width] = rows
        tiles = tiles.unflatten(1, (self.tiles_x, TILE)).transpose(0, 1)
        return tiles.reshape(self.tiles_x, TILE * TILE, self.channels)

    def _outside_of(self, row: int) -> torch.Tensor:
        """-inf where a window cell is out of a target's reach or of the image, ``(tiles_x, 64,
        window)``. Rows of tiles far from the border share one."""
        top = row * TILE - self.radius_y
        inside = (max(0, -top), min(self.window_y, self.height - top))
        if inside not in self._outside:
            device = self.strips.device

            def reach(tiles: int, window: int, radius: int) -> torch.Tensor:
                # Target i of a tile sees window cells i ... i + 2·radius.
                offset = torch.arange(window) - torch.arange(TILE)[:, None]
                return ((offset >= 0) & (offset <= 2 * radius)).expand(tiles, TILE, window)

            y = torch.arange(self.window_y)
            vertical = reach(1, self.window_y, self.radius_y) & (y >= inside[0]) & (y < inside[1])
            x = torch.arange(self.window_x) + torch.arange(self.tiles_x)[:, None] * TILE
            x = (x - self.radius_x)[:, None]
            horizontal = reach(self.tiles_x, self.window_x, self.radius_x) & (x >= 0)
            horizontal = horizontal & (x < self.width)
            seen = vertical[:, :, None, :, None] & horizontal[:, None, :, None, :]
            outside = torch.zeros(seen.shape, dtype=self.strips.dtype)
            outside.masked_fill_(~seen, -torch.inf)
            self._outside[inside] = outside.view(self.tiles_x, TILE * TILE, -1).to(device)
        return self._outside[inside]

    def _top(self, scores: torch.Tensor, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Top k of one row of tiles: scores and cell indices, each ``(tiles_x · 64, k)``."""
        references = scores.shape[0]
        targets = self.tiles_x * TILE * TILE
        scores = scores.view(references, targets, self.window_y, self.window_x)
        best = scores.amax(dim=3).transpose(0, 1).reshape(targets, references * self.window_y)
        rows = best.topk(min(self.topk, best.shape[1]), dim=1).indices  # (targets, rows)
        reference, y = rows // self.window_y, rows % self.window_y
        every = torch.arange(targets, device=scores.device)
        candidates = scores[reference, every[:, None], y].flatten(1)  # (targets, rows · window_x)
        value, place = candidates.topk(min(self.topk, candidates.shape[1]), dim=1)
        chosen, x = place // self.window_x, place % self.window_x
        reference, y = reference.gather(1, chosen), y.gather(1, chosen)
        y = y + (row * TILE - self.radius_y)
        x = x + ((every // TILE**2) * TILE - self.radius_x)[:, None]
        # Where fewer than k cells are in reach the rest have weight 0: any valid index will do.
        index = (reference * self.height + y) * self.width + x
        return value, torch.where(value > -torch.inf, index, 0)

    def _untile(self, rows: torch.Tensor) -> torch.Tensor:
        """``(tiles_y, tiles_x · 64, k)`` in tile order to ``(h·w, k)`` in image order."""
        k = rows.shape[-1]
        cells = rows.view(self.tiles_y, self.tiles_x, TILE, TILE, k).transpose(1, 2)
        cells = cells.reshape(self.tiles_y * TILE, self.tiles_x * TILE, k)
        return cells[: self.height, : self.width].reshape(-1, k)
