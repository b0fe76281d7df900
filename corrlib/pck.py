"""PCK: the percentage of correct keypoints, as JHMDB is scored.

A joint counts as correct in a frame when it lies within α times a length from the truth (the
border included). The length is that of the person in that frame:

- PCK_instance: 0.6 times the diagonal of the box around the visible true joints, as the released
  evaluations of CycleTime, UVC and CRW have it;
- PCK_max: the longer side of that box.

The first frame is given and not counted. The figure of a data set is the mean over joints of each
joint's share over all frames of all clips, so a joint that is seen less often weighs as much.

A joint that is not found is wrong here. The released evaluations leave it out, of the box as well
as of the count, so that whoever loses the hard joints gains: that figure is ``found_only``. The
two agree where every joint is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from corrlib.errors import InputError

ALPHAS = (0.1, 0.2)
INSTANCE = 0.6


@dataclass(frozen=True)
class KeypointScore:
    """Errors of one clip in frames 1, 2, ..., float64, in units of the person's length.

    Attributes:
        instance, largest: ``(T - 1, K)`` errors for PCK_instance and PCK_max; infinite where a
            joint was not found, NaN where it is not counted.
        found_instance, found_largest: the same, with joints that were not found left out.
    """

    instance: np.ndarray
    largest: np.ndarray
    found_instance: np.ndarray
    found_largest: np.ndarray


def score_keypoints(
    prediction: torch.Tensor, truth: torch.Tensor, visible: torch.Tensor | None = None
) -> KeypointScore:
    """Compare the joints of one clip with the truth.

    Args:
        prediction: ``(T, K, 2)`` pixels, NaN where a joint was not found.
        truth: ``(T, K, 2)`` pixels, NaN where it is not known.
        visible: bool ``(T, K)``: the joints to count and to draw the box around; by default all
            whose truth is known.

    Raises:
        InputError: shapes that differ, fewer than two frames.
    """
    predicted = prediction.detach().cpu().double().numpy()
    true = truth.detach().cpu().double().numpy()
    if predicted.shape != true.shape or true.ndim != 3 or true.shape[2] != 2 or len(true) < 2:
        raise InputError(
            "expected joints (T, K, 2) of at least 2 frames and the truth alike, got "
            f"{tuple(predicted.shape)} and {tuple(true.shape)}"
        )
    counted = ~np.isnan(true).any(axis=2)
    if visible is not None:
        if tuple(visible.shape) != counted.shape:
            raise InputError(
                f"expected which joints are visible as {counted.shape}, got {tuple(visible.shape)}"
            )
        counted &= visible.cpu().numpy().astype(bool)
    found = counted & ~np.isnan(predicted).any(axis=2)
    distance = np.where(found, np.linalg.norm(predicted - true, axis=2), np.inf)
    return KeypointScore(
        *_relative(distance, true, counted),
        *_relative(distance, true, found),
    )


def _relative(
    distance: np.ndarray, true: np.ndarray, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances over both lengths, without the first frame; NaN where they do not count."""
    low = np.where(counted[..., None], true, np.inf).min(axis=1)
    high = np.where(counted[..., None], true, -np.inf).max(axis=1)
    width, height = np.maximum(high - low, 0).T  # -inf where no joint counts
    errors = []
    for length in (INSTANCE * np.hypot(width, height), np.maximum(width, height)):
        with np.errstate(divide="ignore", invalid="ignore"):
            error = distance / length[:, None]
        error = np.where(distance == 0, 0.0, error)  # exact is correct however small the box is
        errors.append(np.where(counted, error, np.nan)[1:])
    return errors[0], errors[1]


def summarise(scores: Mapping[str, KeypointScore], names: Sequence[str]) -> dict:
    """The figure of a data set, ready for JSON; all numbers are fractions, ``None`` for no joint.

    ``{"PCK_instance": {"0.1", "0.2"}, "PCK_max": {...}, "found": share of the counted joints that
    were found, "found_only": {"PCK_instance", "PCK_max"}, "joints": {name: {"PCK_instance",
    "PCK_max"}}, "clips": {name: {"PCK_instance", "PCK_max", "found"}}}``.

    Args:
        scores: clip -> score.
        names: of the K joints.

    Raises:
        InputError: no clips.
    """
    if not scores:
        raise InputError("expected at least one clip to summarise, got none")
    figure = _figure(list(scores.values()))
    instance = np.concatenate([score.instance for score in scores.values()])
    largest = np.concatenate([score.largest for score in scores.values()])
    figure["joints"] = {
        name: {
            "PCK_instance": _shares(instance[:, [index]]),
            "PCK_max": _shares(largest[:, [index]]),
        }
        for index, name in enumerate(names)
    }
    figure["clips"] = {name: _figure([score]) for name, score in scores.items()}
    return figure


def _figure(scores: Sequence[KeypointScore]) -> dict:
    def together(name: str) -> np.ndarray:
        return np.concatenate([getattr(score, name) for score in scores])

    counted = ~np.isnan(together("instance"))
    found = ~np.isnan(together("found_instance"))
    return {
        "PCK_instance": _shares(together("instance")),
        "PCK_max": _shares(together("largest")),
        "found": float(found.sum() / counted.sum()) if counted.any() else None,
        "found_only": {
            "PCK_instance": _shares(together("found_instance")),
            "PCK_max": _shares(together("found_largest")),
        },
    }


def _shares(errors: np.ndarray) -> dict[str, float | None]:
    """α -> mean over the joints of the share of frames within α; errors ``(frames, joints)``."""
    counted = (~np.isnan(errors)).sum(axis=0)
    seen = counted > 0
    if not seen.any():
        return {f"{alpha:g}": None for alpha in ALPHAS}
    return {
        f"{alpha:g}": float(((errors <= alpha).sum(axis=0)[seen] / counted[seen]).mean())
        for alpha in ALPHAS
    }
