"""Recipes: what is trained, on which clips, with which optimiser, for how long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from corrlib.clip_sampler import ClipConfig
from corrlib.corrflow import CorrFlowConfig
from corrlib.crw import CRWConfig
from corrlib.sampling import ScheduledSampling


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. The defaults are the published schedule.

    Published are clips at 6 fps, which is every 4th frame of a film.

    Attributes:
        model, clips: the method and its data.
        batch: clips per step.
        optimiser: ``adam`` (published) or ``adamw``.
        learning_rate: at the start.
        weight_decay: of AdamW.
        halve_at: numbers of clips after which the learning rate is halved; where empty, it falls
            linearly to zero over the run.
        steps: length of the run.
        seed: of everything.
    """

    model: CorrFlowConfig | CRWConfig = CorrFlowConfig()
    clips: ClipConfig = ClipConfig(length=3, gap=(1, 1), fps=6)
    batch: int = 6
    optimiser: str = "adam"
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    halve_at: tuple[int, ...] = (400_000, 600_000, 800_000, 1_000_000)
    steps: int = 200_000
    seed: int = 0


_LAPTOP = TrainingConfig(
    model=CorrFlowConfig(
        encoder="resnet18-stride8-framenorm",
        unit_features=True,
        temperature=0.07,
        dropout=0.9,
        both_directions=True,
        loss_stride=4,
        lab_weight=1.0,
    ),
    clips=ClipConfig(length=3, gap=(1, 8), crop=0.35, flip=0.5),
    batch=3,
    optimiser="adamw",
    learning_rate=3e-4,
    weight_decay=1e-4,
    halve_at=(),
    steps=1_000,
)

PROFILES = {
    "published": TrainingConfig(),
    "laptop": _LAPTOP,
    "colorization": replace(
        _LAPTOP,
        model=replace(
            _LAPTOP.model,
            grey_input=True,
            dropout=0.0,
            jitter=0.0,
            radius=None,
            sampling=ScheduledSampling(1.0, 1.0),
            cycle_weight=0.0,
            lab_weight=0.0,
        ),
    ),
    "gpu": replace(_LAPTOP, batch=32, learning_rate=1e-3, steps=20_000),
    "fast": replace(_LAPTOP, clips=replace(_LAPTOP.clips, size=64), batch=2, steps=4),
}
"""``laptop`` is a recipe for 15 CPU minutes, ``gpu`` the same in larger batches, ``fast`` shows in
seconds that everything runs: its figures mean nothing. ``colorization`` is video colorization
(Vondrick et al. 2018) in our setting: grey frames, full attention, and none of CorrFlow's parts."""

_WALK = replace(
    _LAPTOP,
    model=CRWConfig(),
    clips=replace(_LAPTOP.clips, length=4),
    batch=2,
)

CRW_PROFILES = {
    "laptop": _WALK,
    "gpu": replace(_WALK, batch=32, learning_rate=1e-3, steps=20_000),
    "fast": replace(_WALK, clips=replace(_WALK.clips, size=64), steps=4),
}
"""The palindrome walk on the same data, for about as long."""
