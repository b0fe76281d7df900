"""Which device and which precision: ``auto`` asks the machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from corrlib import sharding
from corrlib.errors import InputError

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes CUDA, else MPS, else the CPU; a device that is not there is an InputError.

    Each of several processes of a machine that ``torchrun`` started takes a CUDA device of its own.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind = name.split(":")[0]
    if kind not in available:
        raise InputError(f"expected a device among {', '.join(DEVICES)}, got {name!r}")
    if not available[kind]:
        there = ", ".join(kind for kind, there in available.items() if there)
        raise InputError(f"the device {name!r} is not available here; there is: {there}")
    if name == "cuda" and sharding.world_size() > 1:
        return _own_cuda_device()
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The encoder's precision. ``auto``: bf16 where the hardware computes with it, fp16 on older
    CUDA cards, else fp32. Affinities and losses are always computed in float32."""
    if name not in PRECISIONS:
        raise InputError(f"expected a precision among {', '.join(PRECISIONS)}, got {name!r}")
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        newer = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if newer else torch.float16
    if device.type == "cpu" and _cpu_computes_bf16():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Mixed precision for the encoder; does nothing in float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def _own_cuda_device() -> torch.device:
    index, devices = sharding.local_rank(), torch.cuda.device_count()
    if index >= devices:
        raise InputError(
            f"expected a CUDA device for each process of a machine, there are {devices}; start as "
            "many processes, or give --device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _cpu_computes_bf16() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
    return bool(capabilities.get("amx_bf16"))
