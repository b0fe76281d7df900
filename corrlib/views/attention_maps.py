"""Attention: where a target cell looks, as a map, in numbers and over the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from corrlib.affinity import full_affinity, keep_top
from corrlib.errors import InputError
from corrlib.views.frames import aspect, grey, rgb, to_numpy
from corrlib.views.style import OUTLINE, WIDTH


def attention(
    reference: torch.Tensor,
    target: torch.Tensor,
    panels: Mapping[str, torch.Tensor],
    cell: tuple[int, int],
    stride: int,
    radius: int | None = None,
) -> Figure:
    """Where a target cell looks: the target beside the reference under each attention map.

    Args:
        reference, target: frames ``(3, H, W)``.
        panels: title -> attention ``(h, w)`` over the reference's cells, summing to 1.
        cell: (u, v), column and row of the target cell.
        stride: pixels per cell.
        radius: M in cells; draws the square that restricted attention may look in.
    """
    view = AttentionView(reference, target, tuple(panels), stride)
    view.update(tuple(panels.values()), cell, radius)
    return view.figure


class AttentionView:
    """The figure of :func:`attention`, which can be updated at little cost."""

    def __init__(
        self,
        reference: torch.Tensor,
        target: torch.Tensor,
        titles: Sequence[str],
        stride: int,
        axes: Sequence[Axes] | None = None,
    ):
        """``axes``: of the target, then of each map; by default those of a new figure."""
        self.stride, self.titles = stride, tuple(titles)
        if axes is None:
            count = len(self.titles)
            height = WIDTH / (count + 1) * aspect(target)
            figure = Figure(figsize=(WIDTH, height + 0.56))
            bottom, top = 0.26 / (height + 0.56), 1 - 0.3 / (height + 0.56)
            axes = figure.subplots(
                1,
                count + 1,
                gridspec_kw={"left": 0.005, "right": 0.995, "bottom": bottom, "top": top}
                | {"wspace": 0.04},
            )
        self._target, *self._axes = axes
        self.figure = self._target.figure
        for axis in (self._target, *self._axes):
            axis.set_xticks([])
            axis.set_yticks([])
        self._target.imshow(rgb(target))
        self._target.set_title("target", fontsize=10)
        self._cell = self._square(self._target, "white", "-")
        lines = {"color": "white", "linewidth": 0.8, "alpha": 0.6}
        self._column = self._target.axvline(**lines)
        self._row = self._target.axhline(**lines)
        # A dim, grey reference lets the colours of the attention stand out.
        dim = (rgb(grey(reference)) * 0.6).astype(np.uint8)
        self._maps, self._peaks, self._squares = [], [], []
        for title, axis in zip(self.titles, self._axes, strict=True):
            axis.set_title(title, fontsize=10)
            axis.imshow(dim)
            self._maps.append(axis.imshow(np.zeros((1, 1, 4)), interpolation="nearest"))
            axis.set_xlim(self._target.get_xlim())
            axis.set_ylim(self._target.get_ylim())
            self._squares.append(self._square(axis, "white", "--"))
            (peak,) = axis.plot([], [], "+", color="#56B4E9", markersize=13, markeredgewidth=2)
            peak.set_path_effects(OUTLINE)
            self._peaks.append(peak)

    def update(
        self, maps: Sequence[torch.Tensor], cell: tuple[int, int], radius: int | None = None
    ) -> None:
        """Show other attention maps ``(h, w)``, of another cell (u, v)."""
        u, v = cell
        s = self.stride
        self._place(self._cell, u, v, 0)
        self._column.set_xdata([u * s + (s - 1) / 2])
        self._row.set_ydata([v * s + (s - 1) / 2])
        self._target.set_xlabel(f"□ cell ({u}, {v})", fontsize=9)
        parts = (maps, self._axes, self._maps, self._peaks, self._squares)
        for values, axis, picture, peak, square in zip(*parts, strict=True):
            height, width = values.shape
            strongest = max(float(values.max()), 1e-12)
            share = to_numpy(values) / strongest
            colours = colormaps["magma"](0.35 + 0.65 * share)
            colours[..., 3] = np.minimum(1, 1.2 * share**0.5) * 0.9
            picture.set_data(colours)
            picture.set_extent((-0.5, width * s - 0.5, height * s - 0.5, -0.5))
            x, y = peak_cell(values)
            peak.set_data([x * s + (s - 1) / 2], [y * s + (s - 1) / 2])
            axis.set_xlabel(f"+ strongest: cell ({x}, {y}), {strongest:.3g}", fontsize=9)
            square.set_visible(radius is not None)
            if radius is not None:
                self._place(square, u, v, radius)

    @property
    def moving(self) -> list[Artist]:
        """Everything in the pictures that :meth:`update` changes, for a :class:`LiveFigure`."""
        target = [self._column, self._row, self._cell]
        return [*target, *self._maps, *self._squares, *self._peaks]

    def _square(self, axis: Axes, colour: str, style: str) -> Rectangle:
        square = Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour, linestyle=style, lw=1.6)
        if style == "-":
            square.set_path_effects(OUTLINE)
        return axis.add_patch(square)

    def _place(self, square: Rectangle, u: int, v: int, radius: int) -> None:
        """Frame the cells at most ``radius`` rows and columns from (u, v)."""
        s = self.stride
        square.set_xy(((u - radius) * s - 0.5, (v - radius) * s - 0.5))
        square.set_width((2 * radius + 1) * s)
        square.set_height((2 * radius + 1) * s)


def attention_map(
    reference: torch.Tensor,
    target: torch.Tensor,
    cell: tuple[int, int],
    temperature: float,
    radius: int | None = None,
    topk: int | None = None,
) -> torch.Tensor:
    """One column of an affinity as a map: how much each reference cell explains a target cell.

    Args:
        reference, target: features ``(1, C, h, w)``.
        cell: (u, v), column and row of the target cell.
        temperature: τ of the softmax.
        radius: M; only cells at most so many rows and columns away are looked at. ``None`` for
            full attention.
        topk: k; only the k best of these cells keep a weight. ``None`` for all.

    Returns:
        ``(h, w)``, summing to 1.
    """
    u, v = cell
    height, width = reference.shape[-2:]
    if not (0 <= u < target.shape[-1] and 0 <= v < target.shape[-2]):
        raise InputError(
            f"expected a cell (u, v) within {target.shape[-1]} columns and {target.shape[-2]} "
            f"rows, got {cell}"
        )
    rows, columns = slice(0, height), slice(0, width)
    if radius is not None:
        rows = slice(max(v - radius, 0), v + radius + 1)
        columns = slice(max(u - radius, 0), u + radius + 1)
    seen = reference[:, :, rows, columns]
    affinity = full_affinity(seen, target[:, :, v : v + 1, u : u + 1], temperature)
    if topk is not None:
        affinity = keep_top(affinity, topk)
    result = torch.zeros(height, width)
    result[rows, columns] = affinity[0, :, 0].unflatten(0, seen.shape[-2:]).cpu()
    return result


def peak_cell(values: torch.Tensor) -> tuple[int, int]:
    """(u, v), column and row, of the largest value of a map ``(h, w)``."""
    v, u = divmod(int(values.argmax()), values.shape[1])
    return u, v


def entropy_bits(attention: torch.Tensor) -> float:
    """Entropy of an attention map ``(h, w)`` in bits: 0 for one cell, k if spread over 2^k."""
    return float(torch.special.entr(attention.double()).sum() / np.log(2))
