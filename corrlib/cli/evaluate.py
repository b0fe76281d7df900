"""``corrlib evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from corrlib.cli.options import (
    command,
    davis_options,
    group,
    method,
    method_options,
    percent,
    propagation_config,
    settings,
    write_json,
)


def add(commands) -> None:
    evaluate = command(
        group(commands, "evaluate", "propagate and score"),
        "davis",
        _davis,
        "propagate the first masks of DAVIS and score J and F",
        "corrlib evaluate davis --root DAVIS --baseline colour-patch",
    )
    davis_options(evaluate)
    evaluate.add_argument("--masks-out", type=Path, metavar="DIR", help="write indexed PNGs")
    evaluate.add_argument(
        "--resume", action="store_true", help="score sequences already in --masks-out from there"
    )
    method_options(evaluate)


def _davis(options: argparse.Namespace) -> int:
    from corrlib.datasets import davis
    from corrlib.evaluation import evaluate

    config = propagation_config(options)
    names = options.sequences.split(",") if options.sequences else None
    sequences = davis(options.root, options.split, options.year, names)
    propagated, _ = method(options, config)
    print(f"{'sequence':22}     J     F   J&F  s/frame")

    def show(name: str, figure: dict) -> None:
        seconds = figure["seconds_per_frame"]
        pace = "from files" if seconds is None else f"{seconds:8.3f}"
        print(f"{name:22} {percent(figure)} {pace}", flush=True)

    figure = evaluate(sequences, propagated, options.masks_out, options.resume, show)
    print(f"{f'mean of {len(sequences)}':22} {percent(figure)}")
    write_json(options.json, figure | {"settings": settings(options, config)})
    return 0
