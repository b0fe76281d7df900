"""``corrlib bench``."""

from __future__ import annotations

import argparse

from corrlib.cli.options import command, device_options, group, write_json


def add(commands) -> None:
    bench = command(
        group(commands, "bench", "measure speed and memory"),
        "affinity",
        _affinity,
        "restricted affinity against dense and unfold formulations",
        "corrlib bench affinity",
    )
    bench.add_argument("--rounds", type=int, default=5, help="interleaved repetitions (default: 5)")
    device_options(bench, precision=False)


def _affinity(options: argparse.Namespace) -> int:
    from corrlib.bench import bench_affinity
    from corrlib.device import choose_device

    write_json(options.json, bench_affinity(choose_device(options.device), options.rounds, print))
    return 0
