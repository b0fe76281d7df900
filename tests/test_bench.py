"""Benchmarks compare like with like; the times themselves are not tested."""

from __future__ import annotations

import json

import pytest
import torch

from corrlib import bench
from corrlib.baselines import colour_patch
from corrlib.bench import affinity, metric, propagate
from corrlib.bench.clip import moving_ellipses
from corrlib.errors import InputError
from corrlib.propagation_reference import ReferencePropagator

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    for name, value in {"BATCH": 2, "CHANNELS": 5, "SIDE": 14, "RADIUS": 2, "VALUES": 3}.items():
        monkeypatch.setattr(affinity, name, value)
    for module, size in ((metric, (7, 40, 60)), (propagate, (2, 64, 96))):
        names = ("FRAMES" if module is metric else "REFERENCES", "HEIGHT", "WIDTH")
        for name, value in zip(names, size, strict=True):
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(propagate, "SMALL", 1.0)


@pytest.mark.parametrize("run", ["affinity", "metric", "propagate"])
def test_no_rounds_is_an_error(run):
    arguments = {"rounds": 0, "report": print} | ({} if run == "metric" else {"device": CPU})
    with pytest.raises(InputError, match="round"):
        getattr(bench, f"bench_{run}")(**arguments)


# affinity


def test_all_formulations_compute_the_same_and_so_do_their_gradients(small):
    inputs = affinity._inputs(CPU)
    weight = torch.randn(2, 3, 14, 14)
    results = {}
    for name, formulation in affinity.FORMULATIONS.items():
        copied = formulation(*inputs)
        results[name] = (copied, *torch.autograd.grad((copied * weight).sum(), inputs))
    for name in ("dense", "unfold"):
        for ours, theirs in zip(results["ours"], results[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_figures_of_affinity_have_the_agreed_names(small, monkeypatch):
    monkeypatch.setattr(affinity, "_peak_bytes", lambda name, mode, device: 1)
    lines: list[str] = []
    figures = bench.bench_affinity(CPU, rounds=1, report=lines.append)
    for part in (figures["ratios"]["dense"], figures["ratios"]["unfold"], figures["floor_ratio"]):
        assert set(part) == {"forward", "forward+backward"}
        assert all(value > 0 for value in part.values())
    assert set(figures["peak_bytes"]) == {"ours", "dense", "unfold"}
    assert any("faster than dense" in line for line in lines)


def test_a_wrong_formulation_is_not_timed(small, monkeypatch):
    monkeypatch.setitem(affinity.FORMULATIONS, "dense", lambda r, t, v: 2 * affinity.tiled(r, t, v))
    with pytest.raises(AssertionError):
        bench.bench_affinity(CPU, rounds=1, report=print)


def test_memory_is_measured_in_a_process_of_its_own():
    peak = affinity._peak_bytes("ours", "forward", CPU)
    result = affinity.BATCH * affinity.SIDE**2 * (2 * affinity.RADIUS + 1) ** 2 * 4
    assert result < peak < 100 * result


# metric


def test_figures_of_metric_are_those_of_the_reference(small):
    lines: list[str] = []
    figures = bench.bench_metric(rounds=2, report=lines.append)
    assert figures["ratios"]["reference"] > 0 and figures["identical"] is True
    assert any("identical figures" in line for line in lines)
    json.dumps(figures)


def test_masks_that_are_scored_are_of_every_kind():
    for objects in (1, 4):
        predicted, true = metric._masks(objects)
        assert set(true.unique().tolist()) == set(range(objects + 1))
        assert any(not mask.any() for mask in true) and any(mask[:, 0].all() for mask in true)
        assert (predicted != true).any()


def test_a_metric_that_differs_from_the_reference_is_an_error(small, monkeypatch):
    real = metric.score_sequence

    def wrong(*arguments):
        score = real(*arguments)
        return type(score)(score.J, score.F * 0.999)

    monkeypatch.setattr(metric, "score_sequence", wrong)
    with pytest.raises(AssertionError, match="differ"):
        bench.bench_metric(rounds=1, report=print)


# propagate


def test_figures_of_propagation_have_the_agreed_names(small):
    lines: list[str] = []
    calls = []

    def features(dtype):
        calls.append(dtype)
        return colour_patch()

    figures = bench.bench_propagate(CPU, 2, lines.append, features)
    assert calls == [torch.float32, torch.bfloat16]
    for figure in (figures, figures["bf16"]):
        assert figure["ratios"]["reference"] > 0 and figure["seconds_per_frame"] > 0
        assert tuple(figure["shares"]) == propagate.STAGES
        assert sum(figure["shares"].values()) == pytest.approx(1)
        assert min(figure["shares"].values()) > 0
        assert 0.2 < figure["J&F"] <= 1
    assert figures["agreement"] >= 0.999 and figures["bf16"]["agreement"] > 0.97
    assert figures["memory_bytes"] > figures["bf16"]["memory_bytes"]
    assert sum("faster than the reference" in line for line in lines) == 2
    assert sum("faster than in whole frames" in line for line in lines) == 1
    assert figures["tracking"]["ratio"] > 0
    for part in ("seconds_per_frame", "J&F"):
        assert set(figures["tracking"][part]) == {"whole frame", "tracking"}
        assert all(0 < value for value in figures["tracking"][part].values())
    json.dumps(figures)


def test_the_reference_starts_from_the_same_labels_and_takes_all_references(small, monkeypatch):
    seen = []
    step = ReferencePropagator.step

    def noting(self, frame):
        seen.append((len(self.frames), [label.clone() for label in self.labels]))
        return step(self, frame)

    monkeypatch.setattr(ReferencePropagator, "step", noting)
    bench.bench_propagate(CPU, 1, print, lambda dtype: colour_patch())
    ((frames, labels),) = seen
    assert frames == len(labels) == propagate.REFERENCES + 1


def test_the_clip_moves_and_shows_every_object():
    frames, masks = moving_ellipses(5, 60, 90, 3)
    assert frames.shape == (5, 3, 60, 90) and masks.shape == (5, 60, 90)
    assert set(masks[0].unique().tolist()) == set(masks[-1].unique().tolist()) == {0, 1, 2, 3}
    assert (masks[0] != masks[-1]).any() and (frames[0] != frames[1]).any()
    small = moving_ellipses(5, 60, 90, 3, scale=0.5)[1]
    assert 0 < small.count_nonzero() < 0.4 * masks.count_nonzero()
    again = moving_ellipses(5, 60, 90, 3)
    assert torch.equal(again[0], frames) and torch.equal(again[1], masks)
