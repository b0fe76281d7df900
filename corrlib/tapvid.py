"""The TAP-Vid measures of point tracks, and an evaluation that computes them.

Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video" (NeurIPS 2022), §4, in the
form of the published evaluator with queries given first. Positions are compared at 256x256 pixels,
whatever the video's own size. Only frames after a point's query frame count.

- δ_avg: the share of visible true points whose position is off by less than 1, 2, 4, 8 and 16
  pixels, averaged over the five; whether the point was said to be visible plays no part.
- Occlusion accuracy (OA): the share of points, visible or not, for which that was said rightly.
- Average Jaccard (AJ): for each of the five, true positives / (true points + false positives),
  averaged. A true positive is visible, said to be, and within the distance; a false positive is
  said to be visible, but is not, or is further away.

Counts are summed over all points and frames of a video; a data set's figure is the mean over its
videos. What is undefined (no frame after the query, no visible point) is NaN, and left out of
that mean.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import torch

from corrlib import sharding
from corrlib.errors import InputError
from corrlib.point_data import PointClip
from corrlib.propagation import FeatureExtractor, PropagationConfig
from corrlib.tracks import track_points

THRESHOLDS = (1, 2, 4, 8, 16)
SIDE = 256
"""Pixels per side at which positions are compared."""


def tapvid_measures(
    position: torch.Tensor,
    visible: torch.Tensor,
    true_position: torch.Tensor,
    true_visible: torch.Tensor,
    size: tuple[int, int],
    query_frames: torch.Tensor | None = None,
) -> dict[str, float]:
    """The measures of one video.

    Args:
        position: ``(T, N, 2)`` predicted (x, y) in pixels of the video.
        visible: ``(T, N)`` bool, predicted.
        true_position: ``(T, N, 2)``; where a point is not visible it may be anything, NaN too.
        true_visible: ``(T, N)`` bool.
        size: height and width of the video.
        query_frames: ``(N,)`` index of the frame each point is given on; 0 by default.

    Returns:
        ``delta_avg``, ``average_jaccard`` and ``occlusion_accuracy``, and for each distance
        ``delta_1`` ... and ``jaccard_1`` ..., all fractions.
    """
    shape = tuple(true_visible.shape)
    found = [tuple(part.shape) for part in (position, visible, true_position)]
    if len(shape) != 2 or found != [(*shape, 2), shape, (*shape, 2)]:
        raise InputError(
            f"expected positions (T, N, 2) and visibility (T, N), got {found[0]} and {found[1]} "
            f"against true {found[2]} and {shape}"
        )
    if query_frames is None:
        query_frames = torch.zeros(shape[1], dtype=torch.int64)
    counted = torch.arange(shape[0])[:, None] > query_frames
    scale = torch.tensor([SIDE / size[1], SIDE / size[0]], dtype=torch.float64)
    distance = ((position.double() - true_position.double()) * scale).square().sum(dim=-1)
    true_visible, visible = true_visible.bool(), visible.bool()
    figures = {
        "occlusion_accuracy": _share((visible == true_visible) & counted, counted.sum()),
    }
    truths = (true_visible & counted).sum()
    for threshold in THRESHOLDS:
        within = distance < threshold**2  # NaN is not within
        right = within & true_visible & counted
        false = (~true_visible | ~within) & visible & counted
        figures[f"delta_{threshold}"] = _share(right, truths)
        figures[f"jaccard_{threshold}"] = _share(right & visible, truths + false.sum())
    for name, part in (("delta_avg", "delta"), ("average_jaccard", "jaccard")):
        values = [figures[f"{part}_{threshold}"] for threshold in THRESHOLDS]
        figures[name] = sum(values) / len(values)
    return figures


def _share(which: torch.Tensor, total: torch.Tensor) -> float:
    return int(which.sum()) / int(total) if int(total) else math.nan


def evaluate_points(
    clips: Iterable[PointClip],
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    limit: int | None = None,
    on_clip: Callable[[str, dict], None] | None = None,
) -> dict | None:
    """Track the points of each clip and score them.

    Args:
        clips: from :mod:`corrlib.point_data`.
        extractor, config, device: as for :func:`corrlib.tracks.track_points`.
        limit: track so many frames of each clip at most.
        on_clip: called with the name and figure of each clip as
            :func:`corrlib.sharding.shared` yields it.

    Returns:
        ``delta_avg``, ``average_jaccard`` and ``occlusion_accuracy``, means over clips, and
        ``clips``: name -> all measures, ``still`` (δ_avg of points that never move, which a
        tracker has to beat), ``points``, ``frames`` and ``seconds_per_frame`` (decoding included).
        ``None`` on ranks above 0 of several processes.
    """
    if limit is not None and limit < 2:
        raise InputError(f"expected to track at least 2 frames, got a limit of {limit}")

    def work(clip: PointClip) -> dict:
        return _evaluate_one(clip, extractor, config, device, limit)

    def length(clip: PointClip) -> int:
        return max(_annotated(clip, limit), default=0)

    figures: dict[str, dict] = {}
    for clip, figure in sharding.shared(clips, length, work):
        figures[clip.name] = figure
        if on_clip:
            on_clip(clip.name, figure)
    if sharding.rank() > 0:
        return None
    if not figures:
        raise InputError("expected at least one clip with points to evaluate on, got none")
    means = {}
    for name in ("delta_avg", "average_jaccard", "occlusion_accuracy"):
        known = [figure[name] for figure in figures.values() if not math.isnan(figure[name])]
        means[name] = sum(known) / len(known) if known else math.nan
    return means | {"clips": figures}


def _annotated(clip: PointClip, limit: int | None) -> list[int]:
    """The frames with known points among the first ``limit``."""
    return [frame for frame in clip.annotated.tolist() if limit is None or frame < limit]


def _evaluate_one(
    clip: PointClip,
    extractor: FeatureExtractor,
    config: PropagationConfig | None,
    device: torch.device | str,
    limit: int | None,
) -> dict:
    annotated = _annotated(clip, limit)
    truth = clip.position[: len(annotated)]
    wanted, kept, size = set(annotated), [], None
    started = time.perf_counter()

    def frames():
        nonlocal size
        for frame in clip.frames():
            size = (frame.shape[1], frame.shape[2])
            yield frame

    estimates = track_points(frames(), truth[0], extractor, config, device)
    count = 0
    for estimate in estimates:
        if count in wanted:
            kept.append(estimate)
        count += 1
        if count > annotated[-1]:
            break
    spent = time.perf_counter() - started
    if len(kept) < len(annotated):
        raise InputError(
            f"expected at least {annotated[-1] + 1} frames in {clip.name}, as its points say, "
            f"got {count}"
        )
    true_visible = clip.visible[: len(annotated)]
    position = torch.stack([estimate.position for estimate in kept])
    visible = torch.stack([estimate.visible for estimate in kept])
    figure = tapvid_measures(position, visible, truth, true_visible, size)
    still = position[:1].expand_as(position)
    figure["still"] = tapvid_measures(still, visible, truth, true_visible, size)["delta_avg"]
    return figure | {
        "points": truth.shape[1],
        "frames": count,
        "seconds_per_frame": spent / count,
    }
