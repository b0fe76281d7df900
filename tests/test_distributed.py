"""Several processes train as one does: same losses, same weights, one writer, one stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import make_box, run
from processes import free_ports, run_two

from corrlib import data_parallel
from corrlib.errors import InputError
from corrlib.frames import FrameCache
from corrlib.recipes import CRW_PROFILES, PROFILES
from corrlib.training import Trainer

RECIPES = {
    # Everything that is random is frequent.
    "corrflow": replace(
        PROFILES["fast"], steps=3, model=replace(PROFILES["fast"].model, jitter=0.5, dropout=0.7)
    ),
    "crw": replace(CRW_PROFILES["fast"], steps=2),
}
RATE = PROFILES["fast"].learning_rate
CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    return make_box(tmp_path_factory.mktemp("box"))


@pytest.fixture(scope="module")
def cache(box) -> FrameCache:
    return FrameCache.build([box / "video.mp4"], box / "cache", 64, progress=False)


def train(cache: FrameCache, out: Path, name: str, **options) -> tuple[Trainer, list]:
    trainer = Trainer(RECIPES[name], cache, out / name, **CPU, **options)
    trainer.LOG_EVERY = 1
    records = []
    trainer.run(records.append, progress=False)
    return trainer, records


def worker(rank: int, port: int, cache: FrameCache, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    found = {}
    for name in RECIPES:
        trainer, records = train(cache, out, name)
        found[name] = [record.losses for record in trainer.progress.history]
        found[f"{name} told"] = len(records)

    # A signal to rank 1 alone, in its second step, stops both after it; resumed, both go on.
    stopped = Trainer(RECIPES["corrflow"], cache, out / "stopped", **CPU)
    step = stopped.step

    def interrupted():
        if rank == 1 and stopped.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step()

    stopped.step = interrupted
    assert not stopped.run(progress=False)
    found["stopped"] = stopped.progress.step
    resumed = Trainer(RECIPES["corrflow"], cache, out / "stopped", **CPU, resume=True)
    found["resumed"] = resumed.progress.step
    assert resumed.run(progress=False)
    found["history"] = [record.losses for record in resumed.progress.history]
    try:
        Trainer(replace(RECIPES["corrflow"], batch=3), cache, out / "uneven", **CPU)
    except InputError as error:
        found["uneven"] = str(error)
    (out / f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def two(cache, tmp_path_factory):
    """What two processes found, and where they left their files."""
    out = tmp_path_factory.mktemp("two")
    run_two(worker, *free_ports(), cache, out)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)], out


@pytest.fixture(scope="module")
def one(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    return {name: train(cache, out, name)[0] for name in RECIPES}


def assert_close(left: Path, right: Path) -> None:
    """The runs' weights are the same but for rounding.

    Where a gradient is next to zero rounding decides its sign, and Adam takes whole steps; of a
    hundred thousand weights a few differ by one. Other draws would move all of them.
    """
    one, two = (
        torch.load(path / "checkpoint.pt", weights_only=True)["model"] for path in (left, right)
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        difference = (value - two[name]).abs()
        assert difference.mean() < 0.02 * RATE and difference.max() < 5 * RATE, name


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_have_the_loss_curve_and_weights_of_one(two, one, name):
    (first, second), out = two
    expected = [record.losses for record in one[name].progress.history]
    assert len(expected) == RECIPES[name].steps and first[name] == second[name]
    for found, losses in zip(first[name], expected, strict=True):
        assert found == pytest.approx(losses, rel=1e-4, abs=1e-5)
    assert_close(out / name, one[name].folder)


def test_only_the_first_process_writes_and_tells(two):
    (first, second), out = two
    for name in RECIPES:
        assert (first[f"{name} told"], second[f"{name} told"]) == (RECIPES[name].steps, 0)
    assert json.loads((out / "crw" / "run.json").read_text())["processes"] == 2
    files = {"run.json", "log.csv", "checkpoint.pt", "weights.safetensors"}
    assert {path.name for path in (out / "crw").iterdir()} == files


def test_a_signal_to_any_stops_all_and_all_resume(two, one):
    (first, second), out = two
    assert first["stopped"] == second["stopped"] == first["resumed"] == second["resumed"] == 2
    losses = [record.losses for record in one["corrflow"].progress.history]
    means = {key: sum(step[key] for step in losses) / len(losses) for key in losses[0]}
    assert first["history"] == second["history"] == [pytest.approx(means, rel=1e-4, abs=1e-5)]
    assert_close(out / "stopped", one["corrflow"].folder)


def test_a_batch_that_does_not_share_out_is_an_error(two):
    (first, second), out = two
    assert "2 processes" in first["uneven"] and "got 3" in second["uneven"]
    assert not (out / "uneven").exists()


def test_the_command_under_torchrun(box, tmp_path):
    arguments = ["train", "corrflow", "--data", str(box / "video.mp4"), "--profile", "fast"]
    arguments += ["--device", "cpu", "--precision", "fp32", "--steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    answer = subprocess.run(
        [sys.executable, *torchrun, "-m", "corrlib", *arguments, "--out", str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("training data: 1 videos, 5 frames") == 1
    assert run(*arguments, "--out", tmp_path / "one") == 0
    assert_close(tmp_path / "two", tmp_path / "one")


# -- random draws ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda n, g: torch.rand(n, generator=g),
        lambda n, g: torch.rand(n, 3, generator=g),
        lambda n, g: torch.rand((n, 2), generator=g),
        lambda n, g: torch.randint(1, 3, (n, 1), generator=g),
        lambda n, g: torch.empty(n, 4).uniform_(-1, 1, generator=g),
    ],
)
def test_draws_are_dealt_out_from_those_of_the_whole_batch(monkeypatch, draw):
    whole = draw(6, torch.Generator().manual_seed(5))
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        with data_parallel.DealtDraws():
            assert torch.equal(draw(2, torch.Generator().manual_seed(5)), whole[rank::3])


def test_draws_of_an_unknown_kind_are_refused_and_others_left_alone(monkeypatch, generator):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with data_parallel.DealtDraws():
        assert torch.rand(3).shape == (3,) and torch.zeros(2).sum() == 0
        with pytest.raises(NotImplementedError):
            torch.randn(2, generator=generator)
