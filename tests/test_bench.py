"""Benchmarks compare like with like; the times themselves are not tested."""

from __future__ import annotations

import pytest
import torch

from corrlib import bench
from corrlib.errors import InputError


@pytest.fixture
def small(monkeypatch):
    for name, value in {"BATCH": 2, "CHANNELS": 5, "SIDE": 14, "RADIUS": 2, "VALUES": 3}.items():
        monkeypatch.setattr(bench, name, value)


def test_all_formulations_compute_the_same_and_so_do_their_gradients(small):
    inputs = bench._inputs(torch.device("cpu"))
    weight = torch.randn(2, 3, 14, 14)
    results = {}
    for name, formulation in bench.FORMULATIONS.items():
        copied = formulation(*inputs)
        results[name] = (copied, *torch.autograd.grad((copied * weight).sum(), inputs))
    for name in ("dense", "unfold"):
        for ours, theirs in zip(results["ours"], results[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_figures_have_the_agreed_names(small, monkeypatch):
    monkeypatch.setattr(bench, "_peak_bytes", lambda name, mode, device: 1)
    lines: list[str] = []
    figures = bench.bench_affinity(torch.device("cpu"), rounds=1, report=lines.append)
    for part in (figures["ratios"]["dense"], figures["ratios"]["unfold"], figures["floor_ratio"]):
        assert set(part) == {"forward", "forward+backward"}
        assert all(value > 0 for value in part.values())
    assert set(figures["peak_bytes"]) == {"ours", "dense", "unfold"}
    assert any("faster than dense" in line for line in lines)


def test_a_wrong_formulation_is_not_timed(small, monkeypatch):
    monkeypatch.setitem(bench.FORMULATIONS, "dense", lambda r, t, v: 2 * bench.tiled(r, t, v))
    with pytest.raises(AssertionError):
        bench.bench_affinity(torch.device("cpu"), rounds=1, report=print)


def test_memory_is_measured_in_a_process_of_its_own():
    peak = bench._peak_bytes("ours", "forward", torch.device("cpu"))
    result = bench.BATCH * bench.SIDE**2 * (2 * bench.RADIUS + 1) ** 2 * 4
    assert result < peak < 100 * result


def test_no_rounds_is_an_error():
    with pytest.raises(InputError, match="round"):
        bench.bench_affinity(torch.device("cpu"), rounds=0, report=print)
