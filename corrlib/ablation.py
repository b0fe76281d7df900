"""The ablation: train again with one part changed, over several seeds, and score all alike.

A row is a recipe that differs from the full one in one thing. What is run is recorded one file per
row and seed, so that a run that was stopped goes on, and a lesson can read what it did not run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from corrlib import corrflow, joint
from corrlib.baselines import trained
from corrlib.datasets import Sequence as Annotated
from corrlib.device import choose_device, choose_precision
from corrlib.errors import InputError
from corrlib.evaluation import evaluate
from corrlib.files import atomic_path
from corrlib.frames import FrameCache
from corrlib.propagation import PropagationConfig, propagate_mask
from corrlib.recipes import TrainingConfig
from corrlib.training import Trainer
from corrlib.weights import load_weights, method_name, save_weights

Change = Callable[[TrainingConfig], TrainingConfig]


def _model(change: Callable) -> Change:
    return lambda recipe: replace(recipe, model=change(recipe.model))


_ALWAYS: dict[str, Change] = {
    "untrained": lambda recipe: replace(recipe, steps=0),
    "full": lambda recipe: recipe,
}

ROWS: dict[str, dict[str, Change]] = {
    "corrflow": {
        **_ALWAYS,
        **{f"without-{name}": _model(change) for name, change in corrflow.WITHOUT.items()},
        **{f"with-{name}": _model(change) for name, change in corrflow.WITH.items()},
    },
    "joint": {
        **_ALWAYS,
        **{f"without-{name}": _model(change) for name, change in joint.WITHOUT.items()},
    },
}
"""Of each method: the network as it starts; the whole method; the published ablation (Lai & Xie
2019, table 2; Li et al. 2019, figure 6, and the lecture's comparison of colours); and the open
questions of the course's lecture."""

_NAMES = list(dict.fromkeys(row for rows in ROWS.values() for row in rows))


@dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
        row: a name in :data:`ROWS` of its method.
        seed: of initial weights, clips and every other random decision.
        j, f: means over the sequences, fractions.
        sequences: J&F of each sequence.
        drift: mean J over the sequences on frame 1, 2, ... after the given one.
        training: the recipe, its data, and how long it took.
        settings: how masks were carried.
    """

    row: str
    seed: int
    j: float
    f: float
    sequences: Mapping[str, float]
    drift: Sequence[float]
    training: Mapping
    settings: Mapping

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


def run_row(
    row: str,
    seed: int,
    recipe: TrainingConfig,
    cache: FrameCache,
    sequences: Sequence[Annotated],
    folder: str | Path,
    config: PropagationConfig | None = None,
    frames: int | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Run | None:
    """Train one row and score it; from its record where there is one.

    Args:
        row: a name in :data:`ROWS` of the recipe's method.
        recipe: the full one.
        cache: what is learnt from; none of it may be in ``sequences``.
        sequences: to score, from :func:`corrlib.datasets.davis`.
        folder: keeps ``<row>-<seed>.json`` and, beside it, the folder of the training run.
        config: how masks are carried.
        frames: only so many of each sequence.
        device, precision: see :mod:`corrlib.device`.
        progress: show progress bars.

    Returns:
        The run, or ``None`` where the training was interrupted; the next call continues it.
    """
    rows = ROWS[method_name(recipe.model)]
    if row not in rows:
        raise InputError(f"expected a row among {', '.join(rows)}, got {row!r}")
    record = Path(folder) / f"{row}-{seed}.json"
    recipe = rows[row](replace(recipe, seed=seed))
    config = config or PropagationConfig()
    settings = asdict(config) | {"frames": frames}
    if record.is_file():
        run = read_run(record)
        wanted = json.loads(json.dumps(_rounded([asdict(recipe), settings])))
        if [run.training["training"], run.settings] != wanted:
            raise InputError(
                f"expected a record of this recipe and these settings in {record}, it is of "
                "others; give another folder or remove it"
            )
        return run
    place = record.with_suffix("")
    # The untrained network is what a run begins with, colour words and all.
    untrained = recipe.steps == 0
    trainer = Trainer(
        replace(recipe, steps=1) if untrained else recipe,
        cache,
        place,
        device=device,
        precision=precision,
        resume=(place / "checkpoint.pt").exists(),
    )
    if untrained:
        save_weights(trainer.model, trainer.weights)
    elif not trainer.run(progress=progress):
        return None
    chosen = choose_device(device)
    model = load_weights(trainer.weights).to(chosen)
    carry = partial(
        propagate_mask,
        extractor=trained(model, choose_precision(precision, chosen)),
        config=config,
        device=chosen,
    )
    short = [_shortened(sequence, frames) for sequence in sequences]
    figure = evaluate(short, lambda video, mask: carry(islice(video, frames), mask))
    run = Run(
        row,
        seed,
        figure["J"]["mean"],
        figure["F"]["mean"],
        {name: score["J&F"] for name, score in figure["sequences"].items()},
        drift(figure),
        trainer.description() | {"training": asdict(recipe)},
        settings,
    )
    with atomic_path(record) as path:
        path.write_text(json.dumps(_rounded(asdict(run)), indent=1) + "\n", encoding="utf-8")
    return run


def drift(figure: Mapping) -> list[float]:
    """Mean J on each frame after the first, of what ``corrlib evaluate`` gave.

    A sequence counts for as long as it lasts; the last frame, which has no score, is left out.
    """
    curves = [
        one["per_frame"]["J"]
        for score in figure["sequences"].values()
        for one in score["objects"].values()
    ]
    columns = [
        [curve[t] for curve in curves if t < len(curve)] for t in range(max(map(len, curves)))
    ]
    return [sum(column) / len(column) for column in columns]


def read_runs(folder: str | Path) -> list[Run]:
    """Every recorded run of a folder, in the order of :data:`ROWS` and by seed."""
    runs = [read_run(path) for path in Path(folder).glob("*.json")]
    if not runs:
        raise InputError(f"expected recorded runs (<row>-<seed>.json) in {folder}, found none")
    return sorted(runs, key=lambda run: (_NAMES.index(run.row), run.seed))


def read_run(path: Path) -> Run:
    try:
        run = Run(**json.loads(path.read_text(encoding="utf-8")))
        if run.row not in _NAMES or not all(0 <= part <= 1 for part in (run.j, run.f, *run.drift)):
            raise ValueError("no such row, or figures that are no fractions")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"expected the record of a run in {path}, it cannot be read ({error}); remove it to "
            "run that row again"
        ) from error
    return run


@dataclass(frozen=True)
class Summary:
    """A row over its seeds. ``mean`` is of J&F, ``spread`` its sample standard deviation (NaN of a
    single seed), ``gain`` the mean difference to the full method under the same seeds."""

    row: str
    seeds: tuple[int, ...]
    j: float
    f: float
    mean: float
    spread: float
    gain: float
    gain_spread: float


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """One summary per row, in the order of the runs."""
    full = {run.seed: run.j_and_f for run in runs if run.row == "full"}
    return list(_summaries(runs, full))


def _summaries(runs: Sequence[Run], full: Mapping[int, float]) -> Iterator[Summary]:
    for row in dict.fromkeys(run.row for run in runs):
        own = [run for run in runs if run.row == row]
        values = torch.tensor([run.j_and_f for run in own], dtype=torch.float64)
        gains = torch.tensor(
            [run.j_and_f - full[run.seed] for run in own if run.seed in full], dtype=torch.float64
        )
        yield Summary(
            row,
            tuple(run.seed for run in own),
            sum(run.j for run in own) / len(own),
            sum(run.f for run in own) / len(own),
            *_mean_and_spread(values),
            *_mean_and_spread(gains),
        )


def _mean_and_spread(values: torch.Tensor) -> tuple[float, float]:
    mean = values.mean().item() if len(values) else float("nan")
    return mean, values.std().item() if len(values) > 1 else float("nan")


def _shortened(sequence: Annotated, frames: int | None) -> Annotated:
    if frames is None:
        return sequence
    masks = {index: path for index, path in sequence.masks.items() if index < frames}
    return replace(sequence, masks=masks)


def _rounded(value):
    """Figures to five digits: a record is read by people, too."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value
