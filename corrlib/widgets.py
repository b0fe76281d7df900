"""Interactive figures: sliders, a picture that follows them, and what it shows in words.

They need core ipywidgets only. The picture is a PNG, drawn by the kernel, so that it works alike
in JupyterLab, VS Code and Colab, and a mistake in a callback raises also where nobody looks.
"""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets
import torch
from ipywidgets import FloatLogSlider, IntSlider, VBox
from matplotlib.figure import Figure

from corrlib import views
from corrlib.errors import InputError

_WIDE = {"layout": {"width": "min(100%, 560px)"}, "style": {"description_width": "230px"}}


def explore(
    render: Callable[..., tuple[Figure, str]], controls: dict[str, ipywidgets.ValueWidget]
) -> VBox:
    """A picture, and a text that says what it shows, redrawn whenever a control changes.

    Args:
        render: gets the controls' values by name; returns the figure and the text, plain, in
            one or more lines.
        controls: name -> widget with a ``value``.

    Returns:
        The controls, then the picture (an ``Image``), then the text (an ``HTML``).
    """
    picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    words = ipywidgets.HTML()

    def redraw(_=None) -> None:
        figure, text = render(**{name: control.value for name, control in controls.items()})
        picture.value = views.png(figure, small=False)
        # Screen readers announce the change; the picture itself has no text alternative.
        lines = "<br>".join(html.escape(line) for line in text.splitlines())
        words.value = f'<p role="status" aria-live="polite" style="line-height:1.5">{lines}</p>'

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

    return explore(
        render,
        {
            "u": slider_of("Target cell, column (x)", width // 2, 0, width - 1),
            "v": slider_of("Target cell, row (y)", height // 2, 0, height - 1),
            "temperature": FloatLogSlider(
                value=temperature,
                min=-2.5,
                max=0.5,
                step=0.05,
                description="Temperature τ (low: sharp)",
                readout_format=".3f",
                **_WIDE,
            ),
            "radius": slider_of(
                "Radius M in cells (restricted)", radius, 1, max(height, width, radius)
            ),
        },
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
