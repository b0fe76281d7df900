"""Figures of the notebooks and reports.

Every function returns a matplotlib ``Figure`` that belongs to no global state: it is not drawn
twice and needs no closing. :func:`show` turns one into a picture with a text alternative.

Pictures are ``(3, H, W)``, uint8 or float in [0, 1]; maps ``(H, W)``. Colours hold for
colour-blind readers: viridis, magma, and the Okabe-Ito set for lines.
"""

from corrlib.views.attention_maps import (
    AttentionView,
    attention,
    attention_map,
    entropy_bits,
    peak_cell,
)
from corrlib.views.charts import curves, heatmap, settings_comparison, sweeps
from corrlib.views.frames import grey, masked, spread
from corrlib.views.grids import clip_strip, images, mask_comparison
from corrlib.views.output import BITS, LiveFigure, Picture, jpeg, place_in, png, show
from corrlib.views.points import (
    confidence_bar,
    draw_cursor,
    draw_points,
    point_handles,
    skeletons,
    tracks,
)
from corrlib.views.style import (
    DPI,
    LINE_COLOURS,
    LINE_STYLES,
    MARKERS,
    WIDTH,
    keep_limits,
    legend_below,
)

__all__ = [
    "BITS",
    "DPI",
    "LINE_COLOURS",
    "LINE_STYLES",
    "MARKERS",
    "WIDTH",
    "AttentionView",
    "LiveFigure",
    "Picture",
    "attention",
    "attention_map",
    "clip_strip",
    "confidence_bar",
    "curves",
    "draw_cursor",
    "draw_points",
    "entropy_bits",
    "grey",
    "heatmap",
    "images",
    "jpeg",
    "keep_limits",
    "legend_below",
    "mask_comparison",
    "masked",
    "peak_cell",
    "place_in",
    "png",
    "point_handles",
    "settings_comparison",
    "show",
    "skeletons",
    "spread",
    "sweeps",
    "tracks",
]
