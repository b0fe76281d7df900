"""Numbers as lines and colours: curves over time, a matrix, what settings do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib.figure import Figure

from corrlib.views.frames import aspect, masked, rgb, to_numpy
from corrlib.views.style import LINE_COLOURS, LINE_STYLES, MARKERS, WIDTH, colour_bar, legend_below


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
    drawn = axis.imshow(to_numpy(matrix), cmap=cmap, interpolation="nearest", aspect="auto")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    if title:
        axis.set_title(title, fontsize=11)
    colour_bar(figure, drawn, axis, label)
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
    figure = Figure(figsize=(WIDTH, side * aspect(frame) + 2.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(side * aspect(frame) + 0.3, 1.9))
    axes = above.subplots(1, len(masks), squeeze=False)[0]
    for axis, (title, mask) in zip(axes, masks.items(), strict=True):
        axis.imshow(rgb(frame) if mask is None else masked(frame, {index: mask}, index))
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
