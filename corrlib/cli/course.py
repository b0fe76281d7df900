"""``corrlib course handout``, ``slides``, ``site``, ``colab`` and ``timing``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from corrlib.cli.options import command, group, say, write_json
from corrlib.errors import InputError


def add(commands) -> None:
    what = group(
        commands, "course", "publish the course: for a class, a projector, the web, a fork"
    )
    for name, run, summary in (
        ("handout", _handout, "write the lessons without solutions and outputs"),
        ("slides", _slides, "write the lessons as slides"),
        ("site", _site, "write the course as pages with search, from the saved outputs"),
    ):
        added = command(what, name, run, summary, f"corrlib course {name} --out outputs/{name}")
        added.add_argument("--out", type=Path, default=Path("outputs") / name, metavar="DIR")
    colab = command(
        what,
        "colab",
        _colab,
        "let links to Colab and first cells of the lessons lead to a fork on GitHub",
        "corrlib course colab somebody/video-correspondence-course",
    )
    colab.add_argument("repository", metavar="OWNER/NAME")
    command(
        what,
        "timing",
        _timing,
        "run all lessons, time them, and write the times where they are told",
        "corrlib course timing",
    )


def _tool(name: str):
    """A module of corrlib.course; what those import comes with ``make setup`` only."""
    try:
        return importlib.import_module(f"corrlib.course.{name}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"expected the packages that make setup installs, {error.name} is missing; run it"
        ) from error


def _handout(options: argparse.Namespace) -> int:
    written = _tool("handout").handout(options.out, report=say)
    return _done(options, f"{len(written)} notebooks in {options.out / 'notebooks'}", len(written))


def _slides(options: argparse.Namespace) -> int:
    written = _tool("slides").slides(options.out, report=say)
    return _done(options, f"open {written[0]}", len(written))


def _site(options: argparse.Namespace) -> int:
    warnings = _tool("site").site(options.out, report=say)
    write_json(options.json, {"out": str(options.out), "warnings": warnings})
    say(f"open {options.out / 'index.html'}")
    return 0


def _done(options: argparse.Namespace, text: str, files: int) -> int:
    write_json(options.json, {"out": str(options.out), "files": files})
    say(text)
    return 0


def _colab(options: argparse.Namespace) -> int:
    from corrlib import __version__

    fork = _tool("fork")
    changed = fork.point_to(options.repository, report=say)
    write_json(options.json, {"repository": options.repository, "changed": len(changed)})
    say(
        f"{len(changed)} files changed. Colab fetches the tag v{__version__}: push it, too, "
        "with the changes in it."
        if changed
        else f"everything leads to {options.repository} already"
    )
    return 0


def _timing(options: argparse.Namespace) -> int:
    timing = _tool("timing")
    measured = timing.measure(report=say)
    changed = timing.write(measured)
    write_json(options.json, measured)
    say(f"{sum(measured['seconds'].values()) / 60:.0f} minutes; {len(changed)} files changed")
    return 0
