"""Clips that play: masks with outlines and points with their paths, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ipywidgets import VBox
from matplotlib.patches import Patch

from corrlib import views
from corrlib.errors import InputError
from corrlib.masks import DISPLAY_COLOURS, VOID
from corrlib.widgets.pictures import explore, playback

Tracks = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Scene:
    """What one picture of a player shows.

    Attributes:
        frames: ``(T, 3, H, W)``.
        masks: ``(T, H, W)`` ids, or a mask for each frame, or frame -> mask for some; shown over
            the frame in grey.
        tracks: positions ``(T, N, 2)``, visible ``(T, N)``, confidence ``(T, N)``, as
            :func:`corrlib.views.tracks` takes them.
    """

    frames: torch.Tensor
    masks: torch.Tensor | Sequence[torch.Tensor] | Mapping[int, torch.Tensor] | None = None
    tracks: Tracks | None = None

    def __post_init__(self):
        count = len(self.frames)
        if self.masks is not None:
            given = self.masks
            if not isinstance(given, Mapping) and len(given) != count:
                raise InputError(f"expected a mask for each of {count} frames, got {len(given)}")
        if self.tracks is not None:
            shapes = [tuple(part.shape) for part in self.tracks]
            wanted = (count, *shapes[0][1:2])
            if shapes != [(*wanted, 2), wanted, wanted]:
                raise InputError(
                    f"expected positions (T, N, 2), visible (T, N) and confidence (T, N) on "
                    f"{count} frames, got {', '.join(map(str, shapes))}"
                )

    def mask(self, index: int) -> torch.Tensor | None:
        if isinstance(self.masks, Mapping):
            return self.masks.get(index)
        return None if self.masks is None else self.masks[index]

    def ids(self) -> list[int]:
        """Of the objects that appear."""
        masks = self.masks.values() if isinstance(self.masks, Mapping) else self.masks
        found = set() if masks is None else {i for m in masks for i in np.unique(m).tolist()}
        return sorted(found - {0, VOID})


class FilmView:
    """Scenes side by side, of which any frame is drawn at little cost.

    Attributes:
        figure: with an axes for each scene, in their order, before any others.
    """

    def __init__(
        self,
        titles: Sequence[str],
        scenes: Sequence[Scene],
        names: Sequence[str] = (),
        tail: int = 8,
        cursor: bool = False,
    ):
        self.tail = tail
        frame = scenes[0].frames[0]
        columns = min(len(scenes), 3)
        rows = -(-len(scenes) // columns)
        aspect = frame.shape[-2] / frame.shape[-1]
        points = any(scene.tracks is not None for scene in scenes)
        gap, title, legend, beside = 0.08, 0.3, 0.34, 0.8 if points else 0.0  # inches
        ids = sorted({number for scene in scenes for number in scene.ids()})
        room = views.WIDTH - beside - gap * (columns - 1)
        side = min(room / columns, 5.4, 4.6 / aspect)
        width = columns * side + gap * (columns - 1) + beside
        foot = legend * (points + bool(ids))
        height = rows * (side * aspect + title) + foot + 0.04
        self.figure = views.LiveFigure(figsize=(width, height))

        def axes(left: float, bottom: float, wide: float):
            box = left / width, bottom / height, wide / width, side * aspect / height
            return self.figure.add_axes(box)

        self._axes, self._pictures = [], []
        for number, name in enumerate(titles):
            row, column = divmod(number, columns)
            axis = axes(column * (side + gap), height - (row + 1) * (side * aspect + title), side)
            axis.set_title(name, fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
            blank = np.zeros((*frame.shape[-2:], 3), np.uint8)
            self._pictures.append(axis.imshow(blank))
            self._axes.append(axis)
        if points:
            bottom = height - title - side * aspect
            views.confidence_bar(self.figure, axes(width - beside + gap, bottom, 0.14))
        if ids:
            self._name_objects(ids, names, legend / height * points)
        if points:
            views.legend_below(self.figure, views.point_handles(tail, cursor))

    def _name_objects(self, ids: list[int], names: Sequence[str], bottom: float) -> None:
        handles = {
            (names[number - 1] if number <= len(names) else f"object {number}"): Patch(
                facecolor=(*DISPLAY_COLOURS[number] / 255, 0.5),
                edgecolor=DISPLAY_COLOURS[number] / 255,
                lw=2,
            )
            for number in ids
        }
        views.legend_below(self.figure, handles, bottom)

    def update(
        self,
        scenes: Sequence[Scene],
        indices: Sequence[int],
        cursor: tuple[float, float] | None = None,
    ) -> None:
        """Show a frame of each scene; ``cursor`` is (x, y) of a cross on the first."""
        for axis in self._axes:
            for artist in [*axis.lines, *axis.texts]:
                artist.remove()
        for axis, picture, scene, index in zip(
            self._axes, self._pictures, scenes, indices, strict=True
        ):
            mask = scene.mask(index)
            masks = None if mask is None else {index: mask}
            picture.set_data(views.masked(scene.frames[index], masks, index))
            if scene.tracks is not None:
                views.draw_points(axis, *scene.tracks, index, self.tail)
        if cursor is not None:
            views.draw_cursor(self._axes[0], cursor)
        views.keep_limits(self._axes, scenes[0].frames)
        drawn = [artist for axis in self._axes for artist in (*axis.lines, *axis.texts)]
        self.figure.moving = [*self._pictures, *drawn]


def player(
    sides: Mapping[str, Scene],
    names: Sequence[str] = (),
    interval: int = 150,
    tail: int = 8,
    say: Callable[[int], str] | None = None,
) -> VBox:
    """Play, pause and scrub a clip, with its masks and points; several settings side by side.

    A point is filled with the colour of its confidence; one that is occluded is a ring. Each frame
    is drawn when it is first shown, and kept.

    Args:
        sides: title -> what is shown under it; clips of one length and size.
        names: of objects 1, 2, ... in the masks, for the legend.
        interval: between two frames, in milliseconds.
        tail: how many frames back the line behind each point reaches.
        say: frame -> something to say about it, in words, below the picture.
    """
    if not sides:
        raise InputError("expected at least one scene to play, got none")
    titles, scenes = list(sides), list(sides.values())
    shapes = {tuple(scene.frames.shape) for scene in scenes}
    if len(shapes) > 1 or not len(scenes[0].frames):
        raise InputError(
            "expected clips of one length and size, at least a frame long, got "
            + ", ".join(map(str, sorted(shapes)))
        )
    count = len(scenes[0].frames)
    view = FilmView(titles, scenes, names, tail)
    kept: dict[int, bytes] = {}

    def render(index: int) -> tuple[bytes, str]:
        if index not in kept:
            view.update(scenes, [index] * len(scenes))
            kept[index] = views.jpeg(view.figure)
        lines = [f"Frame {index} of 0 to {count - 1}."]
        for title, scene in sides.items():
            if scene.tracks is not None:
                seen, sure = (part[index] for part in scene.tracks[1:])
                lines.append(
                    f"{title}: {int(seen.sum())} of {len(seen)} points visible, "
                    f"mean confidence {float(sure.float().mean()):.2f}."
                )
        if say is not None:
            lines.append(say(index))
        return kept[index], "\n".join(lines)

    slider, row = playback(count, 0, interval)
    box = explore(render, {"index": slider})
    box.children = (row, *box.children[1:])
    return box
