"""``corrlib doctor``."""

from __future__ import annotations

import argparse

from corrlib.cli.options import command


def add(commands) -> None:
    command(
        commands,
        "doctor",
        _doctor,
        "check that everything the course needs is there",
        "corrlib doctor",
    )


def _doctor(options: argparse.Namespace) -> int:
    from corrlib import doctor

    return 0 if doctor.run(print, options.json) else 1
