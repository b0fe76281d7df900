"""Propagation written as the definition says. Slow; the fast path's oracle.

For every frame all its references are encoded again, one dense ``n x n`` affinity is made per
reference, cells out of reach are masked, the top k are kept, and the labels are copied. Labels are
the same as on the fast path up to the rounding of scores. Which of several equal scores is kept at
the k-th place is not defined on either path; elsewhere equal scores have equal weights.
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


@torch.inference_mode()
def propagate_labels(
    frames: Iterable[torch.Tensor],
    labels: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """As :func:`corrlib.propagation.propagate_labels`, with all frames held in memory."""
    encoder = Propagator(extractor, config, device)
    config = encoder.config
    seen: list[torch.Tensor] = []
    fed_back = [labels.to(encoder.device)]
    for number, frame in enumerate(frames):
        seen.append(frame)
        if number == 0:
            yield fed_back[0]
            continue
        kept = kept_frames(number, config)
        references = [encoder.encode(seen[index]) for index in kept]
        radii = [radius_on(index, config) for index in kept]
        affinity = top_affinity(references, encoder.encode(frame), radii, config)
        values = torch.stack([fed_back[index] for index in kept], dim=1)  # (L, R, h, w)
        found = (values.flatten(1) @ affinity.flatten(0, 1)).view_as(fed_back[0])
        back = found
        if config.normalise_labels:
            found = stretch(found)
        if config.feedback == "hard":
            size = encoded_size(tuple(frame.shape[1:]), config)
            back = harden(found, size, extractor.stride)
        fed_back.append(back)
        yield found


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
    labels = mask_to_labels(mask, extractor.stride, config)
    found = propagate_labels(frames, labels, extractor, config, device)
    for number, maps in enumerate(found):
        if number == 0:
            yield mask
        else:
            yield labels_to_mask(maps, tuple(mask.shape), extractor.stride, config)


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
) -> torch.Tensor:
    """How much each cell of each reference gives to each target cell, ``(R, h·w, h·w)``.

    Args:
        references: R features ``(C, h, w)``.
        target: features ``(C, h, w)``.
        radii: one per reference.
        config: of a known temperature.
    """
    height, width = target.shape[1:]
    scores = torch.stack([f.flatten(1).T @ target.flatten(1) for f in references])
    y = torch.arange(height, device=target.device).repeat_interleave(width)
    x = torch.arange(width, device=target.device).repeat(height)
    distance = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
    for score, radius in zip(scores, radii, strict=True):
        if radius is not None:
            score.masked_fill_(distance > radius, -torch.inf)
    scores = scores / config.temperature
    if not config.per_reference:  # one list of all cells
        scores = scores.flatten(0, 1)[None]
    affinity = scores
    if config.topk is not None:
        k = min(config.topk, scores.shape[1])
        value, index = scores.topk(k, dim=1)
        affinity = torch.full_like(scores, -torch.inf).scatter(1, index, value)
    over = affinity if config.rescale else scores
    affinity = (affinity - over.logsumexp(dim=1, keepdim=True)).exp() / len(affinity)
    return affinity.view(len(references), height * width, height * width)
