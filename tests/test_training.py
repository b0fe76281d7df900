"""Training: determinism, interruption, resume, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from corrlib.clip_sampler import ClipConfig, ClipSampler
from corrlib.corrflow import CorrFlow, CorrFlowConfig
from corrlib.errors import InputError
from corrlib.frames import FrameCache
from corrlib.recipes import PROFILES
from corrlib.synthetic import synthetic_clip
from corrlib.training import Trainer
from corrlib.video import VideoWriter
from corrlib.weights import load_weights, save_weights

FAST = PROFILES["fast"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> FrameCache:
    folder = tmp_path_factory.mktemp("training")
    for seed in range(2):
        clip = synthetic_clip(frames=6 + seed, height=72, width=96, seed=seed)
        with VideoWriter(folder / f"clip{seed}.mp4", 12) as writer:
            for frame in clip.frames:
                writer.write(frame)
    paths = sorted(folder.glob("*.mp4"))
    return FrameCache.build(paths, folder / "cache", short_side=64, progress=False)


def trainer(cache, folder, **options) -> Trainer:
    options = {"device": "cpu", "precision": "fp32"} | options
    return Trainer(options.pop("config", FAST), cache, folder, **options)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def assert_same(left: Trainer, right: Trainer) -> None:
    expected = weights(right)
    for name, value in weights(left).items():
        assert torch.equal(value, expected[name]), name
    assert [tuple(r)[2:] for r in left.progress.history] == [
        tuple(r)[2:] for r in right.progress.history
    ]


def test_the_same_seed_trains_the_same_model_and_another_seed_another(cache, tmp_path):
    runs = [trainer(cache, tmp_path / name) for name in "ab"]
    other = trainer(cache, tmp_path / "c", config=replace(FAST, seed=1))
    for run in [*runs, other]:
        assert run.run(progress=False)
    assert_same(*runs)
    assert not torch.equal(runs[0].model.encoder.conv1.weight, other.model.encoder.conv1.weight)


def test_the_global_random_state_does_not_matter(cache, tmp_path):
    first = trainer(cache, tmp_path / "a")
    torch.manual_seed(123)
    second = trainer(cache, tmp_path / "b")
    first.run(progress=False)
    torch.rand(7)
    second.run(progress=False)
    assert_same(first, second)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_interrupted_and_resumed_equals_uninterrupted(cache, tmp_path, optimiser):
    config = replace(FAST, optimiser=optimiser)
    whole = trainer(cache, tmp_path / "whole", config=config)
    assert whole.run(progress=False)
    for stop in (1, 3):
        resume = stop > 1
        part = trainer(cache, tmp_path / "parts", config=config, resume=resume)
        assert not part.run(progress=False, stop_after=stop)
        assert not part.weights.exists()
    last = trainer(cache, tmp_path / "parts", config=config, resume=True)
    assert last.progress.step == 3
    assert last.run(progress=False)
    assert_same(last, whole)


def test_a_signal_stops_after_the_step_with_a_checkpoint(cache, tmp_path):
    run = trainer(cache, tmp_path / "run", config=replace(FAST, steps=1000))
    step = run.step

    def interrupted_step():
        if run.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step()

    before = signal.getsignal(signal.SIGTERM)
    run.step = interrupted_step
    assert not run.run(progress=False)
    assert run.progress.step == 3
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = trainer(cache, tmp_path / "run", config=replace(FAST, steps=1000), resume=True)
    assert resumed.progress.step == 3


def test_killed_outright_it_resumes_from_the_last_checkpoint(cache, tmp_path):
    """kill -9 in the middle of a step; the resumed run ends where an uninterrupted one does."""
    code = f"""
import os, signal
from corrlib.frames import FrameCache
from corrlib.recipes import PROFILES
from corrlib.training import Trainer
cache = FrameCache.build({[str(p) for p in cache.paths]!r}, {str(cache.files[0].parent)!r}, 64,
                         progress=False)
run = Trainer(PROFILES["fast"], cache, {str(tmp_path / "run")!r}, device="cpu", precision="fp32",
              checkpoint_seconds=0)
step = run.step
def killed():
    losses = step()
    if run.progress.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses
run.step = killed
run.run(progress=False)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run([sys.executable, "-c", code], env=environment, timeout=120)
    assert child.returncode == -signal.SIGKILL
    resumed = trainer(cache, tmp_path / "run", resume=True)
    assert resumed.progress.step == 2
    whole = trainer(cache, tmp_path / "whole")
    assert resumed.run(progress=False) and whole.run(progress=False)
    assert_same(resumed, whole)


def test_minutes_bound_the_run_and_lower_the_learning_rate(cache, tmp_path):
    run = trainer(cache, tmp_path / "run", config=replace(FAST, steps=10**6), minutes=0.02)
    assert run.run(progress=False)
    assert run.progress.seconds >= 1.2
    assert run.progress.history[-1].learning_rate < FAST.learning_rate


def test_training_lowers_the_loss(cache, tmp_path):
    plain = replace(FAST.model, dropout=0.0, jitter=0.0)
    config = replace(FAST, steps=60, batch=4, learning_rate=1e-3, model=plain)
    run = trainer(cache, tmp_path / "run", config=config)
    run.run(progress=False)
    totals = [record.losses["total"] for record in run.progress.history]
    assert totals[-1] < 0.95 * totals[0]


def test_a_run_says_what_it_was(cache, tmp_path):
    run = trainer(cache, tmp_path / "run")
    records = []
    run.run(progress=False, on_record=records.append)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["videos"] == 2 and about["frames"] == 13
    assert about["training"]["seed"] == 0 and about["versions"]["torch"] == torch.__version__
    assert (tmp_path / "run" / "log.csv").read_text().startswith("step,seconds,learning_rate,total")
    assert records == run.progress.history and records[-1].step == FAST.steps
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"run.json", "log.csv", "checkpoint.pt", "weights.safetensors"}


def test_a_folder_with_a_run_is_not_overwritten(cache, tmp_path):
    trainer(cache, tmp_path / "run").run(progress=False)
    with pytest.raises(InputError, match="--resume"):
        trainer(cache, tmp_path / "run")


def test_resuming_with_other_settings_names_them(cache, tmp_path):
    trainer(cache, tmp_path / "run").run(progress=False, stop_after=1)
    with pytest.raises(InputError, match="learning_rate"):
        trainer(cache, tmp_path / "run", config=replace(FAST, learning_rate=1.0), resume=True)
    model = replace(FAST.model, temperature=0.5)
    with pytest.raises(InputError, match="temperature"):
        trainer(cache, tmp_path / "run", config=replace(FAST, model=model), resume=True)


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_a_truncated_checkpoint_is_an_error_and_left_alone(cache, tmp_path, keep):
    trainer(cache, tmp_path / "run").run(progress=False, stop_after=1)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(InputError, match="checkpoint"):
        trainer(cache, tmp_path / "run", resume=True)
    assert checkpoint.stat().st_size == keep


def test_a_checkpoint_that_would_run_code_is_refused(cache, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    (tmp_path / "run").mkdir()
    torch.save({"config": Hostile()}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(InputError, match="checkpoint"):
        trainer(cache, tmp_path / "run", resume=True)
    assert not (tmp_path / "pwned").exists()


def test_bad_settings_and_missing_checkpoints_are_errors(cache, tmp_path):
    with pytest.raises(InputError, match="found none"):
        trainer(cache, tmp_path / "nothing", resume=True)
    with pytest.raises(InputError, match="minutes"):
        trainer(cache, tmp_path / "run", minutes=0)
    with pytest.raises(InputError, match="step"):
        trainer(cache, tmp_path / "run", config=replace(FAST, steps=0))
    with pytest.raises(InputError, match="optimiser"):
        trainer(cache, tmp_path / "run", config=replace(FAST, optimiser="sgd"))


def test_a_loss_that_explodes_is_reported(cache, tmp_path):
    run = trainer(cache, tmp_path / "run")
    with torch.no_grad():
        run.model.encoder.conv1.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="learning rate"):
        run.run(progress=False)


# -- clips -----------------------------------------------------------------------------------------


def test_clips_have_the_gap_and_size_asked_for(cache, generator):
    sampler = ClipSampler(cache, ClipConfig(length=3, gap=(2, 2), size=32, crop=0.5, flip=0.5))
    clips = sampler(5, generator)
    assert clips.shape == (5, 3, 3, 32, 32) and clips.dtype == torch.uint8


def test_uncropped_clips_are_frames_of_the_video(cache, generator):
    sampler = ClipSampler(cache, ClipConfig(length=2, gap=(3, 3), size=64))
    clip = sampler(1, generator)[0]
    found = False
    for video in cache.videos:
        video = torch.from_numpy(video.copy())
        for start in range(len(video) - 3):
            for left in range(video.shape[3] - 63):
                window = video[[start, start + 3], :, :, left : left + 64]
                found = found or torch.equal(window, clip)
    assert found


def test_a_short_video_uses_the_largest_gap_that_fits(cache, generator):
    sampler = ClipSampler(cache, ClipConfig(length=3, gap=(50, 50), size=32))
    assert sampler(2, generator).shape[1] == 3
    with pytest.raises(InputError, match="longest has 7"):
        ClipSampler(cache, ClipConfig(length=8))


def test_the_same_generator_draws_the_same_clips(cache):
    sampler = ClipSampler(cache, PROFILES["laptop"].clips)
    draw = [sampler(3, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draw)
    assert not torch.equal(draw[0], sampler(3, torch.Generator().manual_seed(5)))


# -- weights ---------------------------------------------------------------------------------------


def test_weights_round_trip(tmp_path, generator):
    model = CorrFlow(CorrFlowConfig(encoder="resnet18-stride8"), generator).eval()
    model.quantiser.centroids.copy_(torch.randn(16, 2, generator=generator) * 30)
    save_weights(model, tmp_path / "w.safetensors", note="test")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.config == model.config and not loaded.training
    frames = torch.rand(1, 3, 64, 48, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.features(frames), model.features(frames), rtol=2e-2, atol=2e-2
        )
    assert torch.allclose(loaded.quantiser.centroids, model.quantiser.centroids, atol=0.1)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 64])
def test_broken_weights_are_errors(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="safetensors"):
        load_weights(path)


def test_truncated_foreign_and_missing_weights_are_errors(tmp_path, generator):
    from safetensors.torch import save_file

    model = CorrFlow(CorrFlowConfig(encoder="resnet18-stride8"), generator)
    path = tmp_path / "w.safetensors"
    save_weights(model, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="complete"):
        load_weights(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="weights of corrflow"):
        load_weights(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"method": "corrflow", "config": "{}"})
    with pytest.raises(InputError, match="do not fit"):
        load_weights(path)
    with pytest.raises(InputError, match="nowhere"):
        load_weights("nowhere")
