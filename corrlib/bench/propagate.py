"""Propagation against the same written as the definition says, and where its time goes."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from corrlib.baselines import random_features
from corrlib.bench.clip import moving_ellipses
from corrlib.bench.timing import check_rounds, seconds
from corrlib.masks import write_mask
from corrlib.metrics import score_sequence, summarise
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    labels_to_mask,
    mask_to_labels,
    memory_estimate,
    propagate_mask,
)
from corrlib.propagation_reference import ReferencePropagator
from corrlib.stages import measured, stage
from corrlib.tracked import propagate_tracked
from corrlib.video import VideoWriter, open_video

HEIGHT, WIDTH, OBJECTS, REFERENCES = 480, 854, 2, 20
SMALL = 0.35
"""The size of the object that is tracked, relative to the others."""
STAGES = ("decode", "encode", "tiles", "gemm", "topk", "copy", "upsample", "write")

MakeExtractor = Callable[[torch.dtype], FeatureExtractor]


def bench_propagate(
    device: torch.device,
    rounds: int,
    report: Callable[[str], None],
    features: MakeExtractor | None = None,
) -> dict:
    """A frame of 480p video with the first and 20 latest references, radius 12, top 10.

    Ours and the reference take turns on the same frames, starting from the same labels. bf16 is
    that of encoder and similarities.

    Args:
        device: where features and similarities are computed.
        rounds: how many frames are timed.
        report: takes lines of text.
        features: makes the extractor that computes in a precision; by default an untrained
            ResNet-18 of stride 8.

    Returns:
        ``ratios`` (the reference's time / ours), ``seconds_per_frame`` with ``shares`` of each
        stage, ``agreement`` (share of pixels on which ours and the reference have the same id),
        ``memory_bytes`` (the estimate), and the same for ``bf16``, there with ``J&F`` of both
        precisions against the true masks. ``tracking`` is what a small object gains by it: its
        ``ratio`` (time of whole frames / with tracking), ``seconds_per_frame`` and ``J&F`` of both.
    """
    check_rounds(rounds)
    report(
        f"propagation {WIDTH}x{HEIGHT}, {OBJECTS} objects, first + {REFERENCES} references, "
        f"radius 12, top 10, on {device} ({torch.get_num_threads()} threads)"
    )
    features = features or partial(random_features, 0, device)
    pictures, masks = moving_ellipses(REFERENCES + 1 + rounds, HEIGHT, WIDTH, OBJECTS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, 24) as writer:
            for frame in pictures:
                writer.write(frame)
        runs = {
            name: _Run(features(dtype), PropagationConfig(REFERENCES, precision=name), device)
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        }
        slow = ReferencePropagator(runs["fp32"].extractor, runs["fp32"].config, device)
        frames = iter(open_video(path))
        for index in range(REFERENCES + 1):
            frame = next(frames)
            for run in runs.values():
                run.prepare(frame, masks[index])
            slow.frames.append(frame)
            slow.labels.append(runs["fp32"].labels_of(masks[index]).to(device))
        references, agreement = [], defaultdict(list)
        for _ in range(rounds):
            with measured() as decoding, stage("decode"):
                frame = next(frames)
            for run in runs.values():
                run.step(frame, Path(folder) / "mask.png")
                run.stages["decode"] += decoding["decode"]
            found = []
            references.append(
                seconds(lambda: found.append(runs["fp32"].read(slow.step(frame))), device)  # noqa: B023
            )
            for name, run in runs.items():
                agreement[name].append((run.masks[-1] == found[0]).float().mean().item())
    reference = statistics.median(references)
    truths = masks[REFERENCES:]
    figures = {}
    for name, run in runs.items():
        figures[name] = {
            "ratios": {"reference": reference / statistics.median(run.matching)},
            "seconds_per_frame": statistics.median(run.whole),
            "shares": run.shares(),
            "agreement": statistics.fmean(agreement[name]),
            "J&F": run.score(truths),
            "memory_bytes": memory_estimate((HEIGHT, WIDTH), OBJECTS, run.extractor, run.config),
        }
        report(f"{name}:")
        report(
            f"  {figures[name]['ratios']['reference']:6.1f}x faster than the reference, "
            f"{100 * figures[name]['agreement']:.2f} % of pixels the same"
        )
        shares = ", ".join(
            f"{stage} {100 * share:.0f} %" for stage, share in figures[name]["shares"].items()
        )
        report(
            f"  {figures[name]['seconds_per_frame']:.2f} s per frame, J&F "
            f"{100 * figures[name]['J&F']:.1f}: {shares}"
        )
    return figures["fp32"] | {
        "bf16": figures["bf16"],
        "tracking": _tracking(runs["fp32"].extractor, rounds, device, report),
        "reference_seconds_per_frame": reference,
        "device": str(device),
        "rounds": rounds,
    }


def _tracking(
    extractor: FeatureExtractor, rounds: int, device: torch.device, report: Callable[[str], None]
) -> dict:
    """A small object with tracking and in whole frames, in turns, with 4 references besides the
    first."""
    pictures, masks = moving_ellipses(rounds + 2, HEIGHT, WIDTH, 1, scale=SMALL)
    ways = {"whole frame": propagate_mask, "tracking": propagate_tracked}
    running = {
        name: way(pictures, masks[0], extractor, PropagationConfig(), device)
        for name, way in ways.items()
    }
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in pictures:
        for name, results in running.items():
            spent[name].append(seconds(lambda: found[name].append(next(results)), device))  # noqa: B023
    # The first mask is as given, and with the second the first frame is read as well.
    pace = {name: statistics.median(times[2:]) for name, times in spent.items()}
    scores = {
        name: summarise({"clip": score_sequence(given, masks, 1, score_last=True)})["J&F"]
        for name, given in found.items()
    }
    ratio = pace["whole frame"] / pace["tracking"]
    report(
        f"tracking: an object of {math.isqrt(int(masks[0].count_nonzero()))}^2 pixels "
        f"{ratio:.1f}x faster than in whole frames, J&F {100 * scores['tracking']:.1f} rather than "
        f"{100 * scores['whole frame']:.1f}"
    )
    return {"ratio": ratio, "seconds_per_frame": pace, "J&F": scores}


@dataclass
class _Run:
    """Our path in one precision."""

    extractor: FeatureExtractor
    config: PropagationConfig
    device: torch.device

    def __post_init__(self):
        self.propagator = Propagator(self.extractor, self.config, self.device)
        self.masks: list[torch.Tensor] = []
        self.matching: list[float] = []  # frame to mask
        self.whole: list[float] = []  # file to file, but for decoding
        self.stages: dict[str, float] = defaultdict(float)

    def labels_of(self, mask: torch.Tensor) -> torch.Tensor:
        return mask_to_labels(mask, self.extractor.stride, self.config, OBJECTS + 1)

    def read(self, labels: torch.Tensor) -> torch.Tensor:
        return labels_to_mask(labels, (HEIGHT, WIDTH), self.extractor.stride, self.config)

    @torch.inference_mode()
    def prepare(self, frame: torch.Tensor, mask: torch.Tensor) -> None:
        """Remember a frame with its true labels."""
        labels = self.labels_of(mask)
        if not self.masks:
            self.propagator.start(frame, labels)
        else:
            self.propagator.memory.add(self.propagator.encode(frame), labels.to(self.device))
        self.masks[:] = [mask]

    def step(self, frame: torch.Tensor, path: Path) -> None:
        def carry() -> None:
            self.masks.append(self.read(self.propagator.step(frame)))

        def write() -> None:
            with stage("write"):
                write_mask(path, self.masks[-1])

        with measured(self.device) as spent:
            self.matching.append(seconds(carry, self.device))
            self.whole.append(self.matching[-1] + seconds(write, self.device))
        for name, value in spent.items():
            self.stages[name] += value

    def shares(self) -> dict[str, float]:
        """The part of each stage in the time of all of them."""
        total = sum(self.stages.values())
        return {name: self.stages[name] / total for name in STAGES}

    def score(self, truths: torch.Tensor) -> float:
        score = score_sequence(self.masks, truths, OBJECTS, score_last=True)
        return summarise({"clip": score})["J&F"]
