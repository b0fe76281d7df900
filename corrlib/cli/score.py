"""``corrlib score``."""

from __future__ import annotations

import argparse
from pathlib import Path

from corrlib.cli.options import command, davis_options, group, percent, write_json


def add(commands) -> None:
    score = command(
        group(commands, "score", "score results"),
        "davis",
        _davis,
        "score masks that any method wrote",
        "corrlib score davis --root DAVIS --results masks/",
    )
    davis_options(score)
    score.add_argument("--results", type=Path, required=True, metavar="DIR")


def _davis(options: argparse.Namespace) -> int:
    from corrlib.datasets import davis
    from corrlib.metrics import score_folder

    sequences = davis(options.root, options.split, options.year, options.sequences)
    figure = score_folder(
        {sequence.name: list(sequence.masks.values()) for sequence in sequences},
        options.results,
        merge_objects=all(sequence.binary for sequence in sequences),
    )
    print(f"{'sequence':22}     J     F   J&F")
    for name, one in figure["sequences"].items():
        print(f"{name:22} {percent(one)}")
    print(f"{f'mean of {len(sequences)}':22} {percent(figure)}")
    write_json(options.json, figure)
    return 0
