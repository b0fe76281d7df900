"""Timing one call."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from corrlib.errors import InputError
from corrlib.stages import synchronise


def seconds(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """How long a call takes, the device's part included."""
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise InputError(f"expected at least 1 round, got {rounds}")
