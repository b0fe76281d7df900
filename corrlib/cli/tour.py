"""``corrlib tour``."""

from __future__ import annotations

import argparse
from pathlib import Path

from corrlib.cli.options import command, device_options, say, write_json


def add(commands) -> None:
    tour = command(
        commands,
        "tour",
        _tour,
        "train on the shipped clips and carry a mask through one of them",
        "corrlib tour --out outputs/tour",
    )
    tour.add_argument("--out", type=Path, default=Path("outputs/tour"), metavar="DIR")
    tour.add_argument("--seeds", type=int, default=3, help="models to train (default: 3)")
    tour.add_argument(
        "--minutes", type=float, default=2.5, help="of training, all seeds together (default: 2.5)"
    )
    device_options(tour)


def _tour(options: argparse.Namespace) -> int:
    from corrlib.tour import tour

    figures = tour(
        options.out,
        seeds=options.seeds,
        minutes=options.minutes,
        device=options.device,
        precision=options.precision,
        report=say,
    )
    write_json(options.json, figures)
    return 0
