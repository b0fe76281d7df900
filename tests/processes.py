"""Several processes, for the tests of what they share."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch.multiprocessing

LIMIT = 240  # seconds


def free_ports(count: int = 1) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in free]


def run_two(worker: Callable, *arguments: object) -> None:
    """``worker(rank, *arguments)`` in two processes; an error in one ends both, and is raised."""
    context = torch.multiprocessing.spawn(worker, arguments, nprocs=2, join=False)
    end = time.monotonic() + LIMIT
    while not context.join(max(0.0, end - time.monotonic())):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            pytest.fail(f"two processes have not ended after {LIMIT} s")
