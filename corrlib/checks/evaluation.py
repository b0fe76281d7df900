"""Exercises of notebook 12: J of every object, boundaries and their F-measure, PCK."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from corrlib import metrics, pck
from corrlib.affinity_reference import shift
from corrlib.checks import Check, Mistake, start

# -- region similarity --


def of_each_object(overlap: Callable) -> Callable:
    """What compares bool masks ``(T, H, W)``, as a function of ids and the number of objects."""

    def lifted(prediction: torch.Tensor, truth: torch.Tensor, objects: int) -> torch.Tensor:
        numbers = range(1, objects + 1)
        return torch.stack([overlap(prediction == number, truth == number) for number in numbers])

    return lifted


jaccard = of_each_object(start.jaccard)
"""J of each object in each frame: ids ``(T, H, W)`` twice -> ``(objects, T)`` in 0..1."""


def _ids(generator: torch.Generator, frames: int, height: int, width: int, objects: int):
    return torch.randint(0, objects + 1, (frames, height, width), generator=generator).byte()


def _id_cases(generator: torch.Generator) -> list[tuple]:
    """In both cases an object is absent from truth and prediction, and one from either alone."""
    cases = []
    for frames, height, width, objects in ((4, 5, 8, 2), (5, 7, 4, 3)):
        prediction, truth = (_ids(generator, frames, height, width, objects) for _ in range(2))
        prediction[1][prediction[1] == objects] = 0
        truth[1][truth[1] == objects] = 0
        prediction[2][prediction[2] == 1] = 0
        truth[3][truth[3] == 1] = 0
        cases.append((prediction, truth, objects))
    return cases


def _any_object(prediction, truth, objects):
    return jaccard(prediction > 0, truth > 0, 1).expand(objects, -1).clone()


def _recall_of_pixels(prediction, truth):
    area = truth.sum(dim=(1, 2))
    found = (prediction & truth).sum(dim=(1, 2))
    return torch.where(area == 0, 1.0, found / area.clamp(min=1))


def _background_too(prediction, truth, objects):
    """Objects 0 to N - 1 in place of 1 to N."""
    return jaccard(prediction + 1, truth + 1, objects)


region_similarity = Check(
    name="region_similarity",
    solution=jaccard,
    cases=_id_cases,
    mistakes=(
        *(Mistake(hint, of_each_object(wrong)) for hint, wrong in start.OVERLAP_MISTAKES),
        Mistake(
            "all objects are taken as one; compare `prediction == number` with `truth == number`",
            _any_object,
        ),
        Mistake(
            "that is the share of the true object that was found; painting everything would earn "
            "1. Divide by the union",
            of_each_object(_recall_of_pixels),
        ),
        Mistake(
            "objects are numbered from 1: 0 is the background, which is not scored", _background_too
        ),
    ),
    tolerance=1e-5,
)

# -- contours --


def boundaries(mask: torch.Tensor) -> torch.Tensor:
    """Boundary pixels of bool masks ``(T, H, W)``: bool of that shape."""
    edges = [metrics.reference_boundary(one.numpy()) for one in mask]
    return torch.from_numpy(np.stack(edges)).bool()


def f_measure(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """F of each frame from the boundaries: bool ``(T, H, W)`` twice -> ``(T,)`` in 0..1."""
    return _f_of(predicted, true, _disk(true))


def blobs(
    generator: torch.Generator, frames: int, height: int, width: int, at: tuple[float, float]
) -> torch.Tensor:
    """Masks of wavy discs around ``at`` (x, y as shares of the picture): bool ``(T, H, W)``."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dx, dy = x - at[0] * width, y - at[1] * height
    angle = torch.atan2(dy, dx)
    found = []
    for _ in range(frames):
        size, wave, turn = torch.rand(3, generator=generator)
        edge = 0.25 * min(height, width) * (1 + 0.3 * size + 0.15 * torch.cos(5 * angle + 6 * turn))
        found.append(dx.square() + (dy * (1 + 0.3 * wave)).square() < edge.square())
    return torch.stack(found)


def _mask_cases(generator: torch.Generator) -> list[tuple]:
    """Objects in the middle, at every border, in a corner, and none."""
    cases = []
    for height, width in ((17, 24), (23, 15)):
        places = ((0.5, 0.5), (0.0, 0.5), (1.0, 0.4), (0.5, 0.0), (0.5, 1.0), (1.0, 1.0))
        masks = [blobs(generator, 1, height, width, place) for place in places]
        nothing = torch.zeros(1, height, width, dtype=torch.bool)
        dot = nothing.clone()
        dot[0, 5, 7] = True
        cases.append((torch.cat([*masks, nothing, dot]),))
    return cases


def _both_sides(mask):
    edge = torch.zeros_like(mask)
    for axis in (1, 2):
        differ = mask.narrow(axis, 1, mask.shape[axis] - 1) != mask.narrow(
            axis, 0, mask.shape[axis] - 1
        )
        edge.narrow(axis, 1, mask.shape[axis] - 1).logical_or_(differ)
        edge.narrow(axis, 0, mask.shape[axis] - 1).logical_or_(differ)
    return edge


def _inner(mask):
    """The object's own pixels that have one of 4 neighbours outside of it."""
    return mask & _both_sides(mask)


def _no_diagonal(mask):
    edge = torch.zeros_like(mask)
    edge[:, :, :-1] |= mask[:, :, :-1] != mask[:, :, 1:]
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    return edge


def _up_and_left(mask):
    return boundaries(mask.flip((1, 2))).flip((1, 2))


def _zeros_beyond(mask):
    padded = F.pad(mask, (0, 1, 0, 1))
    others = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    return torch.stack([mask != other for other in others]).any(dim=0)


def _wrapped(mask):
    moved = [mask.roll(by, dims=(1, 2)) for by in ((0, -1), (-1, 0), (-1, -1))]
    return torch.stack([mask != other for other in moved]).any(dim=0)


boundary = Check(
    name="boundary",
    solution=boundaries,
    cases=_mask_cases,
    mistakes=(
        Mistake(
            "the boundary is drawn on both of its sides, two pixels wide; a pixel is compared "
            "with its right, lower and lower-right neighbour only",
            _both_sides,
        ),
        Mistake(
            "those are the object's own outermost pixels; here a background pixel counts, too, if "
            "the object is to its right or below",
            _inner,
        ),
        Mistake("the lower-right neighbour is missing: corners stay open", _no_diagonal),
        Mistake(
            "a pixel is compared with its left and upper neighbours; it should be those to the "
            "right and below",
            _up_and_left,
        ),
        Mistake(
            "beyond the picture's border there is no neighbour to differ from, but you compare "
            "with zeros there: an object that is cut off by the border gets an outline along it",
            _zeros_beyond,
        ),
        Mistake(
            "torch.roll compares the last column with the first and the last row with the first; "
            "they are no neighbours",
            _wrapped,
        ),
    ),
)


def _radius(true: torch.Tensor, bound: float = metrics.BOUND) -> float:
    return bound * math.hypot(*true.shape[1:])


def _disk(true: torch.Tensor, radius: float | None = None) -> list[tuple[int, int]]:
    """Offsets (dy, dx) at most ``radius`` away, by default as far as boundaries may lie apart."""
    radius = math.ceil(_radius(true)) if radius is None else radius
    reach = range(-int(radius), int(radius) + 1)
    return [(dy, dx) for dy in reach for dx in reach if dy**2 + dx**2 <= radius**2]


def _near(edges: torch.Tensor, offsets: list[tuple[int, int]]) -> torch.Tensor:
    found = torch.zeros_like(edges)
    for dy, dx in offsets:
        found |= shift(edges, dy, dx)
    return found


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Of each frame's pixels; 1 where there are none."""
    whole = whole.sum(dim=(1, 2))
    return torch.where(whole == 0, 1.0, part.sum(dim=(1, 2)) / whole.clamp(min=1))


def _precision_recall(predicted, true, offsets):
    return (
        _share(predicted & _near(true, offsets), predicted),
        _share(true & _near(predicted, offsets), true),
    )


def _f_of(predicted, true, offsets):
    precision, recall = _precision_recall(predicted, true, offsets)
    both = precision + recall
    return torch.where(both == 0, 0.0, 2 * precision * recall / both.clamp(min=1e-12))


def _boundary_cases(generator: torch.Generator) -> list[tuple]:
    """Large enough for a radius of several pixels; one frame with nothing, two with half of it."""
    cases = []
    for height, width in ((96, 210), (270, 64)):  # 0.008 of the diagonal: 1.8 and 2.2 pixels
        masks = [blobs(generator, 6, height, width, at) for at in ((0.5, 0.5), (0.51, 0.48))]
        masks[0][3] = masks[1][3] = masks[0][4] = masks[1][5] = False
        cases.append(tuple(boundaries(mask) for mask in masks))
    return cases


def _no_dilation(predicted, true):
    return _f_of(predicted, true, [(0, 0)])


def _rounded_down(predicted, true):
    return _f_of(predicted, true, _disk(true, math.floor(_radius(true))))


def _unrounded(predicted, true):
    return _f_of(predicted, true, _disk(true, _radius(true)))


def _of_the_height(predicted, true):
    return _f_of(predicted, true, _disk(true, math.ceil(metrics.BOUND * true.shape[1])))


def _square(predicted, true):
    reach = range(-math.ceil(_radius(true)), math.ceil(_radius(true)) + 1)
    return _f_of(predicted, true, [(dy, dx) for dy in reach for dx in reach])


def _arithmetic_mean(predicted, true):
    return sum(_precision_recall(predicted, true, _disk(true))) / 2


def _precision_only(predicted, true):
    return _precision_recall(predicted, true, _disk(true))[0]


def _recall_only(predicted, true):
    return _precision_recall(predicted, true, _disk(true))[1]


def _overlap_of_bands(predicted, true):
    one, other = (_near(edges, _disk(true)) for edges in (predicted, true))
    union = (one | other).sum(dim=(1, 2))
    return torch.where(union == 0, 1.0, (one & other).sum(dim=(1, 2)) / union.clamp(min=1))


def _nothing_is_zero(predicted, true):
    nothing = ~(predicted | true).flatten(1).any(dim=1)
    return torch.where(nothing, 0.0, f_measure(predicted, true))


contour_accuracy = Check(
    name="contour_accuracy",
    solution=f_measure,
    cases=_boundary_cases,
    mistakes=(
        Mistake(
            "only pixels that lie exactly on the other outline count; dilate that outline by the "
            "disk first",
            _no_dilation,
        ),
        Mistake(
            "the radius is rounded down; the definition rounds 0.008 of the diagonal up",
            _rounded_down,
        ),
        Mistake("the radius is not rounded; the definition rounds it up", _unrounded),
        Mistake(
            "the radius is 0.008 of the height; it belongs to the diagonal",
            _of_the_height,
        ),
        Mistake(
            "outlines are dilated by a square; its corners reach 1.4 times as far as a disk",
            _square,
        ),
        Mistake(
            "that is the plain mean of precision and recall; the harmonic mean, 2PR / (P + R), is "
            "low as soon as one of them is",
            _arithmetic_mean,
        ),
        Mistake(
            "that is the precision alone: a single right pixel would earn 1. Recall is missing",
            _precision_only,
        ),
        Mistake(
            "that is the recall alone: outlines everywhere would earn 1. Precision is missing",
            _recall_only,
        ),
        Mistake(
            "that is the overlap of the two dilated outlines; dilate one at a time, and count the "
            "thin pixels of the other in it",
            _overlap_of_bands,
        ),
        Mistake("two masks without an outline agree perfectly: F is 1 there", _nothing_is_zero),
    ),
    tolerance=1e-5,
)

# -- keypoints --


def share_correct(prediction: torch.Tensor, truth: torch.Tensor, alpha: float) -> torch.Tensor:
    """PCK_instance of each joint: ``(T, K, 2)`` twice -> ``(K,)``, the first frame not counted."""
    errors = torch.from_numpy(pck.score_keypoints(prediction, truth).instance)  # (T - 1, K)
    return (errors <= alpha).double().mean(dim=0)


def _joint_cases(generator: torch.Generator) -> list[tuple]:
    """Errors from none to a third of the person's size; the first frame is given, so exact."""
    cases = []
    for frames, joints, alpha, width, height in ((33, 6, 0.1, 40, 90), (41, 5, 0.2, 70, 25)):
        size = torch.tensor([width, height]) * (0.7 + torch.rand(frames, 1, 1, generator=generator))
        truth = 160 + size * torch.rand(frames, joints, 2, generator=generator)
        angle = 6.3 * torch.rand(frames, joints, generator=generator)
        away = 3 * alpha * torch.rand(frames, joints, generator=generator)
        length = size.square().sum(dim=2).sqrt() * away
        wrong = torch.stack([angle.cos() * length, angle.sin() * length], dim=2)
        wrong[0] = 0
        cases.append((truth + wrong, truth, alpha))
    return cases


def _relative(prediction, truth, length) -> torch.Tensor:
    """Distances in units of ``length (T,)``."""
    return (prediction - truth).norm(dim=2) / length[:, None]


def _extent(points: torch.Tensor) -> torch.Tensor:
    """Width and height of the box around joints ``(T, K, 2)``: ``(T, 2)``."""
    return points.amax(dim=1) - points.amin(dim=1)


def _longer_side(prediction, truth, alpha):
    errors = _relative(prediction, truth, _extent(truth).amax(dim=1))
    return (errors[1:] <= alpha).double().mean(dim=0)


def _whole_diagonal(prediction, truth, alpha):
    errors = _relative(prediction, truth, _extent(truth).norm(dim=1))
    return (errors[1:] <= alpha).double().mean(dim=0)


def _first_counted(prediction, truth, alpha):
    errors = _relative(prediction, truth, pck.INSTANCE * _extent(truth).norm(dim=1))
    return (errors <= alpha).double().mean(dim=0)


def _predicted_box(prediction, truth, alpha):
    errors = _relative(prediction, truth, pck.INSTANCE * _extent(prediction).norm(dim=1))
    return (errors[1:] <= alpha).double().mean(dim=0)


def _first_box(prediction, truth, alpha):
    length = pck.INSTANCE * _extent(truth).norm(dim=1)
    errors = _relative(prediction, truth, length[:1].expand_as(length))
    return (errors[1:] <= alpha).double().mean(dim=0)


def _per_axis(prediction, truth, alpha):
    length = pck.INSTANCE * _extent(truth).norm(dim=1)
    errors = (prediction - truth).abs().amax(dim=2) / length[:, None]
    return (errors[1:] <= alpha).double().mean(dim=0)


pck_instance = Check(
    name="pck_instance",
    solution=share_correct,
    cases=_joint_cases,
    mistakes=(
        Mistake(
            "that length is the box's longer side, as in PCK_max; PCK_instance takes 0.6 of its "
            "diagonal",
            _longer_side,
        ),
        Mistake("the factor 0.6 of the diagonal is missing", _whole_diagonal),
        Mistake(
            "the first frame is counted; its joints were given, so they are always right",
            _first_counted,
        ),
        Mistake(
            "the box is drawn around the predicted joints, so whoever scatters them gets a larger "
            "tolerance; draw it around the true ones",
            _predicted_box,
        ),
        Mistake("the first frame's box is used for all; each frame has its own", _first_box),
        Mistake(
            "the larger of the errors in x and y is compared; the distance is Euclidean",
            _per_axis,
        ),
    ),
    tolerance=1e-5,
)
