"""Several processes share one piece of work, started by ``torchrun --nproc-per-node N``.

``torchrun`` tells each process its rank and their number in the environment; a process that was
started otherwise is alone. What lies on the CPU travels over gloo, so no GPU is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def join() -> None:
    """Connect the processes, once; all have to call it."""
    if not torch.distributed.is_initialized():
        cuda = torch.cuda.is_available() and torch.distributed.is_nccl_available()
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=timedelta(days=7),  # one process may be done long before another
        )


def deal(lengths: Sequence[int], hands: int) -> list[list[int]]:
    """Indices of the items each hand gets, so that the sums of their lengths are about even.

    The longest item goes first, each to the hand that has least so far. Every index occurs once, in
    ascending order within a hand.
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    load = [0] * hands
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        hand = load.index(min(load))
        dealt[hand].append(index)
        load[hand] += lengths[index]
    return [sorted(hand) for hand in dealt]


def gather(value: Any) -> list[Any] | None:
    """Every process's value by rank, on rank 0; ``None`` on the others. All have to call it."""
    if world_size() == 1:
        return [value]
    join()
    gathered = [None] * world_size() if rank() == 0 else None
    torch.distributed.gather_object(value, gathered)
    return gathered


def shared(
    units: Iterable[Unit], length: Callable[[Unit], int], work: Callable[[Unit], Result]
) -> Iterator[tuple[Unit, Result]]:
    """Do the work on each unit, shared out among the processes; all have to call it.

    Args:
        units: sequences or clips.
        length: of a unit, such as its number of frames: what its work takes is about in proportion.
        work: a unit -> its result, which has to lie on the CPU.

    Yields:
        Each unit and its result, in the order of ``units``: alone, as it is done; of several
        processes rank 0 yields all of them when all are done, and the others none.

    What ``work`` raises, the process raises that met it; ``torchrun`` then ends the others.
    """
    if world_size() == 1:
        for unit in units:
            yield unit, work(unit)
        return
    units = list(units)
    hands = deal([length(unit) for unit in units], world_size())
    gathered = gather([work(units[index]) for index in hands[rank()]])
    if gathered is not None:
        results = {
            index: result
            for hand, found in zip(hands, gathered, strict=True)
            for index, result in zip(hand, found, strict=True)
        }
        for index, unit in enumerate(units):
            yield unit, results[index]
