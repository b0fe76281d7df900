"""The training loop: draw clips, take a step, keep a checkpoint that continues exactly.

Every random decision of step n comes from a generator seeded with (seed, n), so a run that was
interrupted and resumed is the run that was not. So is, but for rounding, one that several processes
share (:mod:`corrlib.data_parallel`). The device is waited for only where the log has a line.
"""

from __future__ import annotations

import csv
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from tqdm import tqdm

from corrlib import __version__, data_parallel, sharding
from corrlib.clip_sampler import ClipSampler
from corrlib.device import choose_device, choose_precision
from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.frames import FrameCache
from corrlib.geometry import to_float
from corrlib.interruption import interruption
from corrlib.recipes import TrainingConfig
from corrlib.stages import stage
from corrlib.weights import METHODS, Method, method_name, save_weights

SAMPLE = 256  # frames that a method sees before training, say to find its colour words


class Record(NamedTuple):
    """One line of the log.

    ``losses`` are the method's, by name, ``total`` first; means over the steps since the last line.
    """

    step: int
    seconds: float
    learning_rate: float
    losses: dict[str, float]


@dataclass
class Progress:
    """How far a run has come. ``waiting`` are the losses of each step not logged yet."""

    step: int = 0
    seconds: float = 0.0
    history: list[Record] = field(default_factory=list)
    waiting: list[torch.Tensor] = field(default_factory=list)


class Trainer:
    """Fits a method to the frames of a cache.

    Args:
        config: the run.
        cache: decoded frames.
        folder: where ``run.json``, ``log.csv``, ``checkpoint.pt`` and ``weights.safetensors`` go.
        minutes: stop after this much training time, however few steps that is; the learning rate
            then falls over the time instead of the steps.
        device, precision: see :mod:`corrlib.device`.
        resume: continue from the folder's checkpoint. Without it, a folder that holds one is an
            :class:`InputError`, so that no run is overwritten by accident.
        start: begin with the weights of this model, colour words included, instead of random ones;
            its configuration has to be ``config.model``.
        checkpoint_seconds: time between checkpoints.

    Processes that ``torchrun`` started train one model together; each makes a Trainer and calls
    ``run``. ``config.batch`` is that of all of them.
    """

    LOG_EVERY = 20

    def __init__(
        self,
        config: TrainingConfig,
        cache: FrameCache,
        folder: str | Path,
        *,
        minutes: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        resume: bool = False,
        start: Method | None = None,
        checkpoint_seconds: float = 60.0,
    ):
        if config.steps < 1 or config.batch < 1:
            raise InputError(
                f"expected at least 1 step and 1 clip a step, got {config.steps} and {config.batch}"
            )
        if minutes is not None and not minutes > 0:
            raise InputError(f"expected more than 0 minutes of training, got {minutes}")
        if start is not None and start.config != config.model:
            raise InputError(
                f"expected weights of the model to be trained, {config.model}, got {start.config}"
            )
        self.config = config
        self.cache = cache
        self.folder = Path(folder)
        self.minutes = minutes
        self.share_of_batch = data_parallel.share(config.batch)
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.checkpoint_seconds = checkpoint_seconds
        self.sampler = ClipSampler(cache, config.clips)
        self.progress = Progress()
        method = METHODS[method_name(config.model)]
        self.model = method(config.model, self._generator(-1))
        if not resume:
            if self.checkpoint.exists():
                raise InputError(
                    f"{self.folder} already holds a run; continue it with --resume or choose "
                    "another folder"
                )
            if start is not None:
                self.model.load_state_dict(start.state_dict())
            else:
                generator = self._generator(-2)
                sample = self.sampler(-(-SAMPLE // config.clips.length), generator)
                self.model.prepare(to_float(sample.flatten(0, 1)), generator)
        self.model.to(self.device, memory_format=torch.channels_last).train()
        make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        if config.optimiser not in make:
            raise InputError(f"expected the optimiser adam or adamw, got {config.optimiser!r}")
        self.optimiser = make[config.optimiser](
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # In fp16 the others read on the host whether a gradient overflowed, at every step.
            fused=self.device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        if resume:
            self._load()
        self.loss = data_parallel.parallel_loss(self.model, self.device)
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._ahead: Future | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1: of the steps, or of the minutes where given."""
        if self.minutes is None:
            return self.progress.step / self.config.steps
        return min(1.0, self.progress.seconds / (60 * self.minutes))

    def run(
        self,
        on_record: Callable[[Record], None] | None = None,
        progress: bool = True,
        stop_after: int | None = None,
    ) -> bool:
        """Train to the end; ``True`` when it was reached.

        SIGINT or SIGTERM (of several processes to any of them) ends the run after the step in
        progress, with a checkpoint, and returns ``False``; so does reaching ``stop_after`` steps.

        Args:
            on_record: called with every line of the log, for live plots; of several processes
                by rank 0.
            progress: show a progress bar.
            stop_after: the step to stop at, for doing a run in parts.
        """
        first = sharding.rank() == 0
        if first:
            self._describe()
        saved = time.monotonic()
        timed = self.minutes is not None
        total = round(60 * self.minutes) if timed else self.config.steps

        def done() -> int:
            return min(total, int(self.progress.seconds) if timed else self.progress.step)

        with (
            interruption() as interrupted,
            tqdm(
                total=total,
                initial=done(),
                unit="s" if timed else "step",
                desc="training",
                disable=not (progress and first),
            ) as bar,
        ):
            while True:
                save_now = time.monotonic() - saved > self.checkpoint_seconds
                self.progress.seconds, stop, save = data_parallel.agree(
                    self.progress.seconds, interrupted(), save_now
                )
                bar.update(done() - bar.n)
                waiting = len(self.progress.waiting)
                if waiting == self.LOG_EVERY or (waiting and self.share >= 1):
                    record = self._record()
                    bar.set_postfix(
                        loss=f"{record.losses['total']:.3f}", lr=f"{record.learning_rate:.1e}"
                    )
                    if on_record and first:
                        on_record(record)
                if save:
                    self._save()
                    saved = time.monotonic()
                if stop or self.share >= 1 or self.progress.step == stop_after:
                    break
                started = time.monotonic()
                self.progress.waiting.append(self.step())
                self.progress.seconds += time.monotonic() - started
            self._save()
            finished = self.share >= 1
            if finished and first:
                save_weights(self.model, self.weights, **self.description())
            data_parallel.wait()  # torchrun ends the others when one has left
        return finished

    def step(self) -> torch.Tensor:
        """Take one step of the optimiser; returns the method's losses, still on the device."""
        with stage("data"):
            clips, generator = self._clips()
            clips = clips.to(self.device, non_blocking=True)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        losses = self.loss(to_float(clips), generator, self.precision, self.share)
        with stage("backward"):
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(losses.total).backward()
            self.scaler.step(self.optimiser)
            self.scaler.update()
        self.progress.step += 1
        return torch.stack(losses).detach()

    def description(self) -> dict:
        """What produced these weights: configuration, data, versions, how long."""
        return {
            "training": asdict(self.config),
            "minutes": self.minutes,
            "processes": sharding.world_size(),
            "steps_done": self.progress.step,
            "seconds": round(self.progress.seconds, 1),
            "videos": len(self.cache.names),
            "frames": self.cache.frames,
            "skipped": len(self.cache.skipped),
            "device": str(self.device),
            "precision": str(self.precision).removeprefix("torch."),
            "versions": {
                "corrlib": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
            "commit": _commit(),
        }

    def _clips(self) -> tuple[torch.Tensor, torch.Generator]:
        """This step's clips, and the generator they came from; the next are read meanwhile."""
        ahead = self._ahead or self._reader.submit(self._draw, self.progress.step)
        drawn = ahead.result()
        self._ahead = self._reader.submit(self._draw, self.progress.step + 1)
        return drawn

    def _draw(self, step: int) -> tuple[torch.Tensor, torch.Generator]:
        generator = self._generator(step)
        clips = self.sampler(self.config.batch, generator, self.share_of_batch)
        return clips.pin_memory() if self.device.type == "cuda" else clips, generator

    def _learning_rate(self) -> float:
        if self.config.halve_at:
            seen = self.progress.step * self.config.batch
            return self.config.learning_rate * 0.5 ** sum(seen >= at for at in self.config.halve_at)
        return self.config.learning_rate * (1 - self.share)

    def _record(self) -> Record:
        means = data_parallel.mean(torch.stack(self.progress.waiting).mean(dim=0)).tolist()
        self.progress.waiting = []
        if not all(map(math.isfinite, means)):
            raise InputError(
                f"the loss became {means[0]} at step {self.progress.step}; "
                "lower the learning rate or use --precision fp32"
            )
        learning_rate = self.optimiser.param_groups[0]["lr"]
        losses = dict(zip(self.model.Losses._fields, means, strict=True))
        record = Record(self.progress.step, self.progress.seconds, learning_rate, losses)
        self.progress.history.append(record)
        return record

    def _generator(self, step: int) -> torch.Generator:
        """The generator of one step; step -1 draws the initial weights, -2 the colours."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_000_007 + step + 2)

    def _describe(self) -> None:
        about = self.description() | {"command": sys.argv, "names": list(self.cache.names)}
        about["skipped"] = list(self.cache.skipped)
        with atomic_path(self.folder / "run.json") as path:
            path.write_text(json.dumps(about, indent=1))

    def _save(self) -> None:
        if self.progress.waiting:  # a resumed rank continues with the losses of all
            waiting = data_parallel.mean(torch.stack(self.progress.waiting))
            self.progress.waiting = list(waiting)
        if sharding.rank() > 0:
            return
        state = {
            "config": _as_json(self.config, self.minutes),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.progress.step,
            "seconds": self.progress.seconds,
            "history": [list(record) for record in self.progress.history],
            "waiting": self.progress.waiting,
        }
        with atomic_path(self.checkpoint) as path:
            torch.save(state, path)
        with atomic_path(self.folder / "log.csv") as path, path.open("w", newline="") as file:
            names = (*Record._fields[:-1], *self.model.Losses._fields)
            lines = [(*record[:-1], *record.losses.values()) for record in self.progress.history]
            csv.writer(file).writerows([names, *lines])

    def _load(self) -> None:
        if not self.checkpoint.is_file():
            raise InputError(f"expected a checkpoint to resume in {self.folder}, found none")
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            config, wanted = json.loads(state["config"]), _as_json(self.config, self.minutes)
            if different := sorted(_differences(config, json.loads(wanted))):
                raise InputError(
                    f"the run in {self.folder} was started with other settings "
                    f"({', '.join(different)}); resume it with the same ones"
                )
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            history = [Record(*record) for record in state["history"]]
            self.progress = Progress(state["step"], state["seconds"], history, state["waiting"])
        except InputError:
            raise
        except Exception as error:  # whatever unpickling meets in a broken or foreign file
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the checkpoint {self.checkpoint} cannot be read ({reason}); "
                "remove it to start again"
            ) from error


def _as_json(config: TrainingConfig, minutes: float | None) -> str:
    return json.dumps(asdict(config) | {"minutes": minutes})


def _differences(one: dict, other: dict, prefix: str = "") -> Iterator[str]:
    """Names of the settings in which two nested configurations differ."""
    for name in one.keys() | other.keys():
        here, there = one.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differences(here, there, f"{name}.")
        elif here != there:
            yield f"{prefix}{name}"


def _commit() -> str | None:
    """The commit this code was checked out at, if it lies in a git checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
