"""Adaptation: weights go on from where they are, on frames alone, and stop when asked."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import make_box, refused, run

from corrlib.adapt import LEARNING_RATE, adapt, adaptation_recipe
from corrlib.corrflow import CorrFlow
from corrlib.crw import CRW, CRWConfig
from corrlib.errors import InputError
from corrlib.masks import write_mask
from corrlib.recipes import PROFILES
from corrlib.synthetic import synthetic_clip
from corrlib.training import Trainer
from corrlib.video import VideoWriter
from corrlib.weights import save_weights

FAST = PROFILES["fast"]
QUIET = {"device": "cpu", "precision": "fp32", "progress": False}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapt") / "video.mp4"
    with VideoWriter(path, 12) as writer:
        for frame in synthetic_clip(frames=5, height=64, width=80).frames:
            writer.write(frame)
    return path


@pytest.fixture
def model(generator):
    model = CorrFlow(FAST.model, generator).eval()
    model.quantiser.centroids.copy_(torch.randn(16, 2, generator=generator) * 30)
    return model


def test_it_moves_from_the_weights_and_leaves_them_and_the_colour_words(model, video, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = adapt(model, video, 0.005, tmp_path / "run", config=FAST, **QUIET)
    assert not adapted.training and adapted.config == model.config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(adapted.quantiser.centroids, before["quantiser.centroids"])
    moved = (adapted.encoder.conv1.weight - before["encoder.conv1.weight"]).abs().max()
    assert 0 < moved < 0.05  # from these weights, not from others
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_ctrl_c_keeps_what_was_learnt(model, video, monkeypatch):
    step, taken = Trainer.step, []

    def interrupted(self):
        taken.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)
    adapted = adapt(model, [video], 60, config=FAST, **QUIET)
    assert len(taken) == 1
    assert not torch.equal(adapted.encoder.conv1.weight, model.encoder.conv1.weight)


def test_the_recipe_is_the_weights_own_model_with_a_lower_rate(model, generator):
    for network in (model, CRW(CRWConfig(), generator)):
        recipe = adaptation_recipe(network.config, seed=3)
        assert recipe.model == network.config and recipe.seed == 3
        assert recipe.learning_rate == LEARNING_RATE < PROFILES["laptop"].learning_rate


def test_what_cannot_be_adapted_to_is_an_error(model, video, tmp_path):
    short = tmp_path / "short.mp4"
    with VideoWriter(short, 12) as writer:
        for frame in synthetic_clip(frames=2, height=64, width=80).frames:
            writer.write(frame)
    for bad, words in ((short, "short.mp4"), (tmp_path / "gone.mp4", "gone.mp4")):
        with pytest.raises(InputError, match=words):
            adapt(model, bad, 1, config=FAST, **QUIET)
    with pytest.raises(InputError, match="minutes"):
        adapt(model, video, 0, config=FAST, **QUIET)
    other = replace(FAST, model=replace(FAST.model, temperature=0.5))
    with pytest.raises(InputError, match="weights of the model"):
        adapt(model, video, 1, config=other, **QUIET)


def test_propagate_adapts_to_its_video_first(model, video, tmp_path, monkeypatch, capsys):
    seen = []

    def spy(given, path, minutes, **options):
        seen.append((given.config, Path(path), minutes))
        return adapt(given, path, minutes, config=FAST, **options | {"progress": False})

    monkeypatch.setattr("corrlib.adapt.adapt", spy)
    save_weights(model, tmp_path / "w.safetensors")
    mask = torch.zeros(64, 80, dtype=torch.uint8)
    mask[10:30, 10:30] = 1
    write_mask(tmp_path / "mask.png", mask)
    figures = tmp_path / "f.json"
    command = ("propagate", video, "--mask", tmp_path / "mask.png", "--out", tmp_path / "o.mp4")
    command += ("--device", "cpu", "--precision", "fp32", "--radius", 3, "--adapt", 0.005)
    assert run(*command, "--weights", tmp_path / "w.safetensors", "--json", figures) == 0
    assert seen == [(model.config, video, 0.005)]
    assert json.loads(figures.read_text())["settings"]["adapt"] == 0.005
    assert "--adapt" in refused(capsys, *command, "--baseline", "identity")
    assert len(seen) == 1


def test_evaluate_begins_anew_with_the_weights_on_each_sequence(
    model, tmp_path, monkeypatch, capsys
):
    davis, seen = make_box(tmp_path / "box") / "davis", []

    def spy(given, path, minutes, **options):
        seen.append((given.encoder.conv1.weight.clone(), Path(path).name, minutes))
        return adapt(given, path, minutes, config=FAST, **options | {"progress": False})

    monkeypatch.setattr("corrlib.adapt.adapt", spy)
    weights, figures = tmp_path / "w.safetensors", tmp_path / "f.json"
    save_weights(model, weights)
    command = ("evaluate", "davis", "--root", davis, "--adapt", 0.005)
    command += ("--device", "cpu", "--precision", "fp32", "--radius", 3)
    assert run(*command, "--weights", weights, "--json", figures) == 0
    assert [one[1:] for one in seen] == [("one", 0.005), ("two", 0.005)]
    assert torch.equal(seen[0][0], seen[1][0])
    found = json.loads(figures.read_text())
    assert found["settings"]["adapt"] == 0.005 and set(found["sequences"]) == {"one", "two"}
    assert "--adapt" in refused(capsys, *command, "--baseline", "colour-patch")
