"""``corrlib fetch``."""

from __future__ import annotations

import argparse
from pathlib import Path

from corrlib.cli.options import command, say, write_json


def add(commands) -> None:
    fetch = command(
        commands,
        "fetch",
        _fetch,
        "download a data set, verified, from where it broke off",
        "corrlib fetch davis-2017 --root datasets",
    )
    fetch.add_argument(
        "name", metavar="NAME", help="davis-2017; others say where they are to be had"
    )
    fetch.add_argument(
        "--root",
        type=Path,
        default=Path("datasets"),
        metavar="DIR",
        help="folder that holds the data sets' own folders (default: datasets)",
    )


def _fetch(options: argparse.Namespace) -> int:
    from corrlib.fetch import fetch

    folder = fetch(options.name, options.root, say)
    say(f"{options.name}: {folder}")
    write_json(options.json, {"name": options.name, "folder": str(folder)})
    return 0
