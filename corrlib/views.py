"""Figures of the notebooks and reports.

Every function returns a matplotlib ``Figure`` that belongs to no global state: it is not drawn
twice and needs no closing. :func:`show` turns one into a picture with a text alternative.

Pictures are ``(3, H, W)``, uint8 or float in [0, 1]; maps ``(H, W)``. Colours hold for
colour-blind readers: viridis, magma, and the Okabe-Ito set for lines.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from IPython.display import Image, display
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image as PillowImage

from corrlib.affinity import full_affinity, keep_top
from corrlib.errors import InputError
from corrlib.masks import overlay

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*X"
LINE_STYLES = ("-", "--", "-.", ":")
WIDTH = 8.6  # inches; at DPI a little less than the column of a notebook
DPI = 90
BITS = 5  # kept of each colour channel in a saved picture; halves the size of photographs

_OUTLINE = [withStroke(linewidth=3.5, foreground="black")]
_THIN_OUTLINE = [withStroke(linewidth=2.2, foreground="black")]


class Picture(Image):
    """A PNG that a notebook shows with its description folded below it.

    The description is in the output's metadata, too, but JupyterLab and nbconvert, among others,
    do not hand that on to screen readers.
    """

    def _ipython_display_(self) -> None:
        data, metadata = self._repr_mimebundle_()
        display({**data, "text/plain": self.alt}, metadata=metadata, raw=True)
        words = f"<summary>Description of the figure</summary>{html.escape(self.alt)}"
        display({"text/html": f"<details>{words}</details>", "text/plain": ""}, raw=True)


def show(figure: Figure, alt: str) -> Picture:
    """The figure as a PNG for a notebook, with the text that stands for it where it is not seen.

    Raises:
        InputError: an empty ``alt``.
    """
    if not alt.strip():
        raise InputError("expected alt to say what the figure shows, got an empty text")
    return Picture(data=png(figure), format="png", alt=alt)


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, small: colours are rounded to ``BITS`` bits."""
    levels = 2**BITS - 1
    pixels = (_pixels(figure)[..., :3].astype(np.uint16) * levels + 127) // 255 * 255 // levels
    buffer = io.BytesIO()
    picture = PillowImage.fromarray(pixels.astype(np.uint8))
    picture.save(buffer, format="png", compress_level=9)
    return buffer.getvalue()


def jpeg(figure: Figure) -> bytes:
    """The figure as JPEG bytes, made in a tenth of the time of a PNG: for figures that change."""
    buffer = io.BytesIO()
    # Colour at full resolution, or else thin lines fade.
    picture = PillowImage.fromarray(_pixels(figure)).convert("RGB")
    picture.save(buffer, "jpeg", quality=90, subsampling=0)
    return buffer.getvalue()


class LiveFigure(Figure):
    """A figure most of which is drawn once.

    Attributes:
        moving: what is drawn anew every time, in this order, over all else. It may be replaced;
            what is not in it when the figure is drawn first is never drawn again.
    """

    def __init__(self, **options):
        super().__init__(dpi=DPI, **options)
        self.moving: list[Artist] = []
        self._still = None

    def pixels(self) -> np.ndarray:
        """``(H, W, 4)`` uint8."""
        if self._still is None:
            shown = [(artist, artist.get_visible()) for artist in self.moving]
            for artist, _ in shown:
                artist.set_visible(False)
            FigureCanvasAgg(self).draw()
            self._still = self.canvas.copy_from_bbox(self.bbox)
            for artist, visible in shown:
                artist.set_visible(visible)
        self.canvas.restore_region(self._still)
        for artist in self.moving:
            artist.draw(self.canvas.get_renderer())
        return np.asarray(self.canvas.buffer_rgba())


def _pixels(figure: Figure) -> np.ndarray:
    """``(H, W, 4)`` uint8 of a figure, at ``DPI``."""
    if isinstance(figure, LiveFigure):
        return figure.pixels()
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def images(
    images: Mapping[str, torch.Tensor],
    columns: int | None = None,
    cmap: str = "viridis",
    label: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A grid of titled pictures ``(3, H, W)`` and maps ``(H, W)``.

    Args:
        images: title -> picture or map.
        columns: pictures per row, at most 4 by default.
        cmap: of the maps.
        label: what the maps' values are, with units; written at their colour bars.
        limits: values at the ends of the colour bars; by default each map's own.
    """
    if not images:
        raise InputError("expected at least one picture to show, got none")
    columns = min(columns or 4, len(images))
    first = next(iter(images.values()))
    figure, axes = _grid(len(images), columns, _aspect(first))
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        axis.set_title(title, fontsize=10)
        if image.dim() == 3:
            axis.imshow(_rgb(image))
            continue
        low, high = limits or (None, None)
        drawn = axis.imshow(_numpy(image), cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        _colour_bar(figure, drawn, axis, label)
    return figure


def clip_strip(
    frames: torch.Tensor,
    masks: torch.Tensor | Mapping[int, torch.Tensor] | None = None,
    indices: Sequence[int] | None = None,
    title: str | None = None,
) -> Figure:
    """Some frames of a clip side by side, with their masks filled in where there are any.

    Args:
        frames: ``(T, 3, H, W)``.
        masks: ``(T, H, W)`` ids, or frame index -> ``(H, W)``.
        indices: of the frames to show; six spread over the clip by default.
    """
    if indices is None:
        indices = spread(len(frames), 6)
    figure, axes = _grid(len(indices), min(len(indices), 6), _aspect(frames[0]))
    for axis, index in zip(axes, indices, strict=False):
        axis.imshow(masked(frames[index], masks, index))
        axis.set_title(f"frame {index}", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
        figure.set_figheight(figure.get_figheight() + 0.2)
    return figure


def mask_comparison(
    frames: torch.Tensor,
    columns: Mapping[str, torch.Tensor | Mapping[int, torch.Tensor]],
    indices: Sequence[int],
) -> Figure:
    """Masks of several methods: a row for each frame, a column for each method.

    Args:
        frames: ``(T, 3, H, W)``.
        columns: title -> masks ``(T, H, W)``, or frame index -> ``(H, W)``.
        indices: of the frames to show.
    """
    count = len(indices) * len(columns)
    figure, axes = _grid(count, len(columns), _aspect(frames[0]), largest=2.4, titles=1)
    cells = iter(axes)
    for row, index in enumerate(indices):
        for column, (title, masks) in enumerate(columns.items()):
            axis = next(cells)
            axis.imshow(masked(frames[index], masks, index))
            if row == 0:
                axis.set_title(title, fontsize=9.5)
            if column == 0:
                axis.set_ylabel(f"frame {index}", fontsize=9)
    return figure


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    logy: bool = False,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Lines, told apart by colour, marker and dashes.

    Args:
        series: label -> (x, y).
        xlabel, ylabel: with units.
        logy: logarithmic y axis.
        limits: of the y axis; by default those of the data.
    """
    figure = Figure(figsize=(6.6, 3.4), layout="constrained")
    axis = figure.subplots()
    looks = zip(series.items(), cycle(LINE_COLOURS), cycle(MARKERS), cycle(LINE_STYLES))
    for (label, (x, y)), colour, marker, style in looks:
        x, y = np.asarray(x), np.asarray(y)
        axis.plot(
            *(x, y, style),
            color=colour,
            marker=marker,
            markersize=5,
            markevery=max(1, len(x) // 12),
            linewidth=1.6,
            label=label,
        )
    if logy:
        axis.set_yscale("log")
    if limits:
        axis.set_ylim(*limits)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if title:
        axis.set_title(title, fontsize=11)
    if len(series) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def heatmap(
    matrix: torch.Tensor,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    label: str | None = None,
    cmap: str = "viridis",
) -> Figure:
    """A matrix ``(rows, columns)`` as colours, row 0 on top; ``label`` says what the values are."""
    figure = Figure(figsize=(5.4, 4.3), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(_numpy(matrix), cmap=cmap, interpolation="nearest", aspect="auto")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    if title:
        axis.set_title(title, fontsize=11)
    _colour_bar(figure, drawn, axis, label)
    return figure


def tracks(
    frames: torch.Tensor,
    position: torch.Tensor,
    visible: torch.Tensor,
    confidence: torch.Tensor,
    indices: Sequence[int] | None = None,
    tail: int = 8,
    cursor: tuple[float, float] | None = None,
) -> Figure:
    """Points on some frames of a clip, numbered from 1, with where they came from.

    A point is filled with the colour of its confidence; one that is occluded is a ring.

    Args:
        frames: ``(T, 3, H, W)``.
        position: ``(T, N, 2)``, x and y in pixels; NaN where there is none. N may be 0.
        visible: ``(T, N)`` bool.
        confidence: ``(T, N)`` in [0, 1].
        indices: of the frames to show; three spread over the clip by default.
        tail: how many frames back the line behind each point reaches.
        cursor: (x, y) of a cross on the first picture.
    """
    if position.shape[2:] != (2,) or not (position.shape[:2] == visible.shape == confidence.shape):
        raise InputError(
            "expected positions (T, N, 2), visible (T, N) and confidence (T, N), got "
            f"{tuple(position.shape)}, {tuple(visible.shape)} and {tuple(confidence.shape)}"
        )
    if len(position) != len(frames):
        raise InputError(f"expected points on {len(frames)} frames, got them on {len(position)}")
    indices = spread(len(frames), 3) if indices is None else indices
    columns = min(len(indices), 3)
    figure, axes, beside = _labelled_grid(len(indices), columns, _aspect(frames[0]))
    for number, (axis, index) in enumerate(zip(axes, indices, strict=True)):
        axis.imshow(_rgb(frames[index]))
        axis.set_title(f"frame {index}", fontsize=9.5)
        _in_pixels(axis, rows=number % columns == 0)
        draw_points(axis, position, visible, confidence, index, tail)
    if cursor is not None:
        draw_cursor(axes[0], cursor)
    keep_limits(axes, frames)
    confidence_bar(figure, beside)
    legend_below(figure, point_handles(tail, cursor is not None))
    return figure


def draw_points(
    axis: Axes,
    position: torch.Tensor,
    visible: torch.Tensor,
    confidence: torch.Tensor,
    index: int,
    tail: int,
) -> None:
    """The points of one frame over its picture, with their paths; arguments as :func:`tracks`."""
    paths = _numpy(position[max(0, index - tail) : index + 1])  # (tail, N, 2)
    shades = colormaps["viridis"](_numpy(confidence[index]).clip(0, 1)).tolist()
    for point, (colour, seen) in enumerate(zip(shades, visible[index].tolist(), strict=True)):
        axis.plot(*paths[:, point].T, color=colour, lw=1.3, path_effects=_THIN_OUTLINE)
        x, y = paths[-1, point]
        if np.isnan(x):
            continue
        _point(axis, x, y, colour if seen else "none", "black" if seen else colour)
        axis.annotate(
            *(str(point + 1), (x, y), (5, 4)),
            textcoords="offset points",
            color="white",
            fontsize=8,
            path_effects=_THIN_OUTLINE,
            annotation_clip=True,
        )


def draw_cursor(axis: Axes, place: tuple[float, float]) -> None:
    axis.plot(*place, "+", color="white", ms=14, mew=2, path_effects=_OUTLINE)


def confidence_bar(figure: Figure, axis: Axes) -> None:
    """What the colours of :func:`draw_points` mean, drawn in axes beside the picture."""
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colormaps["viridis"]), cax=axis)
    bar.set_label("confidence (0 to 1)", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def point_handles(tail: int, cursor: bool = False) -> dict[str, Line2D]:
    """The legend of :func:`draw_points`."""
    middle = colormaps["viridis"](0.7)
    handles = {
        "visible": _handle("o", middle, "black"),
        "occluded": _handle("o", "none", middle),
        f"path of the last {tail} frames": Line2D([], [], color=middle, lw=1.6),
    }
    if cursor:
        handles["cursor"] = Line2D([], [], marker="+", color="black", lw=0, ms=10, mew=2)
    return handles


def skeletons(
    frames: torch.Tensor,
    columns: Mapping[str, torch.Tensor],
    edges: Sequence[tuple[int, int]],
    indices: Sequence[int],
    truth: Mapping[int, torch.Tensor] | None = None,
) -> Figure:
    """Joints and the bones between them: a row for each frame, a column for each method.

    Args:
        frames: ``(T, 3, H, W)``.
        columns: title -> joints ``(T, K, 2)``, x and y in pixels; NaN for a joint that was lost,
            which is left out, with its bones.
        edges: pairs of joints.
        indices: of the frames to show.
        truth: frame index -> true joints ``(K, 2)``, drawn as rings with a line to what was found.
    """
    count = len(indices) * len(columns)
    figure, axes = _grid(count, len(columns), _aspect(frames[0]), largest=3.4, titles=1)
    figure.set_figheight(figure.get_figheight() + 0.3)
    cells = iter(axes)
    bone, joint, ring, miss = "white", LINE_COLOURS[4], LINE_COLOURS[5], LINE_COLOURS[1]
    for row, index in enumerate(indices):
        for column, (title, joints) in enumerate(columns.items()):
            axis, points = next(cells), _numpy(joints[index])
            axis.imshow(_rgb(grey(frames[index])))
            if row == 0:
                axis.set_title(title, fontsize=9.5)
            if column == 0:
                axis.set_ylabel(f"frame {index}", fontsize=9)
            for pair in edges:
                axis.plot(*points[list(pair)].T, color=bone, lw=1.5, path_effects=_THIN_OUTLINE)
            if truth is not None and index in truth:
                true = _numpy(truth[index])
                for ends in zip(points, true, strict=True):
                    axis.plot(*np.array(ends).T, color=miss, lw=1.5)
                axis.plot(*true.T, "o", mfc="none", mec=ring, ms=8, mew=1.6)
            for x, y in points:
                _point(axis, x, y, joint, "black", size=5)
    keep_limits(axes, frames)
    handles = {
        "joint": _handle("o", joint, "black"),
        "bone": Line2D([], [], color=bone, lw=1.6, path_effects=_THIN_OUTLINE),
    }
    if truth is not None:
        handles["true place"] = _handle("o", "none", ring)
        handles["error"] = Line2D([], [], color=miss, lw=1.6)
    legend_below(figure, handles)
    return figure


def sweeps(
    panels: Mapping[str, tuple[Sequence[object], Mapping[str, Sequence[float]]]],
    ylabel: str,
    marks: Mapping[str, object] | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """What each of several settings does: a panel for each, side by side, with one y axis.

    Args:
        panels: name of a setting -> the values it takes, evenly spaced along x whatever they are,
            and the series, label -> a figure for each value.
        ylabel: of all panels.
        marks: name of a setting -> the value to mark by a vertical line.
        limits: of the y axis; by default those of the data.
    """
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, (values, series)) in zip(axes, panels.items(), strict=True):
        places = range(len(values))
        looks = zip(series.items(), cycle(LINE_COLOURS), cycle(MARKERS), cycle(LINE_STYLES))
        for (label, figures), colour, marker, style in looks:
            axis.plot(
                *(places, figures, style), color=colour, marker=marker, ms=4.5, lw=1.6, label=label
            )
        axis.set_xticks(places, [str(value) for value in values], fontsize=8)
        axis.set_xlabel(name, fontsize=9)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if marks and name in marks:
            mark = list(values).index(marks[name])
            axis.axvline(
                mark, color="#555555", lw=1, ls=(0, (2, 2)), label="setting used elsewhere"
            )
    axes[0].set_ylabel(ylabel)
    if limits:
        axes[0].set_ylim(*limits)
    handles, labels = axes[0].get_legend_handles_labels()
    legend_below(figure, dict(zip(labels, handles, strict=True)))
    return figure


def settings_comparison(
    frame: torch.Tensor,
    masks: Mapping[str, torch.Tensor | None],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    index: int,
) -> Figure:
    """One frame with several masks, above their scores over time.

    Args:
        frame: ``(3, H, W)``.
        masks: title -> ``(H, W)`` ids, ``None`` for the frame alone.
        series: label -> frames and the J of each.
        index: of the frame, marked in the curves.
    """
    side = WIDTH / len(masks)
    figure = Figure(figsize=(WIDTH, side * _aspect(frame) + 2.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(side * _aspect(frame) + 0.3, 1.9))
    axes = above.subplots(1, len(masks), squeeze=False)[0]
    for axis, (title, mask) in zip(axes, masks.items(), strict=True):
        axis.imshow(_rgb(frame) if mask is None else masked(frame, {index: mask}, index))
        axis.set_title(title, fontsize=9.5)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axis = below.subplots()
    looks = zip(series.items(), cycle(LINE_COLOURS), cycle(MARKERS), cycle(LINE_STYLES))
    for (label, (x, y)), colour, marker, style in looks:
        axis.plot(*(x, y, style), color=colour, marker=marker, ms=5, lw=1.6, label=label)
    axis.axvline(index, color="#555555", lw=1, label="this frame")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("frame", fontsize=9)
    axis.set_ylabel("J (1 is perfect)", fontsize=9)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return figure


def place_in(figure: Figure, across: float, down: float) -> tuple[int, float, float] | None:
    """Which axes of a figure a place lies in, and where there.

    Args:
        figure: drawn once at least, as by :func:`png`.
        across, down: shares of the figure's width and height from the top left, as a click on its
            picture gives them.

    Returns:
        The number of the axes among ``figure.axes``, x and y there; ``None`` between the axes.
    """
    width, height = figure.bbox.width, figure.bbox.height
    point = across * width, (1 - down) * height
    for number, axis in enumerate(figure.axes):
        if axis.bbox.contains(*point):
            x, y = axis.transData.inverted().transform(point)
            return number, float(x), float(y)
    return None


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
            height = WIDTH / (count + 1) * _aspect(target)
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
        self._target.imshow(_rgb(target))
        self._target.set_title("target", fontsize=10)
        self._cell = self._square(self._target, "white", "-")
        lines = {"color": "white", "linewidth": 0.8, "alpha": 0.6}
        self._column = self._target.axvline(**lines)
        self._row = self._target.axhline(**lines)
        # A dim, grey reference lets the colours of the attention stand out.
        dim = (_rgb(grey(reference)) * 0.6).astype(np.uint8)
        self._maps, self._peaks, self._squares = [], [], []
        for title, axis in zip(self.titles, self._axes, strict=True):
            axis.set_title(title, fontsize=10)
            axis.imshow(dim)
            self._maps.append(axis.imshow(np.zeros((1, 1, 4)), interpolation="nearest"))
            axis.set_xlim(self._target.get_xlim())
            axis.set_ylim(self._target.get_ylim())
            self._squares.append(self._square(axis, "white", "--"))
            (peak,) = axis.plot([], [], "+", color="#56B4E9", markersize=13, markeredgewidth=2)
            peak.set_path_effects(_OUTLINE)
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
            share = _numpy(values) / strongest
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
            square.set_path_effects(_OUTLINE)
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


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices spread evenly over ``range(count)``, both ends included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def _grid(
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


def _labelled_grid(count: int, columns: int, aspect: float) -> tuple[Figure, list[Axes], Axes]:
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


def _point(axis: Axes, x: float, y: float, face, edge, size: float = 6) -> None:
    """A dot, or a ring where ``face`` is "none", that stands out on any picture."""
    if face == "none":
        axis.plot([x], [y], "o", mfc="none", mec="black", ms=size + 1, mew=3.4)
        axis.plot([x], [y], "o", mfc="none", mec=edge, ms=size + 1, mew=1.8)
    else:
        axis.plot([x], [y], "o", mfc=face, mec="black", ms=size + 2, mew=0)
        axis.plot([x], [y], "o", mfc=face, mec=edge, ms=size, mew=1)


def _handle(marker: str, face, edge) -> Line2D:
    return Line2D([], [], marker=marker, lw=0, mfc=face, mec=edge, ms=7, mew=1.6)


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


def _in_pixels(axis: Axes, rows: bool) -> None:
    """Name the axes of a picture, and number a few places along them."""
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(labelsize=7.5, length=2)
    axis.set_xlabel("x (pixels)", fontsize=8)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(labelleft=rows)
    if rows:
        axis.set_ylabel("y (pixels)", fontsize=8)


def keep_limits(axes: Sequence[Axes], frames: torch.Tensor) -> None:
    """Show the picture, whatever was drawn beside it."""
    height, width = frames.shape[-2:]
    for axis in axes:
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)


def _colour_bar(figure: Figure, drawn, axis: Axes, label: str | None) -> None:
    bar = figure.colorbar(drawn, ax=axis, shrink=0.85, fraction=0.06, pad=0.03)
    bar.ax.tick_params(labelsize=8)
    if label:
        bar.set_label(label, fontsize=9)


def masked(
    frame: torch.Tensor, masks: torch.Tensor | Mapping[int, torch.Tensor] | None, index: int
) -> np.ndarray:
    """The frame in colour, or in grey under its mask, which stands out there on any object."""
    if masks is None or (isinstance(masks, Mapping) and index not in masks):
        return _rgb(frame)
    return _rgb(overlay(grey(frame), masks[index]))


def grey(picture: torch.Tensor) -> torch.Tensor:
    """A picture ``(3, H, W)`` without its colours, uint8: an overlay shows on any object then."""
    return _bytes(picture).float().mean(dim=0, keepdim=True).expand(3, -1, -1).to(torch.uint8)


def _bytes(picture: torch.Tensor) -> torch.Tensor:
    if picture.dtype == torch.uint8:
        return picture
    return (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def _rgb(picture: torch.Tensor) -> np.ndarray:
    """``(3, H, W)`` uint8 or float in [0, 1] to ``(H, W, 3)`` uint8."""
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise InputError(f"expected a picture (3, H, W), got shape {tuple(picture.shape)}")
    return _bytes(picture).cpu().permute(1, 2, 0).numpy()


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()


def _aspect(picture: torch.Tensor) -> float:
    return picture.shape[-2] / picture.shape[-1]
