"""How long the lessons take to run: measured, kept in a file, and told where students look."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from corrlib.course import ROOT, lessons
from corrlib.course.pages import read_lesson
from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.profiles import VARIABLE

FILE = Path("data") / "results" / "timing.json"
PROFILE = "laptop"
LONGEST_CELL = 1800  # seconds

# The last cell of a lesson's row in the table of README.md, and the laptop's cell in a lesson.
_README_ROW = re.compile(r"(^\| \d\d \| \[[^\]]*\]\(notebooks/(\w+)\.ipynb\) \|.*\| )[^|\n]*( \|)$")
_LESSON_ROW = re.compile(r"(\| running every cell \| )[^|\n]*( \|)")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def measure(
    *, root: Path = ROOT, report: Callable[[str], None] = lambda text: None
) -> Mapping[str, object]:
    """Run every lesson from a fresh kernel, in the ``laptop`` profile, and time it.

    The notebooks stay as they are. Nothing else should compute meanwhile.

    Returns:
        What :data:`FILE` holds: ``seconds`` by lesson, and what they were measured with.
    """
    seconds = {}
    for path in lessons(root):
        started = time.monotonic()
        _run(path)
        seconds[path.stem] = round(time.monotonic() - started, 1)
        report(f"{path.stem}: {seconds[path.stem]:.0f} s")
    return {
        "profile": PROFILE,
        "date": date.today().isoformat(),
        "cores": _cores(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "seconds": seconds,
    }


def _run(path: Path) -> None:
    client = NotebookClient(
        read_lesson(path),
        timeout=LONGEST_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env={**os.environ, VARIABLE: PROFILE})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"expected {path.name} to run to its end, it stops: {reason}") from error


def _cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def write(timing: Mapping[str, object], root: Path = ROOT) -> list[Path]:
    """Keep a measurement and tell it: in README.md's table and in each lesson's own.

    Returns:
        The files that were changed.
    """
    pages = {root / FILE: json.dumps(timing, indent=1) + "\n"}
    readme = root / "README.md"
    pages[readme] = readme_with(_text(readme), timing)
    for path in lessons(root):
        pages[path] = lesson_with(_text(path), timing, path.stem)
    changed = [path for path, text in pages.items() if not path.exists() or _text(path) != text]
    for path in changed:
        with atomic_path(path) as temporary:
            temporary.write_bytes(pages[path].encode("utf-8"))
    return changed


def readme_with(text: str, timing: Mapping[str, object]) -> str:
    """The README's text with the minutes of each lesson in the last column of its row."""

    def row(line: str) -> str:
        found = _README_ROW.match(line)
        if not found or found[2] not in timing["seconds"]:
            return line
        return found[1] + _minutes(timing["seconds"][found[2]]) + found[3]

    return "\n".join(row(line) for line in text.split("\n"))


def lesson_with(text: str, timing: Mapping[str, object], lesson: str) -> str:
    """A notebook's file with the time of a lesson in its table of costs; the rest as it was."""
    if lesson not in timing["seconds"]:
        return text
    return _LESSON_ROW.sub(rf"\g<1>{duration(timing, lesson)}\g<2>", text, count=1)


def duration(timing: Mapping[str, object], lesson: str) -> str:
    """``20 seconds on two cores``."""
    seconds = timing["seconds"][lesson]
    cores = timing["cores"]
    count = _NUMBERS[cores] if cores < len(_NUMBERS) else str(cores)
    unit = "core" if cores == 1 else "cores"
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} seconds on {count} {unit}"
    return f"{_minutes(seconds)} minutes on {count} {unit}"


def _minutes(seconds: float) -> str:
    return f"{max(0.1, seconds / 60):.1f}".removesuffix(".0")


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")
