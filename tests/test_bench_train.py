"""The training benchmark: the pairwise loop computes the same loss; figures have agreed names."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from corrlib.bench import bench_train_joint
from corrlib.bench import train as bench
from corrlib.corrflow import CorrFlow
from corrlib.errors import InputError
from corrlib.recipes import JOINT_PROFILES, PROFILES

FAST = PROFILES["fast"]
CPU = torch.device("cpu")


def losses(model, clips):
    values = model.loss(clips, torch.Generator().manual_seed(1))
    model.zero_grad()
    values.total.backward()
    return values, model.encoder.conv1.weight.grad.clone()


@pytest.mark.parametrize("both", [True, False])
def test_the_pairwise_loop_computes_the_same_loss_and_gradients(generator, both):
    config = replace(FAST.model, both_directions=both, radius=2)
    ours = CorrFlow(config, generator)
    ours.quantiser.centroids.copy_(torch.randn(16, 2, generator=generator) * 30)
    pairwise = bench.PairwiseCorrFlow(config, generator)
    pairwise.load_state_dict(ours.state_dict())
    clips = torch.rand(1, 3, 3, 32, 32, generator=generator)
    (expected, gradient), (found, other) = losses(ours, clips), losses(pairwise, clips)
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-4)


def test_figures_have_the_agreed_names():
    lines: list[str] = []
    figures = bench.bench_train(CPU, 1, lines.append, batch=1, precision="fp32", config=FAST)
    assert figures["ratios"]["reference"] > 0 and figures["clips_per_second"] > 0
    assert tuple(figures["shares"]) == bench.STAGES
    assert sum(figures["shares"].values()) == pytest.approx(1)
    assert all(share >= 0 for share in figures["shares"].values())
    # The products of a step: 3 frames of 64x64 through the encoder, about 9 GFLOP per 256x256.
    assert 0.5 < figures["gflops_per_clip"] < 20 and figures["gemm_share"] > 0
    assert any("F.unfold" in line for line in lines)


def test_another_loss_is_not_timed(monkeypatch):
    wrong = bench.PairwiseCorrFlow.affinity
    monkeypatch.setattr(
        bench.PairwiseCorrFlow, "affinity", lambda *pair: 0.5 * wrong(*pair), raising=True
    )
    with pytest.raises(AssertionError):
        bench.bench_train(CPU, 1, print, batch=1, precision="fp32", config=FAST)


def test_no_rounds_is_an_error():
    with pytest.raises(InputError, match="round"):
        bench.bench_train(CPU, 0, print)


def test_the_joint_model_is_timed_beside_its_encoder():
    lines: list[str] = []
    fast = JOINT_PROFILES["fast"]
    figures = bench_train_joint(CPU, 1, lines.append, batch=1, precision="fp32", config=fast)
    # Steps this small are over sooner than a busy machine can compare: no sign is asked.
    assert math.isfinite(figures["ratios"]["encoder"]) and figures["clips_per_second"] > 0
    assert sum(figures["shares"].values()) == pytest.approx(1)
    assert all(share > 0 for share in figures["shares"].values())  # it localises from the start
    assert any("the encoder takes" in line for line in lines)
