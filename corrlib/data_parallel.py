"""Several processes train one model, started by ``torchrun --nproc-per-node N``.

All that training knows of ranks is here; alone, a process passes through it unchanged. N processes
take the steps that one would take. Every process makes the random decisions of the whole batch and
follows those of its own clips: of N processes, process r gets clips r, r + N, r + 2N, ... Gradients
are averaged by DistributedDataParallel; the clock and the wish to stop are agreed on before each
step, and rank 0 alone writes files.

Features do not depend on how a batch is dealt out where frames are normalised one by one
(``resnet18-stride8-framenorm``, of the shipped recipes). Encoders with batch norm take their
statistics from each process's own clips on the CPU; on CUDA they become SyncBatchNorm, which takes
them from all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from corrlib import sharding
from corrlib.errors import InputError


def share(batch: int) -> slice:
    """Which of a batch's clips are this process's; it has to share out evenly."""
    processes = sharding.world_size()
    if batch % processes:
        raise InputError(
            f"expected clips per step that {processes} processes share evenly, got {batch}; "
            f"start a number of processes that divides {batch}"
        )
    return slice(sharding.rank(), None, processes)


class DealtDraws(TorchFunctionMode):
    """Within it, random draws from a generator are this process's share of the whole batch's.

    A draw's first dimension has to count clips (or clips of one walk after those of another). What
    is drawn is what one process would draw, every N-th of which is kept, so that a method's own
    code need not know of processes. A kind of draw that it does not know is an error.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        processes = sharding.world_size()
        if processes == 1 or kwargs.get("generator") is None:
            return function(*args, **kwargs)
        mine = slice(sharding.rank(), None, processes)
        if function is torch.Tensor.uniform_:
            tensor, *bounds = args
            whole = tensor.new_empty(processes * tensor.shape[0], *tensor.shape[1:])
            return tensor.copy_(function(whole, *bounds, **kwargs)[mine])
        if function is torch.rand:
            bounds, size = (), args[0] if len(args) == 1 else args
        elif function is torch.randint:
            *bounds, size = args
        else:
            raise NotImplementedError(f"{function} is not dealt out among processes")
        clips, *rest = [size] if isinstance(size, int) else size
        return function(*bounds, (processes * clips, *rest), **kwargs)[mine]


def parallel_loss(model: nn.Module, device: torch.device) -> Callable:
    """``model.loss`` of this process's clips; its gradients become those of the whole batch.

    The model is changed in place where batch norm has to see all clips.
    """
    if sharding.world_size() == 1:
        return model.loss
    sharding.join()
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    replica = DistributedDataParallel(_Objective(model))

    def loss(*arguments):
        with DealtDraws():
            return replica(*arguments)

    return loss


class _Objective(nn.Module):
    """A method whose forward pass, which is what DistributedDataParallel wraps, is its loss."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *arguments):
        return self.model.loss(*arguments)


def agree(*values: float) -> list[float]:
    """The largest of each value over all processes: what each of them may act on."""
    if sharding.world_size() == 1:
        return list(values)
    agreed = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
    return agreed.tolist()


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over all processes."""
    if sharding.world_size() == 1:
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / sharding.world_size()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Rank 0 does what is within before the others do, which find it done."""
    if sharding.rank() > 0:
        wait()
    try:
        yield
    finally:
        if sharding.rank() == 0:
            wait()


def wait() -> None:
    """Until every process is here."""
    if sharding.world_size() > 1:
        sharding.join()
        torch.distributed.barrier()
