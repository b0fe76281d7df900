"""How much work a notebook does: seconds in tests, minutes on a laptop, more on a GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from corrlib.errors import InputError

VARIABLE = "CORRLIB_PROFILE"


@dataclass(frozen=True)
class Profile:
    """Sizes that notebooks share.

    Attributes:
        name: ``fast``, ``laptop`` or ``gpu``.
        short_side: of frames that are looked at, in pixels.
        steps: of the small trainings that a lesson runs.
        frames: of the clips that a lesson propagates through.
        meaningful: whether the figures say anything about the method.
    """

    name: str
    short_side: int
    steps: int
    frames: int
    meaningful: bool = True

    def __str__(self) -> str:
        notice = "" if self.meaningful else "; its numbers only show that the code runs"
        return f"profile {self.name}{notice}"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("fast", short_side=128, steps=4, frames=6, meaningful=False),
        Profile("laptop", short_side=256, steps=150, frames=40),
        Profile("gpu", short_side=256, steps=1000, frames=80),
    )
}


def current() -> Profile:
    """The profile that the environment variable ``CORRLIB_PROFILE`` names, or, where it is not
    set, ``gpu`` if there is a CUDA device and ``laptop`` if not."""
    name = os.environ.get(VARIABLE) or ("gpu" if torch.cuda.is_available() else "laptop")
    if name not in PROFILES:
        raise InputError(f"expected {VARIABLE} among {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
