"""The propagation explorer: what a setting of the inference does to a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from ipywidgets import VBox
from matplotlib.figure import Figure

from corrlib import views
from corrlib.errors import InputError
from corrlib.masks import VOID
from corrlib.metrics import region_similarity
from corrlib.propagation import FeatureExtractor, PropagationConfig, label_grid, propagate_mask
from corrlib.widgets.pictures import explore, playback, slider_of, temperature_slider


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

    index, player = playback(
        len(frames), outlined[-1] if outlined else len(frames) - 1, interval=200
    )
    controls = {
        "index": index,
        "references": slider_of("References besides the first", config.references, 0, 20),
        "radius": slider_of("Radius M in cells", min(config.radius or whole, whole), 1, whole),
        "topk": slider_of("Top k", config.topk or 10, 1, 50),
        "temperature": temperature_slider(config.temperature or extractor.temperature),
    }
    for name in ("references", "radius", "topk", "temperature"):
        controls[name].continuous_update = False  # a setting costs about a second
    start = replace(config, **{name: controls[name].value for name in list(controls)[1:]})
    box = explore(render, controls)
    row, picture, words = box.children
    row.children = row.children[1:]
    box.children = (row, player, picture, words)
    return box


def _mean_j(mask: torch.Tensor, truth: torch.Tensor, first: torch.Tensor) -> float:
    """J, mean over the objects of the first mask."""
    objects = [number for number in first.unique().tolist() if number not in (0, VOID)]
    return sum(region_similarity(mask == n, truth == n) for n in objects) / len(objects)
