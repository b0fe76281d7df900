"""Linking two pictures, of one video or of two: which point of one is which of the other.

All cells of one frame are compared with all cells of the other (full affinity: nothing is known
about the motion). A pair is kept when each finds the other: the match of a cell, matched back,
must come to within some cells of it. Labels are copied through the same affinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from corrlib.affinity import normalise
from corrlib.errors import InputError
from corrlib.geometry import cell_centres
from corrlib.masks import check_mask
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    labels_to_mask,
    mask_to_labels,
)
from corrlib.tracks import confidence_colours, pixel_scale, refine, to_canvas, to_pixels

BLOCK = 1024  # cells of one frame that are compared with all of the other at a time


@dataclass(frozen=True)
class Matches:
    """Pairs of points, the most similar first; all on the CPU.

    Attributes:
        points_a, points_b: ``(N, 2)`` float32 (x, y) in pixels of each frame. Those of the first
            are centres of its cells, those of the second are found to a fraction of a cell.
        score: ``(N,)`` float32, the cosine of the two cells' features.
    """

    points_a: torch.Tensor
    points_b: torch.Tensor
    score: torch.Tensor


@torch.inference_mode()
def link(
    frame_a: torch.Tensor,
    frame_b: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
    cycle: float = 0.0,
) -> Matches:
    """Match two frames of any sizes.

    Args:
        frame_a, frame_b: uint8 ``(3, H, W)``.
        extractor: features to match.
        config: only its ``short_side`` is used.
        cycle: how far, in cells, the match of a match may lie from where it began; 0 keeps mutual
            nearest neighbours alone.

    Raises:
        InputError: frames of another kind, a negative ``cycle``.
    """
    if not cycle >= 0:
        raise InputError(f"expected a cycle distance of at least 0 cells, got {cycle}")
    config = config or PropagationConfig()
    features_a, features_b = _encode((frame_a, frame_b), extractor, config, device)
    forth, score = _nearest(features_a, features_b)
    back, _ = _nearest(features_b, features_a)
    cells_a, cells_b = (
        cell_centres(*features.shape[1:]).flatten(1).T.to(features.device)
        for features in (features_a, features_b)
    )
    distance = (cells_a[back[forth]] - cells_a).norm(dim=1)
    kept = (distance <= cycle).nonzero()[:, 0]
    kept = kept[score[kept].argsort(descending=True, stable=True)]
    start, best = cells_a[kept], cells_b[forth[kept]]
    template = features_a.flatten(1).T[kept]
    parts = [
        refine(features_b, *part)
        for part in zip(template.split(BLOCK), best.split(BLOCK), strict=True)
    ]
    places = [start, torch.cat(parts)]
    for i, frame in enumerate((frame_a, frame_b)):
        size = (frame.shape[1], frame.shape[2])
        pixels = to_pixels(places[i].cpu(), pixel_scale(size, config), extractor.stride)
        limit = torch.tensor([size[1], size[0]]) - 0.5
        # A cell that reaches beyond the frame may have its centre there.
        places[i] = torch.minimum(pixels.clamp(min=-0.5), limit)
    return Matches(places[0], places[1], score[kept].cpu())


@torch.inference_mode()
def transfer_mask(
    frame_a: torch.Tensor,
    mask: torch.Tensor,
    frame_b: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The mask ``(H, W)`` uint8 of one frame, copied to another of any size.

    Every cell of ``frame_b`` gets the mean label of the top k cells of ``frame_a``, wherever they
    are; k and the temperature are the configuration's.
    """
    config = (config or PropagationConfig()).for_extractor(extractor)
    check_mask(mask, frame_a.shape[1], frame_a.shape[2])
    features_a, features_b = _encode((frame_a, frame_b), extractor, config, device)
    labels = mask_to_labels(mask, extractor.stride, config).flatten(1).T.to(device)
    cells = features_a.flatten(1)
    k = cells.shape[1] if config.topk is None else min(config.topk, cells.shape[1])
    copied = []
    for target in features_b.flatten(1).T.split(BLOCK):
        value, index = (target @ cells).topk(k, dim=1)
        weights = (value / config.temperature).softmax(dim=1)
        copied.append((weights[..., None] * labels[index]).sum(dim=1))
    maps = torch.cat(copied).T.unflatten(1, tuple(features_b.shape[1:]))
    size = (frame_b.shape[1], frame_b.shape[2])
    return labels_to_mask(maps, size, extractor.stride, config)


def draw_matches(
    frame_a: torch.Tensor, frame_b: torch.Tensor, matches: Matches, most: int = 60
) -> torch.Tensor:
    """The two frames side by side with lines between matched points.

    The colour, viridis, runs over the points of the first frame from left to right, so that
    crossing lines can be told apart.

    Args:
        frame_a, frame_b: uint8 ``(3, H, W)``; not changed.
        matches: of :func:`link`.
        most: how many are drawn: of all, spread evenly over the scores' order.

    Returns:
        uint8 ``(3, max(H), W_a + W_b)``.
    """
    left, right = to_canvas(frame_a), to_canvas(frame_b)
    height = max(len(left), len(right))
    canvas = np.zeros((height, left.shape[1] + right.shape[1], 3), np.uint8)
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), left.shape[1] :] = right
    count = min(most, len(matches.score))
    chosen = torch.linspace(0, max(len(matches.score) - 1, 0), count).round().long()
    start, stop = matches.points_a[chosen], matches.points_b[chosen]
    stop = stop + torch.tensor([float(left.shape[1]), 0.0])
    colours = confidence_colours(start[:, 0] / left.shape[1]).tolist()
    radius = max(2, round(height / 160))
    ends = [points.round().int().tolist() for points in (start, stop)]
    for a, b, colour in zip(*ends, colours, strict=True):
        cv2.line(canvas, a, b, colour, 1, cv2.LINE_AA)
    for a, b, colour in zip(*ends, colours, strict=True):
        for place in (a, b):
            cv2.circle(canvas, place, radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(canvas, place, radius, colour, -1, cv2.LINE_AA)
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def _encode(frames, extractor, config, device) -> list[torch.Tensor]:
    propagator = Propagator(extractor, config, device)
    for frame in frames:
        if frame.dtype != torch.uint8 or frame.dim() != 3 or frame.shape[0] != 3:
            raise InputError(
                f"expected uint8 frames (3, H, W), got {frame.dtype} {tuple(frame.shape)}"
            )
    return [normalise(propagator.encode(frame)) for frame in frames]


def _nearest(these: torch.Tensor, those: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of these cells the most similar of those: index ``(n,)`` and cosine ``(n,)``."""
    cells = those.flatten(1)
    best = [(block @ cells).max(dim=1) for block in these.flatten(1).T.split(BLOCK)]
    return torch.cat([part.indices for part in best]), torch.cat([part.values for part in best])
