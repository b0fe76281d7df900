"""PCK against cases worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from corrlib.errors import InputError
from corrlib.pck import score_keypoints, summarise

NAN = torch.nan


def person(frames: int = 3) -> torch.Tensor:
    """Joints at the corners of a box of 40 x 30 pixels: diagonal 50, so 0.6 of it is 30."""
    return torch.tensor([[10.0, 10.0], [50.0, 10.0], [10.0, 40.0], [50.0, 40.0]]).repeat(
        frames, 1, 1
    )


def figure(prediction, truth, visible=None, names="abcd"):
    return summarise({"clip": score_keypoints(prediction, truth, visible)}, tuple(names))


def test_thresholds_are_shares_of_the_person_and_include_their_end():
    truth = person()
    found = truth.clone()
    # PCK_instance: 3 and 6 pixels; PCK_max: 4 and 8 pixels.
    found[1, :, 0] += torch.tensor([3.0, 3.5, 6.0, 8.0])
    found[2, :, 1] -= torch.tensor([4.0, 4.5, 6.5, 8.5])
    got = figure(found, truth)
    assert got["PCK_instance"] == {"0.1": 1 / 8, "0.2": 5 / 8}
    assert got["PCK_max"] == {"0.1": 3 / 8, "0.2": 7 / 8}
    assert got["joints"]["a"] == {
        "PCK_instance": {"0.1": 0.5, "0.2": 1.0},
        "PCK_max": {"0.1": 1.0, "0.2": 1.0},
    }
    assert got["joints"]["d"]["PCK_max"] == {"0.1": 0.0, "0.2": 0.5}
    assert got["found"] == 1.0
    assert got["found_only"] == {key: got[key] for key in ("PCK_instance", "PCK_max")}


def test_distance_is_euclidean():
    truth = person(2)
    found = truth.clone()
    found[1, 0] += torch.tensor([1.8, 2.4])  # 3 pixels
    found[1, 1] += torch.tensor([2.0, 2.4])
    got = figure(found, truth)["joints"]
    assert got["a"]["PCK_instance"]["0.1"] == 1.0 and got["b"]["PCK_instance"]["0.1"] == 0.0


def test_the_first_frame_does_not_count():
    truth = person()
    found = truth.clone()
    found[0] += 1000
    assert figure(found, truth)["PCK_instance"] == {"0.1": 1.0, "0.2": 1.0}


def test_the_length_is_that_of_each_frame():
    truth = person()
    truth[2] *= 10
    found = truth + torch.tensor([25.0, 0.0])
    assert figure(found, truth)["PCK_instance"] == {"0.1": 0.5, "0.2": 0.5}


def test_the_box_holds_visible_joints_only():
    truth = person()
    truth[:, 3] = torch.tensor([1000.0, 1000.0])
    found = truth + torch.tensor([7.0, 0.0])
    assert figure(found, truth)["PCK_instance"]["0.1"] == 1.0
    visible = torch.tensor([True, True, True, False]).expand(3, 4)
    got = figure(found, truth, visible)
    assert got["PCK_instance"]["0.2"] == 0.0 and got["PCK_max"]["0.2"] == 1.0
    assert got["joints"]["d"]["PCK_max"] == {"0.1": None, "0.2": None}
    unknown = truth.clone()
    unknown[:, 3] = NAN
    assert figure(found, unknown) == got


def test_a_lost_joint_is_wrong_and_the_published_way_leaves_it_out():
    truth = person()
    found = truth.clone()
    found[1, 3] = NAN
    got = figure(found, truth)
    assert got["PCK_instance"]["0.2"] == 7 / 8 and got["found"] == 7 / 8
    assert got["found_only"]["PCK_instance"]["0.2"] == 1.0
    # Without joint d the box is as large as before, without c and d it is a line of 40 pixels.
    found[1, 2:] = NAN
    found[1, 0] += torch.tensor([5.0, 0.0])
    got = figure(found, truth)
    assert got["joints"]["a"]["PCK_instance"]["0.2"] == 1.0
    assert got["found_only"]["PCK_instance"]["0.2"] == (0.5 + 1 + 1 + 1) / 4


def test_the_whole_is_a_mean_over_joints_not_over_positions():
    truth = person(5)
    visible = torch.ones(5, 4, dtype=torch.bool)
    visible[2:, 3] = False
    found = truth.clone()
    found[1, 3] += 100
    assert figure(found, truth, visible)["PCK_instance"]["0.1"] == 3 / 4


def test_clips_are_pooled_per_joint():
    truth = person(3)
    bad = truth.clone()
    bad[:, 0] += 100
    long = person(7)
    scores = {"short": score_keypoints(bad, truth), "long": score_keypoints(long, long)}
    got = summarise(scores, tuple("abcd"))
    assert got["joints"]["a"]["PCK_instance"]["0.1"] == 6 / 8
    assert got["PCK_instance"]["0.1"] == pytest.approx((6 / 8 + 3) / 4)
    assert got["clips"]["short"]["PCK_instance"]["0.1"] == 3 / 4
    assert got["clips"]["long"]["PCK_max"]["0.2"] == 1.0
    json.dumps(got, allow_nan=False)


def test_a_person_of_one_point():
    truth = torch.full((2, 1, 2), 5.0)
    assert figure(truth, truth, names="a")["PCK_instance"]["0.1"] == 1.0
    assert figure(truth + 0.1, truth, names="a")["PCK_instance"]["0.2"] == 0.0


def test_moving_or_enlarging_everything_changes_nothing(generator):
    truth = 100 * torch.rand(6, 15, 2, generator=generator)
    found = truth + 15 * torch.randn(6, 15, 2, generator=generator)
    first = score_keypoints(found, truth)
    other = score_keypoints(3 * found + 7, 3 * truth + 7)
    assert np.allclose(first.instance, other.instance, rtol=1e-4)
    assert np.allclose(first.largest, other.largest, rtol=1e-4)
    assert ((first.instance < first.largest * 1.7) & (first.instance > first.largest)).any()


def test_against_a_plain_loop(generator):
    """The definition written out joint by joint."""
    truth = 100 * torch.rand(5, 6, 2, generator=generator)
    found = truth + 10 * torch.randn(5, 6, 2, generator=generator)
    found[torch.rand(5, 6, generator=generator) < 0.1] = NAN
    visible = torch.rand(5, 6, generator=generator) < 0.8
    hits, total = [0] * 6, [0] * 6
    for t in range(1, 5):
        box = truth[t][visible[t]]
        diagonal = (box.amax(0) - box.amin(0)).double().norm()
        for k in range(6):
            if visible[t, k]:
                total[k] += 1
                hits[k] += bool((found[t, k] - truth[t, k]).norm() <= 0.2 * 0.6 * diagonal)
    shares = [hit / count for hit, count in zip(hits, total, strict=True) if count]
    got = figure(found, truth, visible, names="abcdef")
    assert got["PCK_instance"]["0.2"] == pytest.approx(sum(shares) / len(shares))


def test_unusable_joints():
    truth = person()
    for prediction in (truth[:2], truth[..., :1], truth[:, :3]):
        with pytest.raises(InputError, match="the truth alike"):
            score_keypoints(prediction, truth)
    with pytest.raises(InputError, match="at least 2 frames"):
        score_keypoints(truth[:1], truth[:1])
    with pytest.raises(InputError, match="which joints are visible"):
        score_keypoints(truth, truth, torch.ones(4, dtype=torch.bool))
    with pytest.raises(InputError, match="at least one clip"):
        summarise({}, ())
