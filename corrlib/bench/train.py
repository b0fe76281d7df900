"""Training against a loop that encodes every pair of frames anew, and where its time goes."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from corrlib.affinity_reference import offsets, shift
from corrlib.bench.clip import moving_ellipses
from corrlib.bench.timing import check_rounds, seconds
from corrlib.corrflow import CorrFlow
from corrlib.frames import FrameCache
from corrlib.geometry import to_float
from corrlib.recipes import PROFILES, TrainingConfig
from corrlib.stages import measured, stage
from corrlib.training import Trainer
from corrlib.video import VideoWriter

STAGES = ("data", "encoder", "affinity", "colours", "backward")
FRAMES = 12


class PairwiseCorrFlow(CorrFlow):
    """The same loss by a loop that shares nothing.

    Whenever two frames are compared both are encoded, and the windows of their affinity are copied
    out with ``F.unfold``.
    """

    def levels(self, frames, precision=torch.float32):
        self.precision = precision
        return [frames]  # encoded where they are compared

    def affinity(self, reference, target):
        (features,) = CorrFlow.levels(self, torch.cat([reference, target]), self.precision)
        reference, target = features.chunk(2)
        radius = self.config.radius
        windows = F.unfold(reference, 2 * radius + 1, padding=radius)
        windows = windows.view(*reference.shape[:2], -1, *reference.shape[2:])
        scores = (windows * target.unsqueeze(2)).sum(dim=1) / self.config.temperature
        inside = torch.ones_like(target[:1, :1])
        outside = torch.cat([shift(inside, dy, dx) for dy, dx in offsets(radius)], dim=1) == 0
        return scores.masked_fill(outside, -torch.inf).softmax(dim=1)

    def _affinities(self, features, walks):
        outward, homeward = [], []
        for t in range(len(walks[0]) - 1):
            ahead = [(features[:, order[t]], features[:, order[t + 1]]) for order in walks]
            outward.append(torch.cat([self.affinity(*pair) for pair in ahead]))
            if self.config.cycle_weight:
                homeward.append(torch.cat([self.affinity(*pair[::-1]) for pair in ahead]))
        return outward, homeward


def bench_train(
    device: torch.device,
    rounds: int,
    report: Callable[[str], None],
    profile: str = "laptop",
    batch: int | None = None,
    precision: str = "auto",
    config: TrainingConfig | None = None,
) -> dict:
    """Steps of training on a synthetic video, ours and the pairwise loop's by turns.

    Args:
        device: where to train.
        rounds: how many steps of each are timed.
        report: takes lines of text.
        profile: of :data:`corrlib.recipes.PROFILES`.
        batch: clips a step; the profile's by default. The pairwise loop takes one clip a step, so
            that its windows fit into memory; its time is counted per clip.
        precision: of the encoder, see :mod:`corrlib.device`.
        config: a recipe instead of a profile.

    Returns:
        ``ratios`` (``reference``: the pairwise loop's time per clip / ours, at one clip a step
        both), ``clips_per_second`` of training at ``batch``, ``shares`` of data, encoder,
        affinity, colours (the rest of the loss) and backward (with the optimiser) in a step, and
        ``gemm_share``: the multiplications of a step by the time it took, over the speed of the
        device's own large matrix product in the same precision.
    """
    check_rounds(rounds)
    config = config or PROFILES[profile]
    config = replace(config, batch=batch or config.batch, steps=10**9)
    with tempfile.TemporaryDirectory() as folder:
        cache = synthetic_cache(Path(folder), config)

        def trainer(name: str, clips: int) -> Trainer:
            return Trainer(
                replace(config, batch=clips),
                cache,
                Path(folder) / name,
                device=str(device),
                precision=precision,
            )

        ours = trainer("ours", config.batch)
        report(
            f"training {config.model.encoder}, {config.batch} clips of {config.clips.length} frames"
            f" {config.clips.size}x{config.clips.size}, {str(ours.precision)[6:]} on {device} "
            f"({torch.get_num_threads()} threads)"
        )
        single, pairwise = trainer("single", 1), trainer("pairwise", 1)
        _make_pairwise(pairwise)
        _check_equal(single, pairwise)
        flops = _flops(ours)
        size = 8192 if device.type == "cuda" else 1024
        matrix = torch.randn(size, size, device=device, dtype=ours.precision)
        times: dict[str, list[float]] = defaultdict(list)
        shares: dict[str, float] = defaultdict(float)
        for warm in (ours, single, pairwise):  # memory, autotuning, the reader's first clips
            warm.step()
        for _ in range(rounds):
            for name, step in (
                ("ours", ours.step),
                ("single", single.step),
                ("pairwise", pairwise.step),
                ("gemm", lambda: matrix @ matrix),
            ):
                times[name].append(seconds(step, device))
            for name, spent in _stages(ours, device).items():
                shares[name] += spent
    median = {name: statistics.median(values) for name, values in times.items()}
    total = sum(shares.values())
    peak = 2 * size**3 / median["gemm"]
    figures = {
        "ratios": {"reference": median["pairwise"] / median["single"]},
        "clips_per_second": config.batch / median["ours"],
        "shares": {name: shares[name] / total for name in STAGES},
        "gemm_share": flops / median["ours"] / peak,
        "gemm_gflops": peak / 1e9,
        "gflops_per_clip": flops / config.batch / 1e9,
        "encoder": config.model.encoder,
        "batch": config.batch,
        "precision": str(ours.precision)[6:],
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }
    report(
        f"  {figures['ratios']['reference']:6.1f}x faster than encoding every pair anew with "
        "F.unfold"
    )
    parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in figures["shares"].items())
    report(f"  {figures['clips_per_second']:.2f} clips/s: {parts}")
    report(
        f"  {100 * figures['gemm_share']:.0f} % of the speed of a large matrix product "
        f"({figures['gemm_gflops']:.0f} GFLOP/s)"
    )
    return figures


def synthetic_cache(folder: Path, config: TrainingConfig) -> FrameCache:
    """A made-up clip of the size that a recipe trains on, decoded."""
    size = config.clips.size
    pictures, _ = moving_ellipses(FRAMES, size, size * 5 // 4, objects=2)
    with VideoWriter(folder / "clip.mp4", 6) as writer:
        for frame in pictures:
            writer.write(frame)
    return FrameCache.build([folder / "clip.mp4"], folder / "frames", size, progress=False)


def _make_pairwise(trainer: Trainer) -> None:
    """Swap the class: the parameters stay where the optimiser knows them."""
    trainer.model.__class__ = PairwiseCorrFlow


def _check_equal(ours: Trainer, pairwise: Trainer) -> None:
    """Both compute one loss. In eval mode: batch norm's statistics depend on what is encoded."""
    size = 16 * ours.model.stride
    clips = to_float(ours.sampler(1, torch.Generator().manual_seed(0)))[..., :size, :size]
    losses = []
    for trainer in (ours, pairwise):
        trainer.model.eval()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            losses.append(trainer.model.loss(clips.to(trainer.device), generator).total)
        trainer.model.train()
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def _flops(trainer: Trainer) -> float:
    """Multiplications and additions of a step's products and convolutions, there and back."""
    clips = to_float(trainer.sampler(1, torch.Generator().manual_seed(0))).to(trainer.device)
    with FlopCounterMode(display=False) as counter:
        trainer.model.loss(clips, torch.Generator().manual_seed(0)).total.backward()
    trainer.optimiser.zero_grad(set_to_none=True)
    return trainer.config.batch * counter.get_total_flops()


def _stages(trainer: Trainer, device: torch.device) -> dict[str, float]:
    """Seconds of each stage of a step; it waits for the device between them."""
    model = trainer.model
    for name, method in (("encoder", "levels"), ("affinity", "affinity")):
        setattr(model, method, _named(name, getattr(model, method)))
    try:
        with measured(device) as spent:
            whole = seconds(trainer.step, device)
    finally:
        del model.levels, model.affinity
    spent["colours"] = whole - sum(spent.values())
    return {name: spent[name] for name in STAGES}


def _named(name: str, method: Callable) -> Callable:
    @wraps(method)
    def call(*arguments):
        with stage(name):
            return method(*arguments)

    return call
