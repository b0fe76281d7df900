"""Pictures, maps and masks in a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from corrlib.errors import InputError
from corrlib.views.frames import aspect, masked, rgb, spread, to_numpy
from corrlib.views.style import colour_bar, grid


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
    figure, axes = grid(len(images), columns, aspect(first))
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        axis.set_title(title, fontsize=10)
        if image.dim() == 3:
            axis.imshow(rgb(image))
            continue
        low, high = limits or (None, None)
        drawn = axis.imshow(
            to_numpy(image), cmap=cmap, vmin=low, vmax=high, interpolation="nearest"
        )
        colour_bar(figure, drawn, axis, label)
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
    figure, axes = grid(len(indices), min(len(indices), 6), aspect(frames[0]))
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
    figure, axes = grid(count, len(columns), aspect(frames[0]), largest=2.4, titles=1)
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
