"""Evaluate on DAVIS: propagate every sequence's first mask, and score what comes out.

Under ``torchrun`` the sequences, and the clips of the other data sets, are shared out among the
processes, with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from corrlib import sharding
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
) -> dict | None:
    """Propagate and score each sequence.

    Args:
        sequences: from :func:`corrlib.datasets.davis`.
        method: what carries the mask.
        masks_out: write indexed PNGs to ``masks_out/<sequence>/00000.png`` and so on; a
            sequence's folder appears when it is complete.
        resume: score sequences whose folder is there from its files instead of propagating again.
        on_sequence: called with the name and figure of each sequence as
            :func:`corrlib.sharding.shared` yields it.

    Returns:
        The figure of :func:`corrlib.metrics.summarise`; every sequence also has
        ``seconds_per_frame``, ``None`` where it was read from files. ``None`` on ranks above 0.
    """
    if resume and masks_out is None:
        raise InputError("to resume an evaluation, say where its masks are with --masks-out")

    def length(sequence: Sequence) -> int:
        return sequence.frames.info.frames or len(sequence.masks)

    def work(sequence: Sequence) -> _Result:
        folder = Path(masks_out) / sequence.name if masks_out is not None else None
        return _score(sequence, method, folder, resume)

    scores: dict[str, SequenceScore] = {}
    pace: dict[str, float | None] = {}
    for sequence, (score, seconds) in sharding.shared(sequences, length, work):
        name = sequence.name
        scores[name], pace[name] = score, seconds
        if on_sequence:
            on_sequence(name, summarise({name: score}) | {"seconds_per_frame": seconds})
    if sharding.rank() > 0:
        return None
    figure = summarise(scores)
    for name, seconds in pace.items():
        figure["sequences"][name]["seconds_per_frame"] = seconds
    return figure


_Result = tuple[SequenceScore, float | None]  # and seconds per frame


def _score(sequence: Sequence, method: Method, folder: Path | None, resume: bool) -> _Result:
    if folder is None or not folder.exists():
        return _evaluate_one(sequence, method, folder)
    if not resume:
        raise InputError(
            f"{folder} exists already; continue with --resume or choose another folder"
        )
    truths = list(sequence.masks.values())
    score = score_files(sequence.name, truths, folder, merge_objects=sequence.binary)
    return score, None


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
