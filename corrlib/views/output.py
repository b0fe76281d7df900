"""Figures as files and as outputs of a notebook, and where in one a place lies."""

from __future__ import annotations

import html
import io

import numpy as np
from IPython.display import Image, display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from corrlib.errors import InputError
from corrlib.views.style import DPI

BITS = 5  # kept of each colour channel in a saved picture; halves the size of photographs


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
