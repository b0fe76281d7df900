"""What figures share: sizes, colours and lines, axes for pictures, legends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*X"
LINE_STYLES = ("-", "--", "-.", ":")
WIDTH = 8.6  # inches; at DPI a little less than the column of a notebook
DPI = 90

OUTLINE = [withStroke(linewidth=3.5, foreground="black")]
THIN_OUTLINE = [withStroke(linewidth=2.2, foreground="black")]


def grid(
    count: int, columns: int, aspect: float, largest: float = 3.4, titles: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` frameless axes, row by row, for pictures of height/width ``aspect``.

    ``largest`` is the width in inches of a picture where there is room for it, ``titles`` the
    number of rows that have one, all by default.
    """
    rows = -(-count // columns)
    side = min(WIDTH / columns, largest)
    height = rows * side * aspect + 0.3 * (rows if titles is None else titles)
    figure = Figure(figsize=(side * columns, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def labelled_grid(count: int, columns: int, aspect: float) -> tuple[Figure, list[Axes], Axes]:
    """Axes for pictures with numbered sides, row by row, and one beside them for a colour bar.

    Everything has a place from the start, which is quicker to draw than a layout that adapts.
    """
    rows = -(-count // columns)
    left, right, gap, above, below, legend = 0.52, 0.85, 0.1, 0.28, 0.42, 0.3  # inches
    side = min((WIDTH - left - right - gap * (columns - 1)) / columns, 3.4)
    width = left + side * columns + gap * (columns - 1) + right
    height = rows * (above + side * aspect + below) + legend
    figure = Figure(figsize=(width, height))
    axes = []
    for number in range(count):
        row, column = divmod(number, columns)
        x = left + column * (side + gap)
        y = height - (row + 1) * (above + side * aspect) - row * below
        axes.append(figure.add_axes((x / width, y / height, side / width, side * aspect / height)))
    x, y = width - right + gap, height - above - side * aspect
    bar = figure.add_axes((x / width, y / height, 0.14 / width, side * aspect / height))
    return figure, axes, bar


def legend_below(figure: Figure, handles: Mapping[str, Artist], bottom: float = 0) -> None:
    """A row of handles, below everything or, as a share of the height, ``bottom`` above that."""
    layout = figure.get_layout_engine()
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center" if layout else "lower center",
        bbox_to_anchor=None if layout else (0, bottom, 1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handletextpad=0.6,
    )


def keep_limits(axes: Sequence[Axes], frames: torch.Tensor) -> None:
    """Show the picture, whatever was drawn beside it."""
    height, width = frames.shape[-2:]
    for axis in axes:
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)


def colour_bar(figure: Figure, drawn, axis: Axes, label: str | None) -> None:
    bar = figure.colorbar(drawn, ax=axis, shrink=0.85, fraction=0.06, pad=0.03)
    bar.ax.tick_params(labelsize=8)
    if label:
        bar.set_label(label, fontsize=9)
