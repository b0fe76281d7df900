"""J and F: closed forms, the published evaluator's figures, fast against reference."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from corrlib.errors import InputError
from corrlib.masks import read_mask, write_mask
from corrlib.metrics import (
    SequenceScore,
    boundary_radius,
    contour_accuracy,
    reference_boundary,
    reference_contour_accuracy,
    reference_region_similarity,
    reference_score_sequence,
    region_similarity,
    score_files,
    score_folder,
    score_sequence,
    statistics,
    summarise,
)


def box(height: int, width: int, top: int, left: int, size: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[top : top + size, left : left + size] = 1
    return mask


def boundary_by_pixel(mask: np.ndarray) -> set[tuple[int, int]]:
    """The definition, pixel by pixel: neighbours outside the image do not count."""
    height, width = mask.shape
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        for ny, nx in ((y, x + 1), (y + 1, x), (y + 1, x + 1))
        if ny < height and nx < width and mask[y, x] != mask[ny, nx]
    }


def f_by_distance(prediction: np.ndarray, truth: np.ndarray, radius: float) -> float:
    """F from all pairwise distances between boundary pixels."""
    predicted, true = boundary_by_pixel(prediction), boundary_by_pixel(truth)
    if not predicted or not true:
        return 1.0 if not predicted and not true else 0.0

    def matched(these, those):
        return sum(
            any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in those) for y, x in these
        )

    precision = matched(predicted, true) / len(predicted)
    recall = matched(true, predicted) / len(true)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def awkward_masks(height: int, width: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Empty, full, dots, lines and blobs, many of them at the image border."""
    empty = np.zeros((height, width), np.uint8)

    def with_ones(*index) -> np.ndarray:
        mask = empty.copy()
        mask[index] = 1
        return mask

    masks = [empty, empty + 1, 1 - with_ones(-1, -1), 1 - with_ones(0, 0)]
    masks += [with_ones(y, x) for y in (0, -1) for x in (0, -1)]
    masks += [with_ones(height // 2, width // 2), with_ones(height // 2, width - 2)]
    everything = slice(None)
    masks += [with_ones(y, everything) for y in (0, 1, height // 2, -2, -1)]
    masks += [with_ones(everything, x) for x in (0, 1, width // 2, -2, -1)]
    masks += [
        with_ones(slice(a, b), slice(c, d))
        for a, b in ((0, 7), (height - 7, height), (5, 12))
        for c, d in ((0, 9), (width - 9, width), (6, 15))
    ]
    masks += [(rng.random((height, width)) < share).astype(np.uint8) for share in (0.02, 0.5)]
    for _ in range(8):
        coarse = rng.random((height // 8 + 1, width // 8 + 1)) < rng.uniform(0.1, 0.7)
        masks.append(np.kron(coarse, np.ones((8, 8)))[:height, :width].astype(np.uint8))
    return masks


# One frame, closed forms


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_square_shifted_within_the_matching_distance(shift):
    truth, prediction = box(120, 160, 30, 40, 40), box(120, 160, 30, 40 + shift, 40)
    assert boundary_radius((120, 160)) == 2
    assert region_similarity(prediction, truth) == (40 - shift) / (40 + shift)
    assert contour_accuracy(prediction, truth) == 1


@pytest.mark.parametrize("shift", [3, 5, 11])
def test_square_shifted_farther(shift):
    # The boundary is the outline of a square of side s + 1, 4s pixels. Of one outline, these lie
    # within r of the other, shifted by d > r: on top and bottom the s - d + 1 shared pixels and r
    # beyond them; on the side that is inside the other square, r below the top and r above the
    # bottom.
    size, radius = 40, 2
    truth, prediction = box(120, 160, 30, 40, size), box(120, 160, 30, 40 + shift, size)
    matched = 2 * (size - shift + 1 + radius) + 2 * radius
    assert contour_accuracy(prediction, truth) == pytest.approx(matched / (4 * size), abs=1e-12)
    assert region_similarity(prediction, truth) == (size - shift) / (size + shift)


def test_precision_and_recall_are_combined():
    # Two squares predicted where there is one: precision 1/2, recall 1.
    truth, other = box(120, 160, 10, 10, 30), box(120, 160, 70, 100, 30)
    assert contour_accuracy(truth + other, truth) == pytest.approx(2 / 3, abs=1e-12)
    assert contour_accuracy(truth, truth + other) == pytest.approx(2 / 3, abs=1e-12)
    assert region_similarity(truth + other, truth) == 0.5


@pytest.mark.parametrize("accuracy", [contour_accuracy, reference_contour_accuracy])
@pytest.mark.parametrize("similarity", [region_similarity, reference_region_similarity])
def test_empty_masks(accuracy, similarity):
    empty, square = torch.zeros(50, 60, dtype=torch.uint8), box(50, 60, 10, 10, 20)
    full = torch.ones(50, 60, dtype=torch.uint8)
    assert (similarity(empty, empty), accuracy(empty, empty)) == (1, 1)
    assert (similarity(square, empty), accuracy(square, empty)) == (0, 0)
    assert (similarity(empty, square), accuracy(empty, square)) == (0, 0)
    # A mask that fills the image has no boundary either.
    assert (similarity(full, empty), accuracy(full, empty)) == (0, 1)


def test_boundary_at_the_image_border():
    full_height = np.zeros((4, 5), np.uint8)
    full_height[:, 3:] = 1
    expected = np.zeros((4, 5))
    expected[:, 2] = 1
    assert reference_boundary(full_height).tolist() == expected.tolist()
    corner = np.zeros((4, 5), np.uint8)
    corner[3, 4] = 1
    assert boundary_by_pixel(corner) == {(2, 3), (2, 4), (3, 3)}
    assert reference_boundary(corner).sum() == 3


def test_radius_follows_the_whole_image():
    assert boundary_radius((480, 854)) == 8
    assert boundary_radius((600, 800)) == 8  # diagonal 1000: exactly 8, not 9
    assert boundary_radius((240, 432)) == 4
    assert boundary_radius((10, 10)) == 1
    assert boundary_radius((480, 854), 3) == 3
    # The same two dots, nine apart, match in a large image only.
    for size, matches in ((1000, 1), (300, 0)):
        a, b = box(size, size, 20, 20, 1), box(size, size, 20, 29, 1)
        assert contour_accuracy(a, b) == matches


def test_bound_in_pixels():
    a, b = box(40, 40, 10, 10, 1), box(40, 40, 10, 15, 1)
    assert contour_accuracy(a, b, bound=4) < 1
    assert contour_accuracy(a, b, bound=5) == 1
    assert contour_accuracy(a, a, bound=0) == 1
    with pytest.raises(InputError, match="boundary distance"):
        contour_accuracy(a, b, bound=-1)


# One frame, invariances and equivalences


def test_transposing_and_swapping_change_nothing():
    rng = np.random.default_rng(0)
    masks = awkward_masks(40, 56, rng)
    for prediction, truth in zip(masks, rng.permutation(len(masks)), strict=True):
        truth = masks[truth]
        for measure in (region_similarity, contour_accuracy):
            value = measure(prediction, truth)
            assert 0 <= value <= 1
            assert measure(prediction.T, truth.T) == value
            assert measure(truth, prediction) == pytest.approx(value, abs=1e-12)
            assert measure(truth, truth) == 1
        flipped = region_similarity(prediction[:, ::-1], truth[:, ::-1])
        assert flipped == region_similarity(prediction, truth)


def test_fast_equals_reference():
    rng = np.random.default_rng(1)
    for shape in ((37, 53), (60, 24), (130, 260)):
        masks = awkward_masks(*shape, rng)
        pairs = [(a, b) for a in masks for b in masks]
        for index in rng.choice(len(pairs), 400, replace=False):
            prediction, truth = pairs[index]
            for bound in (0.008, 0.05):
                assert contour_accuracy(prediction, truth, bound) == pytest.approx(
                    reference_contour_accuracy(prediction, truth, bound), abs=1e-12
                )
            assert region_similarity(prediction, truth) == pytest.approx(
                reference_region_similarity(prediction, truth), abs=1e-12
            )


def test_reference_equals_pairwise_distances():
    rng = np.random.default_rng(2)
    masks = awkward_masks(17, 22, rng)
    for _ in range(80):
        prediction, truth = (masks[i] for i in rng.integers(len(masks), size=2))
        for bound in (0.05, 0.1):
            expected = f_by_distance(prediction, truth, boundary_radius((17, 22), bound))
            got = reference_contour_accuracy(prediction, truth, bound)
            assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_tiny_images(shape):
    rng = np.random.default_rng(3)
    for _ in range(20):
        prediction, truth = (rng.integers(0, 2, shape, dtype=np.uint8) for _ in range(2))
        assert contour_accuracy(prediction, truth) == f_by_distance(prediction, truth, 1)


# Statistics over time


@pytest.mark.parametrize(
    ("values", "decay"),
    [
        ([0.9], 0),
        ([0.9, 0.4], 0.5),
        ([0.9, 0.7, 0.4], 0.8 - 0.4),
        ([0.9, 0.7, 0.4, 0.2], 0.8 - 0.3),
        ([0.9, 0.7, 0.4, 0.2, 0.6], 0.8 - 0.4),
        (list(range(9)), 1 - 7),
    ],
)
def test_decay(values, decay):
    assert statistics(values)["decay"] == pytest.approx(decay, abs=1e-12)


def test_mean_and_recall():
    result = statistics([0.5, 0.51, 1.0, 0.0])
    assert result["mean"] == pytest.approx(0.5025)
    assert result["recall"] == 0.5  # 0.5 itself is not above 0.5


def test_long_sequences_are_cut_in_quarters():
    result = statistics(np.repeat([1.0, 0.5, 0.5, 0.0], 250))
    assert result["decay"] == pytest.approx(1, abs=0.01)


@pytest.mark.filterwarnings("error")
def test_statistics_with_nan():
    result = statistics([0.8, math.nan, 0.6, 0.4])
    assert result["mean"] == pytest.approx(0.6)
    assert result["recall"] == 0.5
    assert result["decay"] == pytest.approx(0.8 - 0.5)
    assert math.isnan(statistics([math.nan] * 3)["mean"])
    with pytest.raises(InputError):
        statistics([])


# Sequences


def moving(frames: int, objects: int, shift: int = 0) -> list[torch.Tensor]:
    masks = []
    for t in range(frames):
        mask = torch.zeros(60, 80, dtype=torch.uint8)
        for number in range(1, objects + 1):
            left = 5 + 2 * t + shift
            mask[18 * number - 12 : 18 * number, left : left + 12] = number
        masks.append(mask)
    return masks


def test_first_and_last_frame_are_left_out():
    truths = moving(6, 2)
    predictions = moving(6, 2)
    predictions[0] = predictions[-1] = torch.zeros(60, 80, dtype=torch.uint8)
    score = score_sequence(predictions, truths)
    assert score.J.shape == score.F.shape == (2, 4)
    assert (score.J == 1).all() and (score.F == 1).all()
    assert score_sequence(predictions, truths, score_last=True).J[:, -1].tolist() == [0, 0]


def test_each_object_is_scored_by_itself():
    truths = moving(5, 3)
    predictions = [torch.where(mask == 2, 0, mask) for mask in truths]
    score = score_sequence(predictions, truths)
    assert score.J.tolist() == [[1] * 3, [0] * 3, [1] * 3]
    swapped = [torch.where(mask == 1, 3, torch.where(mask == 3, 1, mask)) for mask in truths]
    assert score_sequence(swapped, truths).J.tolist() == [[0] * 3, [1] * 3, [0] * 3]


def test_fast_sequence_equals_reference():
    truths, predictions = moving(6, 3), moving(6, 3, shift=3)
    fast, slow = score_sequence(predictions, truths), reference_score_sequence(predictions, truths)
    np.testing.assert_allclose(fast.J, slow.J, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.F, slow.F, rtol=0, atol=1e-12)
    assert 0 < fast.F.mean() < 1


def test_the_number_of_objects_comes_from_the_first_true_mask():
    truths = moving(4, 1)
    later = moving(4, 2)
    truths[2:] = later[2:]  # a second object enters: DAVIS does not score it
    assert score_sequence(moving(4, 1), truths).J.tolist() == [[1, 1]]
    with pytest.raises(InputError, match="frame 2: expected predicted ids up to 1"):
        score_sequence(truths, truths)
    assert score_sequence(truths, truths, objects=2).J.shape == (2, 2)


def test_void_is_background_in_truth_and_an_error_in_predictions():
    truths = moving(4, 1)
    clean = [mask.clone() for mask in truths]
    for mask in truths:
        mask[40:] = 255
    assert score_sequence(clean, truths).J.tolist() == [[1, 1]]
    predictions = [mask.clone() for mask in clean]
    for mask in predictions:
        mask[50:] = 1  # counts against it, though it lies where the truth is void
    assert score_sequence(predictions, truths).J.max() < 1
    with pytest.raises(InputError, match="got 255"):
        score_sequence(truths, truths)


def test_masks_are_taken_one_at_a_time():
    alive = 0

    def stream(count):
        nonlocal alive
        for t in range(count):
            alive = t
            yield box(20, 20, 5, 5, 5)

    def watch(count):
        for t in range(count):
            assert abs(alive - t) <= 1
            yield box(20, 20, 5, 5, 5).numpy()

    assert score_sequence(stream(50), watch(50)).J.shape == (1, 48)


def test_bad_sequences():
    truths = moving(5, 1)
    cases = [
        (truths[:4], truths, "predictions end after 4"),
        (truths, truths[:4], "true masks end after 4"),
        (truths[:2], truths[:2], "longer sequence"),
        ([], [], "got none"),
        (truths, [mask * 0 for mask in truths], "got 0"),
        ([mask.T for mask in truths], truths, "frame 1: expected a predicted mask of 60x80"),
        ([mask.float() for mask in truths], truths, "integer ids"),
    ]
    for predictions, true, message in cases:
        with pytest.raises(InputError, match=message) as error:
            score_sequence(predictions, true)
        assert "\n" not in str(error.value)


# Data sets


def test_figure_is_the_mean_over_objects_and_is_json():
    ones, zeros = np.ones((3, 4)), np.zeros((1, 4))
    figure = summarise({"a": SequenceScore(ones, ones / 2), "b": SequenceScore(zeros, zeros)})
    assert json.loads(json.dumps(figure)) == figure
    assert figure["J"] == {"mean": 0.75, "recall": 0.75, "decay": 0}
    assert figure["F"]["mean"] == 0.375 and figure["F"]["recall"] == 0
    assert figure["J&F"] == 0.5625
    assert list(figure["sequences"]) == ["a", "b"]
    first = figure["sequences"]["a"]
    assert first["J"]["mean"] == 1 and first["J&F"] == 0.75
    assert list(first["objects"]) == ["1", "2", "3"]
    assert first["objects"]["3"]["per_frame"] == {"J": [1.0] * 4, "F": [0.5] * 4}
    with pytest.raises(InputError):
        summarise({})


def write_all(folder: Path, masks: list[torch.Tensor]) -> list[Path]:
    paths = [folder / f"{t:05d}.png" for t in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        write_mask(path, mask)
    return paths


def test_score_folder(tmp_path):
    truths = {
        "one": write_all(tmp_path / "true/one", moving(5, 1)),
        "two": write_all(tmp_path / "true/two", moving(6, 2)),
    }
    results = tmp_path / "results"
    write_all(results / "one", moving(5, 1, shift=3))
    write_all(results / "two", moving(6, 2))
    (results / "two/00000.png").unlink()
    (results / "two/00005.png").unlink()  # neither is scored
    figure = score_folder(truths, results)
    assert figure["sequences"]["one"]["J"]["mean"] == pytest.approx(9 / 15)
    assert figure["sequences"]["two"]["J&F"] == 1
    assert figure["J"]["mean"] == pytest.approx((0.6 + 1 + 1) / 3)

    (results / "two/00003.png").unlink()
    (results / "two/00004.png").unlink()
    with pytest.raises(InputError, match=r"two: .* 4 frames .* 2 missing, the first 00003\.png"):
        score_folder(truths, results)
    with pytest.raises(InputError, match="folder of results"):
        score_folder(truths, tmp_path / "absent")


def test_bad_files_name_their_sequence(tmp_path):
    truths = write_all(tmp_path / "true", moving(5, 1))
    predictions = write_all(tmp_path / "results", moving(5, 2))
    with pytest.raises(InputError, match="dog: frame 1: expected predicted ids up to 1"):
        score_files("dog", truths, tmp_path / "results")
    predictions[2].write_text("text")
    with pytest.raises(InputError, match=r"dog: .*00002\.png"):
        score_files("dog", truths, tmp_path / "results", merge_objects=True)
    with pytest.raises(InputError, match="dog: expected at least 3 true masks"):
        score_files("dog", truths[:2], tmp_path / "results")


def test_merged_objects_count_as_one(tmp_path):
    truths = write_all(tmp_path / "true", [(mask > 0).byte() for mask in moving(5, 3)])
    write_all(tmp_path / "results", moving(5, 3))
    score = score_files("dog", truths, tmp_path / "results", merge_objects=True)
    assert score.J.tolist() == [[1, 1, 1]]


# The published evaluator


def assert_parity(score: SequenceScore, published: dict) -> None:
    assert score.J.shape[0] == len(published)
    for number, figures in published.items():
        for measure, per_frame in (("J", score.J), ("F", score.F)):
            ours = statistics(per_frame[int(number) - 1])
            assert ours == pytest.approx(figures[measure], rel=0, abs=1e-9)


@pytest.fixture(scope="module")
def published(shared_data) -> dict:
    return json.loads((shared_data / "official-scores.json").read_text())


@pytest.mark.parametrize("name", ["blackswan", "camel", "goat", "libby"])
def test_parity_on_a_published_method(shared_data, published, name):
    davis = shared_data / "DAVIS-2016"
    truths = sorted((davis / "Annotations" / "480p" / name).glob("*.png"))
    predictions = davis / "osvos-2017-predictions" / name
    score = score_files(name, truths, predictions, merge_objects=True)
    assert_parity(score, published[f"osvos/{name}"])


def test_parity_on_several_objects(shared_data, published):
    folder = shared_data / "DAVIS-2017-schoolgirls" / "Annotations" / "480p" / "schoolgirls"
    truths = [read_mask(path) for path in sorted(folder.glob("*.png"))]
    late = [truths[max(t - 2, 0)] for t in range(len(truths))]
    assert_parity(
        score_sequence(late, truths), published["schoolgirls, every mask two frames late"]
    )
    assert_parity(
        score_sequence([truths[0]] * len(truths), truths), published["schoolgirls, identity"]
    )
