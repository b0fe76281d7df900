"""Recipes: what is trained, on which clips, with which optimiser, for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from corrlib import corrflow, joint
from corrlib.clip_sampler import ClipConfig
from corrlib.colour_autoencoder import AutoencoderConfig
from corrlib.corrflow import CorrFlowConfig
from corrlib.crw import CRWConfig
from corrlib.joint import JointConfig
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

    model: CorrFlowConfig | CRWConfig | AutoencoderConfig | JointConfig = CorrFlowConfig()
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
    model=CRWConfig(encoder="resnet18-stride8-framenorm"),
    clips=replace(_LAPTOP.clips, length=4),
    batch=2,
)

CRW_PROFILES = {
    "laptop": _WALK,
    "gpu": replace(_WALK, batch=32, learning_rate=1e-3, steps=20_000),
    "fast": replace(
        _WALK,
        model=replace(_WALK.model, patch=32, spacing=16),
        clips=replace(_WALK.clips, size=64),
        steps=4,
    ),
}
"""The palindrome walk on the same data, for about as long. Patches are normalised one by one, as
frames are else: with batch norm it is 8 points behind (data/weights/README.md)."""

_COLOURS = replace(
    _LAPTOP,
    model=AutoencoderConfig(width=32),
    clips=ClipConfig(length=1, crop=0.6, flip=0.5),
    batch=2,
    learning_rate=2e-4,
)

AUTOENCODER_PROFILES = {
    "laptop": _COLOURS,
    "gpu": replace(_COLOURS, batch=64, steps=20_000),
    "fast": replace(_COLOURS, clips=replace(_COLOURS.clips, size=64), batch=2, steps=4),
}
"""The colour auto-encoder, on single frames of the videos; the authors take images of COCO."""

_JOINT = replace(
    _LAPTOP,
    model=JointConfig(
        encoder="resnet18-stride8-framenorm",
        unit_features=True,
        temperature=0.07,
        patch=192,
        context=True,
        concentration="piecewise",
        concentration_weight=0.01,
        colour_cycle_weight=0.01,
        coordinate_cycle_weight=0.01,
        autoencoder=AUTOENCODER_PROFILES["laptop"].model,
    ),
    clips=replace(_LAPTOP.clips, length=2),
    batch=5,
)

JOINT_PROFILES = {
    "published": TrainingConfig(
        model=JointConfig(),
        clips=ClipConfig(length=2, gap=(1, 50), size=640, flip=0.5),
        batch=8,
        learning_rate=1e-4,
        halve_at=(),
    ),
    "laptop": _JOINT,
    "gpu": replace(_JOINT, batch=32, learning_rate=1e-3, steps=20_000),
    "fast": replace(
        _JOINT,
        model=replace(_JOINT.model, patch=32),
        clips=replace(_JOINT.clips, size=64),
        batch=2,
        steps=4,
    ),
}
"""The joint-task model. The authors' learning rate falls as (1 - share)^0.9, here linearly.

``laptop`` cuts the patch out of the features of its frame, and weighs the regularisers by a tenth
to a thirtieth of the published weights, under which a short training copies colours worse."""

RECIPES: dict[str, dict[str, TrainingConfig]] = {
    "corrflow": PROFILES,
    "crw": CRW_PROFILES,
    "colour-autoencoder": AUTOENCODER_PROFILES,
    "joint": JOINT_PROFILES,
}
"""The recipes of every method, by its name in :data:`corrlib.weights.METHODS`."""

ABLATIONS: dict[str, dict[str, Callable]] = {"corrflow": corrflow.WITHOUT, "joint": joint.WITHOUT}
"""What methods can be trained without: functions from configuration to configuration."""
