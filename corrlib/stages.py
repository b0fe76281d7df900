"""How long each stage of a computation takes, for benchmarks; costs nothing elsewhere.

with measured(device) as seconds:
    propagate()
seconds["encode"], seconds["gemm"], ...
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_measuring: ContextVar[tuple[torch.device, dict[str, float]] | None] = ContextVar(
    "measuring", default=None
)


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[dict[str, float]]:
    """Yield a dict that collects the seconds spent in every ``stage`` within the block."""
    seconds: dict[str, float] = defaultdict(float)
    token = _measuring.set((torch.device(device), seconds))
    try:
        yield seconds
    finally:
        _measuring.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Name what is done within the block. Stages do not contain each other."""
    measuring = _measuring.get()
    if measuring is None:
        yield
        return
    device, seconds = measuring
    synchronise(device)
    started = time.perf_counter()
    yield
    synchronise(device)
    seconds[name] += time.perf_counter() - started


def synchronise(device: torch.device | str) -> None:
    """Wait until the device has done what it was given."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
