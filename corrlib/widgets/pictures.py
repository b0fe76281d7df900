"""A picture in a notebook that follows controls and clicks, and says in words what it shows."""

from __future__ import annotations

import base64
import html
import io
import uuid
from collections.abc import Callable, Mapping

import ipywidgets
from ipywidgets import Box, FloatLogSlider, HBox, IntSlider, VBox
from matplotlib.figure import Figure
from PIL import Image

from corrlib import views
from corrlib.errors import InputError

_WIDE = {"layout": {"width": "min(100%, 420px)"}, "style": {"description_width": "190px"}}

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
        data: the JPEG that is shown, bytes.
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

    def show(self, figure: Figure | bytes) -> None:
        """Show a figure, or one that :func:`corrlib.views.jpeg` has drawn before."""
        drawn = isinstance(figure, bytes)
        self._figure, self.data = (None, figure) if drawn else (figure, views.jpeg(figure))
        width, height = Image.open(io.BytesIO(self.data)).size
        report = ""
        if self._on_click:
            report = f'onclick="{html.escape(_REPORT_CLICK.format(name=self._name))}" '
        self._picture.value = (
            f'<img {report}alt="The figure that the text below describes" decoding="sync" '
            f'width="{width}" height="{height}" draggable="false" '
            f'style="max-width:100%;height:auto{";cursor:crosshair" if report else ""}" '
            f'src="data:image/jpeg;base64,{base64.b64encode(self.data).decode()}">'
        )

    def _clicked(self, change: dict) -> None:
        if change["new"] and self._figure:
            across, down = (float(part) for part in change["new"].split()[:2])
            place = views.place_in(self._figure, across, down)
            if place is not None:
                self._on_click(*place)


def explore(
    render: Callable[..., tuple[Figure | bytes, str]],
    controls: Mapping[str, ipywidgets.ValueWidget],
    on_click: Callable[[int, float, float], None] | None = None,
) -> VBox:
    """A picture, and a text that says what it shows, redrawn whenever a control changes.

    Args:
        render: gets the controls' values by name; returns the figure (or its JPEG) and the text,
            plain, in one or more lines.
        controls: name -> widget with a ``value``.
        on_click: called with the number of the figure's axes that was clicked in, and x and y
            there; it may set the controls.

    Returns:
        A box of the controls, side by side where there is room, then the picture, then the text
        (an ``HTML``).
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
    row = Box(list(controls.values()), layout={"flex_flow": "row wrap"})
    return VBox([row, picture, words])


def frame_slider(
    render: Callable[[int], tuple[Figure, str]], count: int, description: str = "Frame"
) -> VBox:
    """A slider over ``range(count)`` and the figure with its text that ``render`` makes of each."""
    if count < 1:
        raise InputError(f"expected at least one frame to choose from, got {count}")
    slider = slider_of(description, 0, 0, count - 1)
    return explore(lambda index: render(index), {"index": slider})


def slider_of(description: str, value: int, low: int, high: int) -> IntSlider:
    """A slider over ``low..high`` wide enough for a description in words."""
    return IntSlider(value=value, min=low, max=high, description=description, **_WIDE)


def temperature_slider(value: float) -> FloatLogSlider:
    return FloatLogSlider(
        value=value,
        min=-2.5,
        max=0.5,
        step=0.05,
        description="Temperature τ (low: sharp)",
        readout_format=".3f",
        **_WIDE,
    )


def playback(count: int, value: int, interval: int) -> tuple[IntSlider, HBox]:
    """A slider over the frames of a clip, and a row that holds it behind buttons that move it.

    Args:
        count: of frames.
        value: the frame at the start.
        interval: between two frames that are played, in milliseconds.
    """
    slider = slider_of("Frame", value, 0, count - 1)
    slider.style.description_width = "50px"
    play = ipywidgets.Play(
        value=value, max=count - 1, interval=interval, description="Play the clip"
    )
    ipywidgets.link((slider, "value"), (play, "value"))
    return slider, HBox([play, slider], layout={"flex_flow": "row wrap"})


class Button(ipywidgets.Button):
    """A button whose mistakes raise; those of ``on_click`` are only logged."""

    def __init__(self, description: str, action: Callable[[], None]):
        super().__init__(description=description, layout={"width": "auto"})
        self._action = action

    def click(self) -> None:
        self._action()
