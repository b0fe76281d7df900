"""The exercises of lesson 12, answered as a student might."""

from __future__ import annotations

import math

import pytest
import torch

from corrlib import metrics
from corrlib.checks import FAILED
from corrlib.checks import evaluation as checks


def edges_by_comparison(mask):
    edge = torch.zeros_like(mask)
    frames, height, width = mask.shape
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                for dy, dx in ((0, 1), (1, 0), (1, 1)):
                    if y + dy < height and x + dx < width:
                        edge[t, y, x] |= mask[t, y, x] != mask[t, y + dy, x + dx]
    return edge


def f_by_distance(predicted, true):
    """Matched by the distance to the nearest pixel, in place of dilation."""
    radius = math.ceil(0.008 * math.hypot(*true.shape[1:]))
    scores = []
    for p, t in zip(predicted, true, strict=True):
        p, t = p.nonzero().float(), t.nonzero().float()
        if len(p) == 0 or len(t) == 0:
            scores.append(float(len(p) == len(t)))
            continue
        distance = torch.cdist(p, t, compute_mode="donot_use_mm_for_euclid_dist")
        precision = (distance.amin(dim=1) <= radius).float().mean().item()
        recall = (distance.amin(dim=0) <= radius).float().mean().item()
        both = precision + recall
        scores.append(2 * precision * recall / both if both else 0.0)
    return torch.tensor(scores)


def test_other_right_answers_pass():
    assert checks.boundary(edges_by_comparison).passed
    assert checks.contour_accuracy(f_by_distance).passed


def test_j_that_divides_by_nothing_is_told_of_nan():
    def student(prediction, truth, objects):
        ids = torch.arange(1, objects + 1).view(-1, 1, 1, 1)
        p, t = prediction == ids, truth == ids
        return (p & t).sum(dim=(2, 3)) / (p | t).sum(dim=(2, 3))

    verdict = checks.region_similarity(student)
    assert verdict.status == FAILED
    assert "NaN" in verdict.message


@pytest.mark.parametrize(("wrong", "hint"), [(1, "(Dice)"), (0, "J is 1, not 0")])
def test_j_of_one_object_at_a_time(wrong, hint):
    def student(prediction, truth, objects):
        rows = []
        for number in range(1, objects + 1):
            row = []
            for p, t in zip(prediction == number, truth == number, strict=True):
                both, total = (p & t).sum().item(), (p.sum() + t.sum()).item()
                if wrong:
                    row.append(1.0 if total == 0 else 2 * both / total)
                else:
                    row.append(0.0 if total == 0 else both / (total - both))
            rows.append(row)
        return torch.tensor(rows)

    verdict = checks.region_similarity(student)
    assert verdict.status == FAILED
    assert hint in verdict.message


def test_an_outline_of_two_pixels_is_recognised():
    def student(mask):
        padded = torch.nn.functional.pad(mask.float(), (1, 1, 1, 1), mode="replicate") > 0.5
        inner = padded[:, 1:-1, 1:-1]
        sides = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
        return torch.stack([inner != side for side in sides]).any(dim=0)

    verdict = checks.boundary(student)
    assert verdict.status == FAILED
    assert "two pixels wide" in verdict.message


@pytest.mark.parametrize(
    ("radius", "mean", "hint"),
    [
        (lambda h, w: 0, "harmonic", "exactly"),
        (lambda h, w: int(0.008 * math.hypot(h, w)), "harmonic", "rounded down"),
        (lambda h, w: math.ceil(0.008 * h), "harmonic", "diagonal"),
        (lambda h, w: math.ceil(0.008 * math.hypot(h, w)), "plain", "harmonic mean"),
    ],
)
def test_wrong_contours_get_their_hint(radius, mean, hint):
    def student(predicted, true):
        reach = radius(*true.shape[1:])
        scores = []
        for p, t in zip(predicted, true, strict=True):
            p, t = p.nonzero().float(), t.nonzero().float()
            if len(p) == 0 or len(t) == 0:
                precision, recall = float(len(p) == 0), float(len(t) == 0)
            else:
                distance = torch.cdist(p, t, compute_mode="donot_use_mm_for_euclid_dist")
                precision = (distance.amin(dim=1) <= reach).float().mean().item()
                recall = (distance.amin(dim=0) <= reach).float().mean().item()
            both = precision + recall
            if mean == "plain":
                scores.append(both / 2)
            else:
                scores.append(2 * precision * recall / both if both else 0.0)
        return torch.tensor(scores)

    verdict = checks.contour_accuracy(student)
    assert verdict.status == FAILED
    assert hint in verdict.message


def test_the_solutions_are_the_librarys_measures(generator):
    """What the exercises ask for, put together, is what the data set is scored with."""
    truth = checks.blobs(generator, 3, 120, 170, (0.5, 0.5))
    prediction = checks.blobs(generator, 3, 120, 170, (0.52, 0.47))
    f = checks.f_measure(checks.boundaries(prediction), checks.boundaries(truth))
    j = checks.jaccard(prediction, truth, 1)[0]
    for index in range(3):
        pair = prediction[index], truth[index]
        assert f[index].item() == pytest.approx(metrics.contour_accuracy(*pair), abs=1e-6)
        assert j[index].item() == pytest.approx(metrics.region_similarity(*pair), abs=1e-6)


def test_pck_of_a_person_seen_from_afar():
    """Errors are in units of the person: a person of any size has the same PCK."""
    (prediction, truth, alpha), _ = checks.pck_instance.cases(torch.Generator().manual_seed(0))
    whole = checks.share_correct(prediction, truth, alpha)
    assert torch.equal(checks.share_correct(prediction * 0.25, truth * 0.25, alpha), whole)
    assert 0 < whole.min() and whole.max() < 1
