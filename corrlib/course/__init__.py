"""What is made of the notebooks, their single source: ``corrlib course``.

    handout     the lessons without solutions and outputs, for a class
    slides      the lessons as presentations
    site        the lessons as pages to read, with search
    fork        the lessons pointing to somebody's own copy of the repository
    timing      how long the lessons take, measured

Everything is made offline, from files of the course and of the packages that ``make setup``
installs, and what is made asks no other machine for anything: no font, no script, no picture.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrlib.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MARK = ".made-by-corrlib"


def lessons(root: Path = ROOT) -> list[Path]:
    """The notebooks of the course whose folder is ``root``, in order."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"expected lessons in {root / 'notebooks'}, found none; clone the course")
    return found


@contextmanager
def fresh_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder; it becomes ``path`` when the block succeeds.

    What an earlier run left at ``path`` is replaced; anything else there is an error, and stays.
    """
    path = Path(path)
    if path.exists() and not (path / MARK).is_file() and not _empty_folder(path):
        raise InputError(
            f"expected a new folder, or one that this command made; {path} holds something else: "
            "choose another with --out"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
        new = Path(work) / "new"
        new.mkdir()
        yield new
        (new / MARK).touch()
        if path.exists():
            os.replace(path, Path(work) / "old")
        os.replace(new, path)


def _empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
