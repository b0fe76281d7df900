"""Evaluate on DAVIS: propagate every sequence's first mask, and score what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from corrlib.datasets import Sequence
from corrlib.errors import InputError
from corrlib.files import atomic_folder
from corrlib.masks import write_mask
from corrlib.metrics import SequenceScore, score_files, score_sequence, summarise

Method = Callable[[Iterable[torch.Tensor], torch.Tensor], Iterator[torch.Tensor]]
"""Frames and the first mask to one mask per frame."""


def evaluate(
    sequences: Iterable[Sequence],
    method: Method,
    masks_out: str | Path | None = None,
    resume: bool = False,
    on_sequence: Callable[[str, dict], None] | None = None,
) -> dict:
    """Propagate and score each sequence.

    Args:
        sequences: from :func:`corrlib.datasets.davis`.
        method: what carries the mask.
        masks_out: write indexed PNGs to ``masks_out/<sequence>/00000.png`` and so on; a
            sequence's folder appears when it is complete.
        resume: score sequences whose folder is there from its files instead of propagating again.
        on_sequence: called with the name and figure of each sequence as it is done.

    Returns:
        The figure of :func:`corrlib.metrics.summarise`; every sequence also has
        ``seconds_per_frame``, ``None`` where it was read from files.
    """
    if resume and masks_out is None:
        raise InputError("to resume an evaluation, say where its masks are with --masks-out")
    scores: dict[str, SequenceScore] = {}
    seconds: dict[str, float | None] = {}
    for sequence in sequences:
        folder = Path(masks_out) / sequence.name if masks_out is not None else None
        if folder is not None and folder.exists():
            if not resume:
                raise InputError(
                    f"{folder} exists already; continue with --resume or choose another folder"
                )
            score = score_files(
                sequence.name,
                list(sequence.masks.values()),
                folder,
                merge_objects=sequence.binary,
            )
            seconds[sequence.name] = None
        else:
            score, seconds[sequence.name] = _evaluate_one(sequence, method, folder)
        scores[sequence.name] = score
        if on_sequence:
            figure = summarise({sequence.name: score})
            on_sequence(sequence.name, figure | {"seconds_per_frame": seconds[sequence.name]})
    figure = summarise(scores)
    for name, value in seconds.items():
        figure["sequences"][name]["seconds_per_frame"] = value
    return figure


def _evaluate_one(
    sequence: Sequence, method: Method, folder: Path | None
) -> tuple[SequenceScore, float]:
    """Score one sequence frame by frame; the time is that of decoding and of the method."""
    names = [path.stem for path in sequence.masks.values()]
    spent, count = 0.0, 0

    def predictions(out: Path | None) -> Iterator[torch.Tensor]:
        nonlocal spent, count
        masks = method(sequence.frames, sequence.read_mask(0))
        while True:
            started = time.perf_counter()
            mask = next(masks, None)
            spent += time.perf_counter() - started
            if mask is None:
                return
            if out is not None:
                write_mask(out / f"{names[count]}.png", mask)
            count += 1
            yield mask

    truths = (sequence.read_mask(index) for index in sequence.masks)
    if folder is None:
        score = score_sequence(predictions(None), truths, sequence.objects)
    else:
        with atomic_folder(folder) as out:
            score = score_sequence(predictions(out), truths, sequence.objects)
    return score, spent / max(count, 1)
