"""TAP-Vid's measures, worked by hand, and the evaluation that computes them."""

from __future__ import annotations

import math

import pytest
import torch

from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.point_data import point_clip
from corrlib.propagation import PropagationConfig
from corrlib.tapvid import THRESHOLDS, evaluate_points, tapvid_measures

SIZE = (256, 256)


def tracks(frames: int, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((frames, points, 2), 100.0), torch.ones(frames, points, dtype=torch.bool)


def by_definition(position, visible, true_position, true_visible, size, queries):
    """The published definition with one loop per point, frame and distance."""
    frames, points = true_visible.shape
    delta, jaccard = [], []
    for threshold in (1, 2, 4, 8, 16):
        right = true = true_positive = false_positive = 0
        for n in range(points):
            for t in range(int(queries[n]) + 1, frames):
                dx = float(position[t, n, 0] - true_position[t, n, 0]) * 256 / size[1]
                dy = float(position[t, n, 1] - true_position[t, n, 1]) * 256 / size[0]
                within = dx * dx + dy * dy < threshold**2
                true += bool(true_visible[t, n])
                right += bool(true_visible[t, n] and within)
                true_positive += bool(true_visible[t, n] and within and visible[t, n])
                false_positive += bool(visible[t, n] and not (true_visible[t, n] and within))
        delta.append(right / true)
        jaccard.append(true_positive / (true + false_positive))
    agreed = [
        bool(visible[t, n] == true_visible[t, n])
        for n in range(points)
        for t in range(int(queries[n]) + 1, frames)
    ]
    return sum(delta) / 5, sum(jaccard) / 5, sum(agreed) / len(agreed)


def test_perfect_tracks():
    position, visible = tracks(5, 3)
    visible[2, 1] = False
    figures = tapvid_measures(position, visible, position, visible, SIZE)
    for name in ("delta_avg", "average_jaccard", "occlusion_accuracy"):
        assert figures[name] == 1


def test_a_hand_worked_case():
    """One point, four frames after the first: off by 0, 3 and 20 pixels, then occluded."""
    true_position, true_visible = tracks(5, 1)
    true_visible[4] = False
    position, visible = true_position.clone(), torch.ones(5, 1, dtype=torch.bool)
    position[2, 0, 0] += 3
    position[3, 0, 1] -= 20
    figures = tapvid_measures(position, visible, true_position, true_visible, SIZE)
    # Of 3 visible: 1 within 1 and 2 pixels, 2 within 4, 8 and 16.
    assert figures["delta_avg"] == pytest.approx((1 + 1 + 2 + 2 + 2) / 15)
    # 3 true points; false positives: frame 4, frame 3, and frame 2 for 1 and 2 pixels.
    assert figures["jaccard_1"] == pytest.approx(1 / (3 + 3))
    assert figures["jaccard_4"] == pytest.approx(2 / (3 + 2))
    assert figures["average_jaccard"] == pytest.approx((2 * 1 / 6 + 3 * 2 / 5) / 5)
    assert figures["occlusion_accuracy"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_distance_is_within_only_when_it_is_less(threshold):
    position, visible = tracks(2, 1)
    true_position = position.clone()
    position[1, 0, 0] += threshold
    figures = tapvid_measures(position, visible, true_position, visible, SIZE)
    assert figures[f"delta_{threshold}"] == 0
    position[1, 0, 0] -= 0.01
    figures = tapvid_measures(position, visible, true_position, visible, SIZE)
    assert figures[f"delta_{threshold}"] == 1


def test_distances_are_those_at_256_pixels_a_side():
    position, visible = tracks(2, 2)
    true_position = position.clone()
    position[1, 0, 0] += 7  # of 1024: 1.75
    position[1, 1, 1] += 7  # of 512: 3.5
    figures = tapvid_measures(position, visible, true_position, visible, (512, 1024))
    assert [figures[f"delta_{t}"] for t in THRESHOLDS] == [0, 0.5, 1, 1, 1]


def test_the_first_frame_does_not_count():
    position, visible = tracks(3, 1)
    true_position, wrong = position.clone(), ~visible
    position[0] += 50
    wrong[1:] = True
    figures = tapvid_measures(position, wrong, true_position, visible, SIZE)
    assert figures["delta_avg"] == figures["occlusion_accuracy"] == 1


def test_position_of_an_occluded_point_is_not_judged():
    true_position, true_visible = tracks(3, 1)
    true_visible[1] = False
    true_position[1] = torch.nan
    position = torch.full((3, 1, 2), 100.0)
    figures = tapvid_measures(position, true_visible, true_position, true_visible, SIZE)
    assert figures["delta_avg"] == figures["average_jaccard"] == 1


def test_calling_everything_occluded():
    position, visible = tracks(4, 2)
    figures = tapvid_measures(position, ~visible, position, visible, SIZE)
    assert figures["delta_avg"] == 1
    assert figures["average_jaccard"] == figures["occlusion_accuracy"] == 0


def test_no_visible_true_point():
    position, visible = tracks(3, 1)
    figures = tapvid_measures(position, ~visible, position, ~visible, SIZE)
    assert math.isnan(figures["delta_avg"]) and math.isnan(figures["average_jaccard"])
    assert figures["occlusion_accuracy"] == 1
    # One false positive makes the Jaccard defined.
    assert tapvid_measures(position, visible, position, ~visible, SIZE)["average_jaccard"] == 0


def test_a_video_of_one_frame_has_no_figure():
    position, visible = tracks(1, 1)
    figures = tapvid_measures(position, visible, position, visible, SIZE)
    assert all(math.isnan(value) for value in figures.values())


@pytest.mark.parametrize("seed", range(4))
def test_the_definition_in_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (7, 5)
    true_position = 200 * torch.rand(*shape, 2, generator=generator)
    spread = 10 ** (3 * torch.rand(*shape, 1, generator=generator) - 1)
    position = true_position + spread * torch.randn(*shape, 2, generator=generator)
    visible, true_visible = (torch.rand(shape, generator=generator) < 0.6 for _ in range(2))
    queries = torch.randint(0, 5, (5,), generator=generator)
    args = (position, visible, true_position, true_visible, (180, 320), queries)
    figures = tapvid_measures(*args)
    found = [figures[n] for n in ("delta_avg", "average_jaccard", "occlusion_accuracy")]
    assert found == pytest.approx(by_definition(*args))


def test_shapes_that_differ_are_an_error():
    position, visible = tracks(3, 2)
    with pytest.raises(InputError, match="expected positions"):
        tapvid_measures(position[:2], visible, position, visible, SIZE)


# The evaluation


def still_clip(generator, name="still", frames=4):
    frame = torch.randint(0, 256, (3, 64, 72), generator=generator, dtype=torch.uint8)
    points = torch.tensor([[20.0, 30.0], [50.5, 11.25]])
    annotated = torch.tensor([0, 2, 3])
    return point_clip(
        name,
        lambda: iter([frame] * frames),
        annotated,
        points.expand(3, 2, 2).clone(),
        torch.ones(3, 2, dtype=torch.bool),
    )


CONFIG = PropagationConfig(radius=3)


def test_evaluation_of_a_still_clip(generator):
    told = []
    clips = [still_clip(generator), still_clip(generator, "other")]
    figure = evaluate_points(
        clips, colour_patch(), CONFIG, on_clip=lambda name, figure: told.append(name)
    )
    assert told == list(figure["clips"]) == ["still", "other"]
    for name in ("delta_avg", "average_jaccard", "occlusion_accuracy"):
        assert figure[name] == 1
    clip = figure["clips"]["still"]
    assert (clip["points"], clip["frames"], clip["still"]) == (2, 4, 1)
    assert clip["seconds_per_frame"] > 0


def test_a_limit_leaves_out_later_frames(generator):
    figure = evaluate_points([still_clip(generator)], colour_patch(), CONFIG, limit=3)
    assert figure["clips"]["still"]["frames"] == 3
    # Frame 0 alone is annotated then: nothing can be judged.
    figure = evaluate_points([still_clip(generator)], colour_patch(), CONFIG, limit=2)
    assert math.isnan(figure["delta_avg"])


def test_what_cannot_be_evaluated(generator):
    with pytest.raises(InputError, match="at least one clip"):
        evaluate_points([], colour_patch())
    with pytest.raises(InputError, match="at least 2 frames"):
        evaluate_points([still_clip(generator)], colour_patch(), limit=1)
    with pytest.raises(InputError, match="at least 4 frames"):
        evaluate_points([still_clip(generator, frames=3)], colour_patch(), CONFIG)
