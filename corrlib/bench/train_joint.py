"""What the joint-task model's training costs beside its encoder."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from corrlib.bench.timing import check_rounds, seconds
from corrlib.bench.train import synthetic_cache
from corrlib.recipes import JOINT_PROFILES, TrainingConfig
from corrlib.stages import measured
from corrlib.training import Trainer

STAGES = ("data", "encoder", "localisation", "matching", "colours", "regularisers")


def bench_train_joint(
    device: torch.device,
    rounds: int,
    report: Callable[[str], None],
    profile: str = "laptop",
    batch: int | None = None,
    precision: str = "auto",
    config: TrainingConfig | None = None,
) -> dict:
    """Steps that localise and match, and the encoder alone on as many pixels, by turns.

    Args:
        device: where to train.
        rounds: how many steps are timed.
        report: takes lines of text.
        profile: of :data:`corrlib.recipes.JOINT_PROFILES`.
        batch: clips a step; the profile's by default.
        precision: of the encoder, see :mod:`corrlib.device`.
        config: a recipe instead of a profile.

    Returns:
        ``ratios`` (``encoder``: the encoder's time forward and backward / that of everything else
        in a step), ``clips_per_second``, and ``shares`` of the forward pass by stage.
    """
    check_rounds(rounds)
    config = config or JOINT_PROFILES[profile]
    config = replace(
        config,
        model=replace(config.model, warm_up=0.0, concentration_start=0.0),
        batch=batch or config.batch,
        steps=10**9,
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = synthetic_cache(Path(folder), config)
        trainer = Trainer(
            config, cache, Path(folder) / "run", device=str(device), precision=precision
        )
        encode = _encoder_alone(trainer)
        times: dict[str, list[float]] = defaultdict(list)
        shares: dict[str, float] = defaultdict(float)
        for warm in (trainer.step, encode):  # memory, autotuning, the reader's first clips
            warm()
        for _ in range(rounds):
            times["encoder"].append(seconds(encode, device))
            with measured(device) as spent:
                times["step"].append(seconds(trainer.step, device))
            for name in STAGES:
                shares[name] += spent[name]
    step, encoder = (statistics.median(times[name]) for name in ("step", "encoder"))
    total = sum(shares.values())
    figures = {
        "ratios": {"encoder": encoder / (step - encoder)},
        "clips_per_second": config.batch / step,
        "shares": {name: shares[name] / total for name in STAGES},
        "encoder": config.model.encoder,
        "batch": config.batch,
        "precision": str(trainer.precision)[6:],
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }
    report(
        f"the joint-task model, {config.batch} clips, patch {config.model.patch} in "
        f"{config.clips.size}x{config.clips.size}, {figures['precision']} on {device} "
        f"({figures['threads']} threads)"
    )
    report(
        f"  {figures['clips_per_second']:.2f} clips/s; the encoder takes "
        f"{figures['ratios']['encoder']:.2f}x as long as everything else, both ways"
    )
    parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in figures["shares"].items())
    report(f"  forward: {parts}")
    return figures


def _encoder_alone(trainer: Trainer) -> Callable[[], None]:
    """What a step encodes, forward and backward: frames, and patches where they stand alone."""
    model, config = trainer.model, trainer.config
    whole = config.clips.size
    batches = [
        torch.rand(config.batch, 3, side, side, device=trainer.device)
        for side in (whole, whole if model.config.context else model.config.patch)
    ]

    def encode() -> None:
        total = sum(model.features(batch, trainer.precision).mean() for batch in batches)
        total.backward()
        trainer.optimiser.zero_grad(set_to_none=True)

    return encode
