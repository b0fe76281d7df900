"""The point explorer: put a point on the first frame and watch where it goes."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import torch
from ipywidgets import HBox, VBox
from matplotlib.figure import Figure

from corrlib.propagation import FeatureExtractor, PropagationConfig
from corrlib.tracks import track_points
from corrlib.widgets.film import FilmView, Scene
from corrlib.widgets.pictures import Button, explore, playback, slider_of


def point_explorer(
    frames: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    points: Sequence[tuple[float, float]] = (),
    tail: int = 8,
) -> VBox:
    """Choose points on the first frame and see where they go, on a frame that plays.

    A point is chosen by a click on the first frame, or with the sliders and the button.

    Args:
        frames: ``(T, 3, H, W)``.
        extractor, config: as for :func:`corrlib.tracks.track_points`; with features that are kept
            (:mod:`corrlib.feature_cache`) a new point takes less than a second for a short clip.
        points: (x, y) of those chosen at the start.
        tail: frames that the line behind each point reaches back.
    """
    height, width = frames.shape[-2:]
    shape = len(frames), 0
    tracks = [torch.zeros(*shape, 2), torch.zeros(shape).bool(), torch.zeros(shape)]
    titles = ("frame 0: put points here", "the frame that plays")
    view = FilmView(titles, [Scene(frames, tracks=tuple(tracks))] * 2, tail=tail, cursor=True)

    def add(new: Sequence[tuple[float, float]]) -> None:
        found = list(track_points(frames, torch.tensor(new).float(), extractor, config))
        for number, name in enumerate(("position", "visible", "confidence")):
            more = torch.stack([getattr(estimate, name) for estimate in found])
            tracks[number] = torch.cat([tracks[number], more], dim=1)
        count.value = tracks[1].shape[1]

    def keep(number: int) -> None:
        tracks[:] = [part[:, :number] for part in tracks]
        count.value = tracks[1].shape[1]

    x = slider_of("Cursor, column (x, pixels)", width // 2, 0, width - 1)
    y = slider_of("Cursor, row (y, pixels)", height // 2, 0, height - 1)
    index, player = playback(len(frames), len(frames) // 2, interval=200)
    count = ipywidgets.IntText()  # not shown: the picture follows it, as it follows the sliders
    buttons = (
        Button("Track the point under the cursor", lambda: add([(x.value, y.value)])),
        Button("Remove the last point", lambda: keep(max(count.value - 1, 0))),
        Button("Remove all", lambda: keep(0)),
    )

    def click(axes: int, column: float, row: float) -> None:
        if axes == 0:  # the first frame
            x.value, y.value = (
                min(max(round(place), 0), side - 1)
                for place, side in ((column, width), (row, height))
            )
            add([(x.value, y.value)])

    def render(index: int, x: int, y: int, count: int) -> tuple[Figure, str]:
        view.update([Scene(frames, tracks=tuple(tracks))] * 2, [0, index], cursor=(x, y))
        text = f"Cursor at ({x}, {y}) on frame 0. "
        if not count:
            return view.figure, text + "No point is tracked yet."
        position, visible, confidence = (part[index].tolist() for part in tracks)
        text += f"Frame {index}: {sum(visible)} of {count} points visible.\n"
        each = zip(position, visible, confidence, strict=True)
        return view.figure, text + " · ".join(
            f"{number}: {f'({at[0]:.0f}, {at[1]:.0f})' if seen else 'occluded'}, "
            f"confidence {sure:.2f}"
            for number, (at, seen, sure) in enumerate(each, start=1)
        )

    if len(points):
        add(points)
    box = explore(render, {"index": index, "x": x, "y": y, "count": count}, click)
    _, picture, words = box.children
    wrap = {"flex_flow": "row wrap"}
    box.children = (HBox([x, y], layout=wrap), HBox(buttons, layout=wrap), player, picture, words)
    return box
