"""Points with their paths, and joints with bones, over frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from corrlib.errors import InputError
from corrlib.views.frames import aspect, grey, rgb, spread, to_numpy
from corrlib.views.style import (
    LINE_COLOURS,
    OUTLINE,
    THIN_OUTLINE,
    grid,
    keep_limits,
    labelled_grid,
    legend_below,
)


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
    figure, axes, beside = labelled_grid(len(indices), columns, aspect(frames[0]))
    for number, (axis, index) in enumerate(zip(axes, indices, strict=True)):
        axis.imshow(rgb(frames[index]))
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
    paths = to_numpy(position[max(0, index - tail) : index + 1])  # (tail, N, 2)
    shades = colormaps["viridis"](to_numpy(confidence[index]).clip(0, 1)).tolist()
    for point, (colour, seen) in enumerate(zip(shades, visible[index].tolist(), strict=True)):
        axis.plot(*paths[:, point].T, color=colour, lw=1.3, path_effects=THIN_OUTLINE)
        x, y = paths[-1, point]
        if np.isnan(x):
            continue
        _point(axis, x, y, colour if seen else "none", "black" if seen else colour)
        axis.annotate(
            *(str(point + 1), (x, y), (5, 4)),
            textcoords="offset points",
            color="white",
            fontsize=8,
            path_effects=THIN_OUTLINE,
            annotation_clip=True,
        )


def draw_cursor(axis: Axes, place: tuple[float, float]) -> None:
    axis.plot(*place, "+", color="white", ms=14, mew=2, path_effects=OUTLINE)


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
    figure, axes = grid(count, len(columns), aspect(frames[0]), largest=3.4, titles=1)
    figure.set_figheight(figure.get_figheight() + 0.3)
    cells = iter(axes)
    bone, joint, ring, miss = "white", LINE_COLOURS[4], LINE_COLOURS[5], LINE_COLOURS[1]
    for row, index in enumerate(indices):
        for column, (title, joints) in enumerate(columns.items()):
            axis, points = next(cells), to_numpy(joints[index])
            axis.imshow(rgb(grey(frames[index])))
            if row == 0:
                axis.set_title(title, fontsize=9.5)
            if column == 0:
                axis.set_ylabel(f"frame {index}", fontsize=9)
            for pair in edges:
                axis.plot(*points[list(pair)].T, color=bone, lw=1.5, path_effects=THIN_OUTLINE)
            if truth is not None and index in truth:
                true = to_numpy(truth[index])
                for ends in zip(points, true, strict=True):
                    axis.plot(*np.array(ends).T, color=miss, lw=1.5)
                axis.plot(*true.T, "o", mfc="none", mec=ring, ms=8, mew=1.6)
            for x, y in points:
                _point(axis, x, y, joint, "black", size=5)
    keep_limits(axes, frames)
    handles = {
        "joint": _handle("o", joint, "black"),
        "bone": Line2D([], [], color=bone, lw=1.6, path_effects=THIN_OUTLINE),
    }
    if truth is not None:
        handles["true place"] = _handle("o", "none", ring)
        handles["error"] = Line2D([], [], color=miss, lw=1.6)
    legend_below(figure, handles)
    return figure


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


def _in_pixels(axis: Axes, rows: bool) -> None:
    """Name the axes of a picture, and number a few places along them."""
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(labelsize=7.5, length=2)
    axis.set_xlabel("x (pixels)", fontsize=8)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params(labelleft=rows)
    if rows:
        axis.set_ylabel("y (pixels)", fontsize=8)
