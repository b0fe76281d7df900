"""The DAVIS measures: region similarity J and contour accuracy F.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
(CVPR 2016), in the form of the DAVIS-2017 evaluator for the semi-supervised task:

- J is the intersection over union of two masks, 1 when both are empty.
- F is the F-measure of their boundaries. A pixel is on the boundary when it differs from its
  right, lower or lower-right neighbour; neighbours outside the image do not count, so the last
  row looks right only, the last column down only, and the corner is never on a boundary. A
  boundary pixel is matched when the other boundary passes within ceil(0.008 * image diagonal)
  pixels of it.
- Each object of a sequence is followed over all frames but the first, which is given, and the
  last. Its mean, recall and decay are averaged over objects, never over frames or sequences.
- The number of objects is the largest id of the first true mask. Void (255) in a true mask is
  background; in a prediction it is an id like any other, and too high.

The functions called ``reference_`` do the same on whole frames, with the whole video of every
object in memory, as the definition is usually written. They give the same figures and are kept
to check and to time the others, which work on the part of one frame that holds an object.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import torch

from corrlib.errors import InputError
from corrlib.masks import VOID, count_objects, mask_array, read_mask

Mask = torch.Tensor | np.ndarray

BOUND = 0.008
"""Distance within which boundaries match, as a share of the image diagonal."""


@dataclass(frozen=True)
class SequenceScore:
    """J and F of each object in each scored frame: float64 arrays ``(objects, frames)``, 0..1.

    Column i belongs to frame i + 1 of the sequence, because the first frame is not scored.
    """

    J: np.ndarray
    F: np.ndarray


def region_similarity(prediction: Mask, truth: Mask) -> float:
    """J of one object in one frame: two ``(H, W)`` masks, non-zero where the object is -> 0..1."""
    prediction, truth = _same_size(prediction, truth)
    return _region(prediction > 0, truth > 0)


def contour_accuracy(prediction: Mask, truth: Mask, bound: float = BOUND) -> float:
    """F of one object in one frame: two ``(H, W)`` masks, non-zero where the object is -> 0..1.

    Args:
        prediction: the mask to judge.
        truth: the true mask.
        bound: the matching distance, as a share of the image diagonal; in pixels if >= 1.
    """
    prediction, truth = _same_size(prediction, truth)
    kernel = _disk(boundary_radius(truth.shape, bound))
    return _score_object(prediction > 0, truth > 0, kernel)[1]


def boundary_radius(shape: tuple[int, int], bound: float = BOUND) -> float:
    """Matching distance in pixels for images of ``shape`` (H, W): 8 at 480x854.

    Raises:
        InputError: ``bound`` is negative or no finite number.
    """
    if not 0 <= bound < math.inf:
        raise InputError(
            f"expected a boundary distance >= 0 (a share of the diagonal, or pixels from 1 on), "
            f"got {bound}"
        )
    return bound if bound >= 1 else math.ceil(bound * np.linalg.norm(shape))


def statistics(per_frame: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, recall and decay of one object's J or F over the frames of a sequence.

    Recall is the share of frames above 0.5. Decay is the mean of the first quarter less the mean
    of the last one; the quarters are cut at ``round(linspace(1, T, 5) + 1e-10)``, both ends
    included, so neighbouring quarters share a frame and a short sequence still fills all four.
    NaN frames are left out of mean and decay, and are not above 0.5.

    Raises:
        InputError: no frames.
    """
    values = np.asarray(per_frame, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"expected one value per scored frame, got shape {values.shape}")
    cuts = (np.round(np.linspace(1, values.size, 5) + 1e-10) - 1).astype(int)
    first, last = values[cuts[0] : cuts[1] + 1], values[cuts[3] : cuts[4] + 1]
    return {
        "mean": _nan_mean(values),
        "recall": float(np.mean(values > 0.5)),
        "decay": _nan_mean(first) - _nan_mean(last),
    }


def score_sequence(
    predictions: Iterable[Mask],
    truths: Iterable[Mask],
    objects: int | None = None,
    *,
    score_last: bool = False,
) -> SequenceScore:
    """Score the masks of one sequence, a frame at a time.

    Args:
        predictions: one ``(H, W)`` mask of ids per frame, the first frame's included.
        truths: the true masks of the same frames.
        objects: how many objects to score; by default, the largest id in the first true mask.
        score_last: count the last frame as well. DAVIS does not, but where only a few frames of
            a clip have true masks there is no reason to drop one.

    Raises:
        InputError: masks of different size, a different number of them, fewer than three frames
            (two with ``score_last``), no object, or a predicted id above ``objects``.
    """
    pairs = _paired(predictions, truths)
    first = next(pairs, None)
    if first is None:
        raise InputError("expected the masks of a sequence, got none")
    objects = _number_of_objects(first[1], objects)
    return _score_frames(pairs if score_last else _without_last(pairs), objects)


def score_files(
    name: str,
    truths: Sequence[Path],
    folder: str | Path,
    *,
    merge_objects: bool = False,
) -> SequenceScore:
    """Score the mask files of one sequence.

    Args:
        name: the sequence, for messages.
        truths: the true mask of every frame, in order.
        folder: holds a predicted mask under the same file name (``.png``) for every frame; those
            of the first and last frame are not read and may be absent.
        merge_objects: read every non-zero id, in truth and prediction, as one object: the task
            of DAVIS-2016.

    Raises:
        InputError: missing or unreadable files, and all that :func:`score_sequence` raises.
    """
    folder = Path(folder)
    if len(truths) < 3:
        raise InputError(
            f"{name}: expected at least 3 true masks (the first and the last are not scored), "
            f"got {len(truths)}"
        )
    scored = list(truths[1:-1])
    predicted = [folder / f"{Path(truth).stem}.png" for truth in scored]
    missing = [path for path in predicted if not path.is_file()]
    if missing:
        raise InputError(
            f"{name}: expected a predicted mask for each of {len(scored)} frames in {folder}, "
            f"{len(missing)} missing, the first {missing[0].name}; predict every frame"
        )

    def read(path: Path) -> np.ndarray:
        mask = read_mask(path).numpy()
        return (mask > 0).astype(np.uint8) if merge_objects else mask

    try:
        objects = _number_of_objects(read(Path(truths[0])), None)
        pairs = ((read(p), read(Path(t))) for p, t in zip(predicted, scored, strict=True))
        return _score_frames(pairs, objects)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def score_folder(
    truths: Mapping[str, Sequence[Path]],
    results: str | Path,
    *,
    merge_objects: bool = False,
) -> dict:
    """Score a folder of results (``results/<sequence>/<frame>.png``) that any method wrote.

    Args:
        truths: the true masks of each sequence, in frame order.
        results: the folder to score.
        merge_objects: as in :func:`score_files`.

    Returns:
        The figure described at :func:`summarise`.
    """
    results = Path(results)
    if not results.is_dir():
        raise InputError(f"{results}: expected a folder of results, found none; check the path")
    return summarise(
        {
            name: score_files(name, paths, results / name, merge_objects=merge_objects)
            for name, paths in truths.items()
        }
    )


def summarise(scores: Mapping[str, SequenceScore]) -> dict:
    """The figure of a data set, ready for JSON; all numbers are fractions.

    ``{"J": {"mean", "recall", "decay"}, "F": {...}, "J&F": mean of the two means,
    "sequences": {name: {"J", "F", "J&F", "objects": {"1": {"J", "F", "J&F", "per_frame":
    {"J": [...], "F": [...]}}}}}}``. Sequences are means over their objects, the whole is the mean
    over all objects, so a sequence with many objects weighs more.

    Raises:
        InputError: no sequences.
    """
    if not scores:
        raise InputError("expected at least one sequence to summarise, got none")
    sequences, everything = {}, []
    for name, score in scores.items():
        objects = {}
        for number, (j, f) in enumerate(zip(score.J, score.F, strict=True), start=1):
            figure = _with_mean({"J": statistics(j), "F": statistics(f)})
            figure["per_frame"] = {"J": j.tolist(), "F": f.tolist()}
            objects[str(number)] = figure
        everything.extend(objects.values())
        sequences[name] = {**_mean_figure(list(objects.values())), "objects": objects}
    return {**_mean_figure(everything), "sequences": sequences}


def reference_region_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """J from whole masks, as the definition reads; see :func:`region_similarity`."""
    prediction, truth = np.asarray(prediction) > 0, np.asarray(truth) > 0
    union = np.sum(prediction | truth)
    return 1.0 if union == 0 else float(np.sum(prediction & truth) / union)


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary of an ``(H, W)`` mask of 0 and 1, by comparing whole shifted copies: uint8 0, 1.

    A neighbour beyond the border is replaced by the nearest pixel inside, which makes the last
    row and column behave as the published evaluator's.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, lower_right = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return ((mask != right) | (mask != lower) | (mask != lower_right)).astype(np.uint8)


def reference_contour_accuracy(
    prediction: np.ndarray, truth: np.ndarray, bound: float = BOUND
) -> float:
    """F from whole masks, as the definition reads; see :func:`contour_accuracy`."""
    predicted = reference_boundary(np.asarray(prediction) > 0)
    true = reference_boundary(np.asarray(truth) > 0)
    kernel = _disk(boundary_radius(true.shape, bound))
    near_true = cv2.dilate(true, kernel)
    near_predicted = cv2.dilate(predicted, kernel)
    return _f_measure(
        int(np.sum(predicted)),
        int(np.sum(true)),
        int(np.sum(predicted * near_true)),
        int(np.sum(true * near_predicted)),
    )


def reference_score_sequence(
    predictions: Iterable[Mask], truths: Iterable[Mask], objects: int | None = None
) -> SequenceScore:
    """:func:`score_sequence` with the whole video of every object held as floats."""
    predicted = np.stack([mask_array(mask) for mask in predictions]).astype(np.float64)
    true = np.stack([mask_array(mask) for mask in truths]).astype(np.float64)
    objects = _number_of_objects(true[0].astype(np.uint8), objects)
    ids = np.arange(1, objects + 1)[:, None, None, None]
    predicted = (predicted[None, 1:-1] == ids).astype(np.float64)
    true = (true[None, 1:-1] == ids).astype(np.float64)
    region, contour = np.zeros(true.shape[:2]), np.zeros(true.shape[:2])
    for number in range(true.shape[0]):
        for frame in range(true.shape[1]):
            pair = predicted[number, frame], true[number, frame]
            region[number, frame] = reference_region_similarity(*pair)
            contour[number, frame] = reference_contour_accuracy(*pair)
    return SequenceScore(J=region, F=contour)


@lru_cache(maxsize=16)
def _disk(radius: float) -> np.ndarray:
    """Offsets no farther than ``radius``, as a square uint8 kernel."""
    reach = np.arange(-int(radius), int(radius) + 1)
    kernel = (reach[:, None] ** 2 + reach[None, :] ** 2 <= radius**2).astype(np.uint8)
    kernel.setflags(write=False)
    return kernel


_TWO_BY_TWO = np.ones((2, 2), dtype=np.uint8)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary of a uint8 mask of 0 and 1.

    Maximum less minimum over {the pixel, right, lower, lower right} is 1 where one of them
    differs; OpenCV leaves out what lies beyond the border, as the definition does.
    """
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, _TWO_BY_TWO, anchor=(0, 0))


def _score_object(
    prediction: np.ndarray, truth: np.ndarray, kernel: np.ndarray
) -> tuple[float, float]:
    """J and F of two bool masks of one size.

    Only the box around both objects is looked at, one pixel wider on each side: the boundary of
    an object lies within it, so nothing outside can be a boundary or a match. Where the box does
    not touch the image border, its own border is background on both sides and makes no boundary.
    """
    union = prediction | truth
    left, top, width, height = cv2.boundingRect(union.view(np.uint8))
    if width == 0:
        return 1.0, 1.0
    box = (
        slice(max(top - 1, 0), top + height + 1),
        slice(max(left - 1, 0), left + width + 1),
    )
    prediction, truth = prediction[box], truth[box]
    j = float(np.count_nonzero(prediction & truth) / np.count_nonzero(union[box]))

    predicted = _boundary(prediction.view(np.uint8))
    true = _boundary(truth.view(np.uint8))
    f = _f_measure(
        cv2.countNonZero(predicted),
        cv2.countNonZero(true),
        cv2.countNonZero(predicted & cv2.dilate(true, kernel)),
        cv2.countNonZero(true & cv2.dilate(predicted, kernel)),
    )
    return j, f


def _region(prediction: np.ndarray, truth: np.ndarray) -> float:
    union = np.count_nonzero(prediction | truth)
    return 1.0 if union == 0 else float(np.count_nonzero(prediction & truth) / union)


def _f_measure(predicted: int, true: int, predicted_matched: int, true_matched: int) -> float:
    """F from the number of boundary pixels and of those matched, with the rules for none."""
    if predicted == 0 and true == 0:
        precision, recall = 1.0, 1.0
    elif predicted == 0:
        precision, recall = 1.0, 0.0
    elif true == 0:
        precision, recall = 0.0, 1.0
    else:
        precision, recall = predicted_matched / predicted, true_matched / true
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _score_frames(pairs: Iterable[tuple[Mask, Mask]], objects: int) -> SequenceScore:
    """Score (prediction, truth) of each frame; numbers frames from 1 in messages."""
    rows = []
    for frame, (prediction, truth) in enumerate(pairs, start=1):
        try:
            prediction, truth = _same_size(prediction, truth)
        except InputError as error:
            raise InputError(f"frame {frame}: {error}") from error
        highest = int(prediction.max())
        if highest > objects:
            raise InputError(
                f"frame {frame}: expected predicted ids up to {objects}, the number of objects, "
                f"got {highest}; renumber or remove that object"
            )
        kernel = _disk(boundary_radius(truth.shape))
        rows.append(
            [
                _score_object(prediction == number, truth == number, kernel)
                for number in range(1, objects + 1)
            ]
        )
    if not rows:
        raise InputError(
            "expected at least one frame to score besides the first and the last, which are left "
            "out; give a longer sequence"
        )
    region, contour = np.array(rows).transpose(2, 1, 0)
    return SequenceScore(J=region, F=contour)


def _paired(
    predictions: Iterable[Mask], truths: Iterable[Mask]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for count, (prediction, truth) in enumerate(zip_longest(predictions, truths)):
        if prediction is None or truth is None:
            ended = "predictions" if prediction is None else "true masks"
            raise InputError(
                f"expected as many predictions as true masks, but the {ended} end after {count}"
            )
        yield prediction, truth


def _without_last(pairs: Iterator[tuple[Mask, Mask]]) -> Iterator[tuple[Mask, Mask]]:
    held = next(pairs, None)
    for pair in pairs:
        yield held
        held = pair


def _number_of_objects(first_truth: Mask, objects: int | None) -> int:
    found = count_objects(first_truth) if objects is None else objects
    if not 1 <= found < VOID:
        raise InputError(
            f"expected 1 to {VOID - 1} objects, got {found}; the first true mask must show "
            "what to score"
        )
    return found


def _same_size(prediction: Mask, truth: Mask) -> tuple[np.ndarray, np.ndarray]:
    prediction, truth = mask_array(prediction), mask_array(truth)
    if prediction.shape != truth.shape:
        (height, width), (got_height, got_width) = truth.shape, prediction.shape
        raise InputError(
            f"expected a predicted mask of {height}x{width} (height x width, as the true one), "
            f"got {got_height}x{got_width}; resize the mask with nearest neighbour"
        )
    return prediction, truth


def _nan_mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def _mean_figure(figures: Sequence[Mapping[str, dict[str, float]]]) -> dict:
    return _with_mean(
        {
            measure: {
                key: float(np.mean([figure[measure][key] for figure in figures]))
                for key in ("mean", "recall", "decay")
            }
            for measure in ("J", "F")
        }
    )


def _with_mean(figure: dict) -> dict:
    figure["J&F"] = (figure["J"]["mean"] + figure["F"]["mean"]) / 2
    return figure
