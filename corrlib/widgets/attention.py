"""The attention explorer: where a cell looks, and which colour it copies from there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from ipywidgets import Checkbox, VBox
from matplotlib.patches import Rectangle

from corrlib import views
from corrlib.affinity import transport
from corrlib.errors import InputError
from corrlib.geometry import pad_to_multiple, to_float
from corrlib.widgets.pictures import explore, slider_of, temperature_slider

TITLES = ("full attention", "restricted", "top k")
MAX_K = 50


def attention_explorer(
    reference: torch.Tensor,
    target: torch.Tensor,
    reference_features: torch.Tensor,
    target_features: torch.Tensor,
    stride: int,
    temperature: float = 0.07,
    radius: int = 6,
    topk: int = 10,
) -> VBox:
    """Choose a target cell and see where it looks in the reference: fully, restricted, and by its
    k best cells alone; how spread out each is; and the colour that is copied through it.

    The cell is chosen by a click on the target, or with the sliders.

    Args:
        reference, target: frames ``(3, H, W)``.
        reference_features, target_features: ``(1, C, h, w)``, compared as they are.
        stride: pixels per cell.
        temperature: τ at the start.
        radius: M at the start, in cells.
        topk: k at the start.
    """
    height, width = target_features.shape[-2:]
    cells = height * width
    colours, true = (_cell_colours(frame, stride) for frame in (reference, target))
    if colours.shape[1:] != reference_features.shape[-2:]:
        raise InputError(
            f"expected features of {tuple(colours.shape[1:])} cells for a reference "
            f"{tuple(reference.shape)} at stride {stride}, got {tuple(reference_features.shape)}"
        )
    view = _ExplorerView(reference, target, stride)

    def render(u: int, v: int, temperature: float, radius: int, topk: int, near: bool):
        maps = [
            views.attention_map(reference_features, target_features, (u, v), temperature, *limits)
            for limits in ((None, None), (radius, None), (radius if near else None, topk))
        ]
        copied = [_copied(colours, attention) for attention in maps]
        off = [255 * float((colour - true[:, v, u]).abs().mean()) for colour in copied]
        view.update(maps, copied, true[:, v, u], off, (u, v), radius)
        seen = min(u + radius + 1, width) - max(u - radius, 0)
        seen *= min(v + radius + 1, height) - max(v - radius, 0)
        heads = (
            f"Full attention over {cells} cells",
            f"Restricted to {seen} cells",
            f"The {min(topk, seen)} best within M"
            if near
            else f"The {min(topk, cells)} best of all",
        )
        lines = [
            f"{head}: {_summary(attention, u, v)}; copies {_rgb(colour)}, off by {distance:.0f}."
            for head, attention, colour, distance in zip(heads, maps, copied, off, strict=True)
        ]
        return view.figure, "\n".join(
            [f"Target cell ({u}, {v}), its colour {_rgb(true[:, v, u])}.", *lines]
        )

    controls = {
        "u": slider_of("Target cell, column (x)", width // 2, 0, width - 1),
        "v": slider_of("Target cell, row (y)", height // 2, 0, height - 1),
        "temperature": temperature_slider(temperature),
        "radius": slider_of("Radius M (restricted), cells", radius, 1, max(height, width, radius)),
        "topk": slider_of("Best cells k (top k)", topk, 1, max(min(MAX_K, cells), topk)),
        "near": Checkbox(
            description="Take the k best within M only, as propagation does",
            indent=False,
            layout={"width": "min(100%, 420px)"},
        ),
    }

    def choose(axes: int, x: float, y: float) -> None:
        if axes == 0:  # the target
            controls["u"].value, controls["v"].value = int(x // stride), int(y // stride)

    return explore(render, controls, choose)


class _ExplorerView:
    """The target beside the copied colours, above the three maps; little is drawn anew."""

    def __init__(self, reference: torch.Tensor, target: torch.Tensor, stride: int):
        aspect = target.shape[-2] / target.shape[-1]
        gap, title, label, between = 0.08, 0.3, 0.28, 0.06  # inches
        above = min(3.7 * aspect, 2.9)
        below = min((views.WIDTH - 2 * gap) / 3 * aspect, 2.6)
        height = above + between + below + 2 * title + label
        self.figure = views.LiveFigure(figsize=(views.WIDTH, height))

        def axes(left: float, bottom: float, tall: float, wide: float):
            box = left / views.WIDTH, bottom / height, wide / views.WIDTH, tall / height
            return self.figure.add_axes(box)

        upper, side = height - title - above, below / aspect
        columns = [number * (views.WIDTH - side) / 2 for number in range(3)]
        self._maps = views.AttentionView(
            reference,
            target,
            TITLES,
            stride,
            [
                axes(0.02, upper, above, above / aspect),
                *(axes(left, label, below, side) for left in columns),
            ],
        )
        # Text takes most of the time of a redraw: what never changes stays out of it.
        for axis in self.figure.axes:
            axis.xaxis.label.set_visible(False)
        self.figure.axes[0].set_title("target: □ the chosen cell", fontsize=10)
        label, step = {"fontsize": 9.5, "ha": "center"}, side / views.WIDTH / 2
        self._words = [
            self.figure.text(x / views.WIDTH + step, 0.07 / height, "", **label) for x in columns
        ]
        left = above / aspect + 0.35
        panel = axes(left, upper, above, views.WIDTH - left)
        self._swatches, self._true, self._off = self._colours(panel)
        moving = [*self._words, *self._swatches, *self._true, *self._off]
        self.figure.moving = [*self._maps.moving, *moving]

    def _colours(self, panel):
        """A row for each map: the colour it copies beside the true one, and how far off."""
        panel.set_xlim(0, 1)
        panel.set_ylim(3.35, -0.45)
        panel.axis("off")
        text = {"fontsize": 9.5, "va": "center"}
        for x, words in ((0.27, "copied"), (0.47, "true colour"), (0.74, "off by (of 255)")):
            panel.text(x, -0.2, words, **text)
        panel.text(0, 3.15, "+ strongest reference cell      – – window of radius M", **text)
        swatches, true, off = [], [], []
        for row, title in enumerate(("full", "restricted", "top k")):
            panel.text(0, row + 0.45, title, **text)
            for kind, x in ((swatches, 0.27), (true, 0.47)):
                kind.append(panel.add_patch(Rectangle((x, row + 0.08), 0.2, 0.74)))
            off.append(panel.text(0.74, row + 0.45, "", **text))
        return swatches, true, off

    def update(self, maps, copied, true, off, cell, radius) -> None:
        self._maps.update(maps, cell, radius)
        for attention, words in zip(maps, self._words, strict=True):
            bits = views.entropy_bits(attention)
            words.set_text(f"entropy {bits:.1f} bits, + {float(attention.max()):.2g}")
        rows = zip(copied, off, self._swatches, self._true, self._off, strict=True)
        for colour, distance, swatch, beside, words in rows:
            swatch.set_facecolor(colour.clamp(0, 1).tolist())
            beside.set_facecolor(true.clamp(0, 1).tolist())
            words.set_text(f"{distance:.0f}")


def _cell_colours(frame: torch.Tensor, stride: int) -> torch.Tensor:
    """Mean colour of every cell, ``(3, h, w)`` in [0, 1]."""
    pixels = to_float(frame[None]) if frame.dtype == torch.uint8 else frame[None].float()
    return F.avg_pool2d(pad_to_multiple(pixels, stride), stride)[0]


def _copied(colours: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The colour ``(3,)`` that a target cell copies through its attention ``(h, w)``."""
    return transport(colours[None], attention.view(1, -1, 1), (1, 1)).view(3)


def _rgb(colour: torch.Tensor) -> str:
    red, green, blue = (colour * 255).round().int().tolist()
    return f"rgb({red}, {green}, {blue})"


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
