"""Adaptation: go on learning, without labels, from the very video that is to be tracked.

CorrFlow learns from frames alone, so nothing forbids to learn from those it will be used on
("Additional" training in the course's lecture). The mask is never looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from corrlib.errors import InputError
from corrlib.frames import FrameCache
from corrlib.recipes import RECIPES, TrainingConfig
from corrlib.training import Record, Trainer
from corrlib.weights import Method, MethodConfig, method_name

LEARNING_RATE = 1e-4
"""At the start; it falls to zero over the minutes. A third of what the recipes begin with."""


def adaptation_recipe(model: MethodConfig, seed: int = 0) -> TrainingConfig:
    """How weights of a model are adapted: as the laptop recipe trains, with a lower rate."""
    recipe = RECIPES[method_name(model)]["laptop"]
    return replace(recipe, model=model, learning_rate=LEARNING_RATE, seed=seed)


def adapt(
    model: Method,
    videos: str | Path | Sequence[str | Path],
    minutes: float,
    folder: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    config: TrainingConfig | None = None,
    progress: bool = True,
    on_record: Callable[[Record], None] | None = None,
) -> Method:
    """Continue a model's training on the frames of ``videos``.

    Ctrl-C ends it early, and what was learnt until then counts.

    Args:
        model: trained weights; it is left as it was.
        videos: one or more files or frame folders.
        minutes: of training, beside the decoding.
        folder: where the run is kept, a new one; by default nothing is.
        device, precision: see :mod:`corrlib.device`.
        config: another recipe than :func:`adaptation_recipe`'s.
        progress: show progress bars.
        on_record: called with every line of the log.

    Returns:
        The adapted model in eval mode, on the device it was trained on.

    Raises:
        InputError: a video that cannot be read or is shorter than a clip.
    """
    paths = [videos] if isinstance(videos, str | Path) else list(videos)
    config = config or adaptation_recipe(model.config)
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        cache = FrameCache.build(
            paths,
            Path(place) / "frames",
            config.clips.size,
            config.clips.fps,
            progress=progress,
            min_frames=config.clips.length,
        )
        if cache.skipped:
            raise InputError(cache.skipped[0][1])
        trainer = Trainer(
            config,
            cache,
            place,
            minutes=minutes,
            device=device,
            precision=precision,
            start=model,
        )
        trainer.run(on_record, progress)
    return trainer.model.eval()
