"""Restricted affinity and copying against other ways to compute the same.

Peak memory is measured in a fresh process each.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from corrlib.affinity import restricted_affinity, transport
from corrlib.affinity_reference import offsets, shift
from corrlib.bench.timing import check_rounds, seconds
from corrlib.errors import InputError

MODES = ("forward", "forward+backward")
BATCH, CHANNELS, SIDE, RADIUS, VALUES = 4, 256, 64, 6, 16

Formulation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def tiled(reference: torch.Tensor, target: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """corrlib's own path."""
    return transport(values, restricted_affinity(reference, target, RADIUS))


def dense(reference: torch.Tensor, target: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """All n x n scores in one matrix product; those out of reach are masked."""
    height, width = target.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=target.device),
        torch.arange(width, device=target.device),
        indexing="ij",
    )
    y, x = y.flatten(), x.flatten()
    far = ((y[:, None] - y).abs() > RADIUS) | ((x[:, None] - x).abs() > RADIUS)
    scores = reference.flatten(2).transpose(1, 2) @ target.flatten(2)
    affinity = scores.masked_fill(far, -torch.inf).softmax(dim=1)
    return (values.flatten(2) @ affinity).unflatten(2, (height, width))


def unfold(reference: torch.Tensor, target: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Every target's window copied out with ``F.unfold``, multiplied and summed."""
    side = 2 * RADIUS + 1

    def windows(maps: torch.Tensor) -> torch.Tensor:  # (B, C, K, h, w)
        columns = F.unfold(maps, side, padding=RADIUS)
        return columns.view(*maps.shape[:2], side**2, *maps.shape[2:])

    inside = torch.ones_like(target[:1, :1])
    outside = torch.cat([shift(inside, dy, dx) for dy, dx in offsets(RADIUS)], dim=1) == 0
    scores = (windows(reference) * target.unsqueeze(2)).sum(dim=1)
    affinity = scores.masked_fill(outside, -torch.inf).softmax(dim=1)
    return (windows(values) * affinity.unsqueeze(1)).sum(dim=2)


FORMULATIONS: dict[str, Formulation] = {"ours": tiled, "dense": dense, "unfold": unfold}


def bench_affinity(device: torch.device, rounds: int, report: Callable[[str], None]) -> dict:
    """Restricted affinity and the copy of 16 label maps through it, B=4, C=256, 64x64, M=6.

    Returns:
        ``ratios`` (reference time / ours), ``milliseconds``, ``peak_bytes`` (beyond the inputs),
        and ``floor_ratio``: our time over that of the multiplications the definition needs at the
        speed of the device's own large matrix product, measured alongside.
    """
    check_rounds(rounds)
    report(
        f"restricted affinity + copy, B={BATCH}, C={CHANNELS}, {SIDE}x{SIDE}, M={RADIUS}, "
        f"float32 on {device} ({torch.get_num_threads()} threads)"
    )
    inputs = _inputs(device)
    _check_equal(inputs)
    matrix = torch.randn(2048, 2048, device=device)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, formulation in FORMULATIONS.items():
            for mode in MODES:
                spent = seconds(lambda: _call(formulation, mode, inputs), device)  # noqa: B023
                times.setdefault((name, mode), []).append(spent)
        times.setdefault(("gemm", ""), []).append(seconds(lambda: matrix @ matrix, device))
    median = {key: statistics.median(values) for key, values in times.items()}
    peak = {
        name: {mode: _peak_bytes(name, mode, device) for mode in MODES} for name in FORMULATIONS
    }

    flops_per_second = 2 * 2048**3 / median["gemm", ""]
    window = (2 * RADIUS + 1) ** 2
    flops = 2 * BATCH * SIDE**2 * window * (CHANNELS + VALUES)
    # Forward is one product with the features and one with the values; backward two of each.
    floor = {"forward": flops / flops_per_second, "forward+backward": 3 * flops / flops_per_second}
    result = {
        "ratios": {
            name: {mode: median[name, mode] / median["ours", mode] for mode in MODES}
            for name in ("dense", "unfold")
        },
        "milliseconds": {
            name: {mode: 1000 * median[name, mode] for mode in MODES} for name in FORMULATIONS
        },
        "peak_bytes": peak,
        "floor_ratio": {mode: median["ours", mode] / floor[mode] for mode in MODES},
        "gemm_gflops": flops_per_second / 1e9,
        "device": str(device),
        "rounds": rounds,
    }
    for mode in MODES:
        ours = peak["ours"][mode]
        report(f"{mode}:")
        for name in ("dense", "unfold"):
            report(
                f"  {result['ratios'][name][mode]:6.1f}x faster than {name:7}"
                f" with {ours / peak[name][mode]:.2f} of its peak memory"
            )
        report(
            f"  {1000 * median['ours', mode]:.0f} ms, {ours / 2**20:.0f} MB, "
            f"{result['floor_ratio'][mode]:.1f}x the floor set by the matrix product "
            f"({result['gemm_gflops']:.0f} GFLOP/s)"
        )
    return result


def _inputs(device: torch.device) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, CHANNELS, SIDE, SIDE),) * 2 + ((BATCH, VALUES, SIDE, SIDE),)
    return tuple(
        torch.randn(shape, generator=generator).div(4).to(device).requires_grad_()
        for shape in shapes
    )


def _call(formulation: Formulation, mode: str, inputs: tuple[torch.Tensor, ...]) -> None:
    with torch.set_grad_enabled(mode != "forward"):
        copied = formulation(*inputs)
    if mode != "forward":
        torch.autograd.grad(copied.square().sum(), inputs)


def _check_equal(inputs: tuple[torch.Tensor, ...]) -> None:
    small = [maps[:1, :8, :24, :32] for maps in inputs]
    with torch.no_grad():
        expected = tiled(*small)
        for formulation in FORMULATIONS.values():
            torch.testing.assert_close(formulation(*small), expected, rtol=1e-4, atol=1e-5)


def _peak_bytes(name: str, mode: str, device: torch.device) -> int:
    """Peak memory of one call beyond its inputs."""
    if device.type == "cuda":
        inputs = _inputs(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _call(FORMULATIONS[name], mode, inputs)
        return torch.cuda.max_memory_allocated(device) - before
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=_measure_peak, args=(name, mode, queue))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise InputError(f"measuring the memory of {name} failed; is there enough of it free?")
    return queue.get()


def _measure_peak(name: str, mode: str, queue: multiprocessing.SimpleQueue) -> None:
    inputs = _inputs(torch.device("cpu"))
    small = tuple(maps.detach()[:, :, :8, :8].requires_grad_() for maps in inputs)
    _call(FORMULATIONS[name], mode, small)  # loads libraries, starts threads
    before = _peak_resident()
    _call(FORMULATIONS[name], mode, inputs)
    queue.put(_peak_resident() - before)


def _peak_resident() -> int:
    """The most memory this process ever held, in bytes."""
    if sys.platform == "linux":
        # Not getrusage: there, a child starts from its parent's peak.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
