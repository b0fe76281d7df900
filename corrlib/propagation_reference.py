"""Propagation written as the definition says. Slow; the fast path's oracle.

For every frame all its references are encoded again, one dense affinity is made per reference,
cells out of reach are masked, the top k are kept, and the labels are copied. Labels are the same as
on the fast path up to the rounding of scores. Which of several equal scores is kept at the k-th
place is not defined on either path; elsewhere equal scores have equal weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from corrlib.masks import check_mask
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    Propagator,
    encoded_size,
    harden,
    labels_to_mask,
    mask_to_labels,
    stretch,
)

TARGETS_AT_ONCE = 1000
"""All targets of a 480p frame and 21 references would need several times 3 GB at once."""


class ReferencePropagator:
    """As :class:`corrlib.propagation.Propagator`, without ``insert``; keeps all frames."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        config: PropagationConfig | None = None,
        device: torch.device | str = "cpu",
    ):
        self.encoder = Propagator(extractor, config, device)
        self.frames: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []  # as fed back

    def start(self, frame: torch.Tensor, labels: torch.Tensor) -> None:
        self.frames, self.labels = [frame], [labels.to(self.encoder.device)]

    @torch.inference_mode()
    def step(self, frame: torch.Tensor) -> torch.Tensor:
        config = self.encoder.config
        kept = kept_frames(len(self.frames), config)
        references = [self.encoder.encode(self.frames[index]) for index in kept]
        target = self.encoder.encode(frame)
        radii = [radius_on(index, config) for index in kept]
        values = torch.stack([self.labels[index] for index in kept], dim=1).flatten(1)
        copied = []
        for start in range(0, target[0].numel(), TARGETS_AT_ONCE):
            part = slice(start, start + TARGETS_AT_ONCE)
            affinity = top_affinity(references, target, radii, config, part)
            copied.append(values @ affinity.flatten(0, 1))
        labels = back = torch.cat(copied, dim=1).unflatten(1, target.shape[1:])
        if config.normalise_labels:
            labels = stretch(labels)
        if config.feedback == "hard":
            size = encoded_size(tuple(frame.shape[1:]), config)
            back = harden(labels, size, self.encoder.extractor.stride)
        self.frames.append(frame)
        self.labels.append(back)
        return labels


def propagate_mask(
    frames: Iterable[torch.Tensor],
    mask: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """As :func:`corrlib.propagation.propagate_mask`, without later masks."""
    config = config or PropagationConfig()
    check_mask(mask, *mask.shape)
    propagator = ReferencePropagator(extractor, config, device)
    for number, frame in enumerate(frames):
        if number == 0:
            propagator.start(frame, mask_to_labels(mask, extractor.stride, config))
            yield mask
        else:
            labels = propagator.step(frame)
            yield labels_to_mask(labels, tuple(mask.shape), extractor.stride, config)


def kept_frames(number: int, config: PropagationConfig) -> list[int]:
    """The references of frame ``number``: the first, the older ones that are spread over the past,
    and the latest.

    Of the older ones those stay whose number is divisible by the highest power of 2; of equal ones
    the later. They are found here by following the video from its beginning.
    """
    first = [0] if config.first else []
    older: list[int] = []
    for leaving in range(len(first), max(number - config.references, 0)):
        older.append(leaving)
        if len(older) > config.long_term:
            powers = [max(p for p in range(32) if index % 2**p == 0) for index in older]
            del older[powers.index(min(powers))]
    latest = list(range(max(number - config.references, len(first)), number))
    return first + older + latest


def radius_on(index: int, config: PropagationConfig) -> int | None:
    """The radius on a reference."""
    if index == 0 and config.first and config.first_radius != "same":
        return config.first_radius
    return config.radius


def top_affinity(
    references: list[torch.Tensor],
    target: torch.Tensor,
    radii: list[int | None],
    config: PropagationConfig,
    targets: slice = slice(None),
) -> torch.Tensor:
    """How much each cell of each reference gives to each target cell, ``(R, h·w, targets)``.

    Args:
        references: R features ``(C, h, w)``.
        target: features ``(C, h, w)``.
        radii: one per reference.
        config: of a known temperature.
        targets: which cells of the target, in row-major order.
    """
    height, width = target.shape[1:]
    cells = target.flatten(1)[:, targets]
    scores = torch.stack([features.flatten(1).T @ cells for features in references])
    y = torch.arange(height, device=target.device).repeat_interleave(width)
    x = torch.arange(width, device=target.device).repeat(height)
    far_y, far_x = (y[:, None] - y[targets]).abs(), (x[:, None] - x[targets]).abs()
    distance = torch.maximum(far_y, far_x)
    for score, radius in zip(scores, radii, strict=True):
        if radius is not None:
            score.masked_fill_(distance > radius, -torch.inf)
    scores = scores / config.temperature
    if not config.per_reference:  # one list of all cells
        scores = scores.flatten(0, 1)[None]
    affinity = scores
    if config.topk is not None:
        value, index = scores.topk(min(config.topk, scores.shape[1]), dim=1)
        affinity = torch.full_like(scores, -torch.inf).scatter(1, index, value)
    over = affinity if config.rescale else scores
    affinity = (affinity - over.logsumexp(dim=1, keepdim=True)).exp() / len(affinity)
    return affinity.view(len(references), height * width, -1)
