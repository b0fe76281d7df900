"""Interactive figures: controls, a picture that follows them, and what it shows in words.

They need core ipywidgets only, and work alike in JupyterLab, VS Code and Colab: the picture is a
PNG, drawn by the kernel. A click on it reaches the kernel through a text field that is not shown;
whatever a click does, sliders and buttons do, too, and so the keyboard. A mistake in a callback
raises also where nobody looks.
"""

from __future__ import annotations

import base64
import html
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import ipywidgets
import torch
from ipywidgets import FloatLogSlider, HBox, IntSlider, VBox
from matplotlib.figure import Figure

from corrlib import views
from corrlib.errors import InputError
from corrlib.masks import VOID
from corrlib.metrics import region_similarity
from corrlib.propagation import FeatureExtractor, PropagationConfig, label_grid, propagate_mask
from corrlib.tracks import track_points

_WIDE = {"layout": {"width": "min(100%, 560px)"}, "style": {"description_width": "230px"}}

# Where in the picture was clicked, as shares of its sides. The number of milliseconds makes a
# second click at one place differ from the first.
_REPORT_CLICK = (
    "const box = document.querySelector('.{name} input'), r = this.getBoundingClientRect();"
    "if (box) {{ box.value = [(event.clientX - r.left) / r.width, "
    "(event.clientY - r.top) / r.height, Date.now()].join(' ');"
    "for (const kind of ['input', 'change']) "
    "box.dispatchEvent(new Event(kind, {{bubbles: true}})); }}"
)


class ClickablePicture(VBox):
    """A figure as a picture; ``on_click`` gets axes and place of a click on it.

    Attributes:
        data: the PNG that is shown, bytes.
    """

    def __init__(self, on_click: Callable[[int, float, float], None] | None = None):
        self._on_click, self._figure, self.data = on_click, None, b""
        self._picture = ipywidgets.HTML()
        self._place = ipywidgets.Text(layout={"display": "none"})
        self._name = f"corrlib-click-{uuid.uuid4().hex}"
        self._place.add_class(self._name)
        self._place.observe(self._clicked, "value")
        super().__init__([self._picture, self._place])

    def __repr__(self) -> str:
        return "ClickablePicture()"  # or a saved notebook would hold the picture as text

    def show(self, figure: Figure) -> None:
        self._figure, self.data = figure, views.png(figure, small=False)
        width, height = (round(side) for side in figure.bbox.size)
        report = ""
        if self._on_click:
            report = f'onclick="{html.escape(_REPORT_CLICK.format(name=self._name))}" '
        self._picture.value = (
            f'<img {report}alt="The figure that the text below describes" decoding="sync" '
            f'width="{width}" height="{height}" draggable="false" '
            f'style="max-width:100%;height:auto{";cursor:crosshair" if report else ""}" '
            f'src="data:image/png;base64,{base64.b64encode(self.data).decode()}">'
        )

    def _clicked(self, change: dict) -> None:
        if change["new"]:
            across, down = (float(part) for part in change["new"].split()[:2])
            place = views.place_in(self._figure, across, down)
            if place is not None:
                self._on_click(*place)


def explore(
    render: Callable[..., tuple[Figure, str]],
    controls: Mapping[str, ipywidgets.ValueWidget],
    on_click: Callable[[int, float, float], None] | None = None,
) -> VBox:
    """A picture, and a text that says what it shows, redrawn whenever a control changes.

    Args:
        render: gets the controls' values by name; returns the figure and the text, plain, in
            one or more lines.
        controls: name -> widget with a ``value``.
        on_click: called with the number of the figure's axes that was clicked in, and x and y
            there; it may set the controls.

    Returns:
        The controls, then the picture, then the text (an ``HTML``).
    """
    words = ipywidgets.HTML()
    waiting = False

    def redraw(_=None) -> None:
        if waiting:
            return
        figure, text = render(**{name: control.value for name, control in controls.items()})
        picture.show(figure)
        # Screen readers announce the change; the picture itself has no text alternative.
        lines = "<br>".join(html.escape(line) for line in text.splitlines())
        words.value = f'<p role="status" aria-live="polite" style="line-height:1.5">{lines}</p>'

    def clicked(*place) -> None:
        nonlocal waiting
        waiting = True  # a click may set several controls, and is drawn once
        try:
            on_click(*place)
        finally:
            waiting = False
        redraw()

    picture = ClickablePicture(clicked if on_click else None)
    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    return VBox([*controls.values(), picture, words])


def frame_slider(
    render: Callable[[int], tuple[Figure, str]], count: int, description: str = "Frame"
) -> VBox:
    """A slider over ``range(count)`` and the figure with its text that ``render`` makes of each."""
    if count < 1:
        raise InputError(f"expected at least one frame to choose from, got {count}")
    slider = slider_of(description, 0, 0, count - 1)
    return explore(lambda index: render(index), {"index": slider})


def attention_explorer(
    reference: torch.Tensor,
    target: torch.Tensor,
    reference_features: torch.Tensor,
    target_features: torch.Tensor,
    stride: int,
    temperature: float = 0.07,
    radius: int = 6,
) -> VBox:
    """Choose a target cell and see where it looks in the reference: fully, and restricted.

    The cell is chosen by a click on the target, or with the sliders.

    Args:
        reference, target: frames ``(3, H, W)``.
        reference_features, target_features: ``(1, C, h, w)``, compared as they are.
        stride: pixels per cell.
        temperature: τ at the start.
        radius: M at the start, in cells.
    """
    height, width = target_features.shape[-2:]
    view = views.AttentionView(reference, target, ("full attention", "restricted"), stride)

    def render(u: int, v: int, temperature: float, radius: int) -> tuple[Figure, str]:
        features = reference_features, target_features
        full = views.attention_map(*features, (u, v), temperature)
        restricted = views.attention_map(*features, (u, v), temperature, radius)
        view.update((full, restricted), (u, v), radius)
        cells = height * width
        seen = min(u + radius + 1, width) - max(u - radius, 0)
        seen *= min(v + radius + 1, height) - max(v - radius, 0)
        return view.figure, (
            f"Target cell ({u}, {v}).\n"
            f"Full attention over {cells} cells: {_summary(full, u, v)}.\n"
            f"Restricted to {seen} cells: {_summary(restricted, u, v)}."
        )

    controls = {
        "u": slider_of("Target cell, column (x)", width // 2, 0, width - 1),
        "v": slider_of("Target cell, row (y)", height // 2, 0, height - 1),
        "temperature": _temperature_slider(temperature),
        "radius": slider_of(
            "Radius M in cells (restricted)", radius, 1, max(height, width, radius)
        ),
    }

    def choose(axes: int, x: float, y: float) -> None:
        if axes == 0:  # the target
            controls["u"].value, controls["v"].value = int(x // stride), int(y // stride)

    return explore(render, controls, choose)


class _Button(ipywidgets.Button):
    """A button whose mistakes raise; those of ``on_click`` are only logged."""

    def __init__(self, description: str, action: Callable[[], None]):
        super().__init__(description=description, layout={"width": "auto"})
        self._action = action

    def click(self) -> None:
        self._action()


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
    index = slider_of("Frame", len(frames) // 2, 0, len(frames) - 1)
    play = ipywidgets.Play(max=len(frames) - 1, interval=400, description="Play the clip")
    ipywidgets.link((index, "value"), (play, "value"))
    count = ipywidgets.IntText()  # not shown: the picture follows it, as it follows the sliders
    buttons = (
        _Button("Track the point under the cursor", lambda: add([(x.value, y.value)])),
        _Button("Remove the last point", lambda: keep(max(count.value - 1, 0))),
        _Button("Remove all", lambda: keep(0)),
    )

    def click(axes: int, column: float, row: float) -> None:
        if axes == 0:  # the first frame
            x.value, y.value = (
                min(max(round(place), 0), side - 1)
                for place, side in ((column, width), (row, height))
            )
            add([(x.value, y.value)])

    def render(index: int, x: int, y: int, count: int) -> tuple[Figure, str]:
        figure = views.tracks(frames, *tracks, [0, index], tail=tail, cursor=(x, y))
        text = f"Cursor at ({x}, {y}) on frame 0. "
        if not count:
            return figure, text + "No point is tracked yet."
        position, visible, confidence = (part[index].tolist() for part in tracks)
        text += f"Frame {index}: {sum(visible)} of {count} points visible.\n"
        each = zip(position, visible, confidence, strict=True)
        return figure, text + " · ".join(
            f"{number}: {f'({at[0]:.0f}, {at[1]:.0f})' if seen else 'occluded'}, "
            f"confidence {sure:.2f}"
            for number, (at, seen, sure) in enumerate(each, start=1)
        )

    if len(points):
        add(points)
    box = explore(render, {"index": index, "x": x, "y": y, "count": count}, click)
    *_, picture, words = box.children
    box.children = (x, y, HBox(buttons), HBox([index, play]), picture, words)
    return box


def propagation_explorer(
    frames: torch.Tensor,
    truth: Mapping[int, torch.Tensor],
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
) -> VBox:
    """Set how a mask is carried, and see what that changes: masks, and J over time.

    Args:
        frames: ``(T, 3, H, W)``.
        truth: frame -> mask ``(H, W)``; the first frame's is carried, the others are compared with.
        extractor: features to match; with features that are kept
            (:mod:`corrlib.feature_cache`) a new setting takes about a second for a short clip.
        config: the settings at the start.
    """
    config = config or PropagationConfig()
    if 0 not in truth:
        raise InputError(f"expected a mask of frame 0 to carry, got masks of {sorted(truth)}")
    whole = max(label_grid(tuple(frames.shape[-2:]), extractor.stride, config))
    outlined = [number for number in sorted(truth) if 0 < number < len(frames)]

    @lru_cache(maxsize=12)
    def carried(settings: PropagationConfig) -> tuple[list[torch.Tensor], list[float]]:
        masks = list(propagate_mask(frames, truth[0], extractor, settings))
        return masks, [_mean_j(masks[number], truth[number], truth[0]) for number in outlined]

    def render(
        index: int, references: int, radius: int, topk: int, temperature: float
    ) -> tuple[Figure, str]:
        now = replace(
            config, references=references, radius=radius, topk=topk, temperature=temperature
        )
        results = {"at the start": carried(start), "as set now": carried(now)}
        masks = {
            "drawn by hand" if index in truth else "no outline of this frame": truth.get(index)
        }
        masks |= {f"carried, {name}": found[index] for name, (found, _) in results.items()}
        series = {name: (outlined, scores) for name, (_, scores) in results.items()}
        text = f"Frame {index}"
        if index in outlined:
            place = outlined.index(index)
            text += ": J " + ", ".join(f"{s[place]:.2f} {name}" for name, (_, s) in series.items())
        if outlined:
            text += ".\nMean J of the outlined frames after the first: " + ", ".join(
                f"{sum(s) / len(s):.3f} {name}" for name, (_, s) in series.items()
            )
        return views.settings_comparison(frames[index], masks, series, index), text + "."

    controls = {
        "index": slider_of(
            "Frame", outlined[-1] if outlined else len(frames) - 1, 0, len(frames) - 1
        ),
        "references": slider_of("References besides the first", config.references, 0, 20),
        "radius": slider_of("Radius M in cells", min(config.radius or whole, whole), 1, whole),
        "topk": slider_of("Top k", config.topk or 10, 1, 50),
        "temperature": _temperature_slider(config.temperature or extractor.temperature),
    }
    for name in ("references", "radius", "topk", "temperature"):
        controls[name].continuous_update = False  # a setting costs about a second
    start = replace(config, **{name: controls[name].value for name in list(controls)[1:]})
    return explore(render, controls)


def _mean_j(mask: torch.Tensor, truth: torch.Tensor, first: torch.Tensor) -> float:
    """J, mean over the objects of the first mask."""
    objects = [number for number in first.unique().tolist() if number not in (0, VOID)]
    return sum(region_similarity(mask == n, truth == n) for n in objects) / len(objects)


def _temperature_slider(value: float) -> FloatLogSlider:
    return FloatLogSlider(
        value=value,
        min=-2.5,
        max=0.5,
        step=0.05,
        description="Temperature τ (low: sharp)",
        readout_format=".3f",
        **_WIDE,
    )


def slider_of(description: str, value: int, low: int, high: int) -> IntSlider:
    """A slider over ``low..high`` wide enough for a description in words."""
    return IntSlider(value=value, min=low, max=high, description=description, **_WIDE)


def _summary(attention: torch.Tensor, u: int, v: int) -> str:
    """Peak, its displacement from (u, v), and entropy of an attention map, in words."""
    peak_u, peak_v = views.peak_cell(attention)
    steps = [_steps(peak_u - u, "left", "right"), _steps(peak_v - v, "up", "down")]
    way = " and ".join(step for step in steps if step) or "no cell"
    return (
        f"strongest ({float(attention.max()):.3g}) at ({peak_u}, {peak_v}), {way} from the target "
        f"cell; entropy {views.entropy_bits(attention):.1f} bits"
    )


def _steps(distance: int, before: str, after: str) -> str:
    return f"{abs(distance)} {after if distance > 0 else before}" if distance else ""
