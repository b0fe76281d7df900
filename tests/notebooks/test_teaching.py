"""The teacher's page adds up, and leads where it says."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "notebooks"
PAGE = FOLDER / "teaching.md"
NOTEBOOKS = {path.stem[:2]: path for path in sorted(FOLDER.glob("*.ipynb"))}
PAGES = sorted(FOLDER.glob("*.md"))


def part(heading: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found


@cache
def markdown(number: str) -> str:
    cells = json.loads(NOTEBOOKS[number].read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def study(number: str) -> int:
    """Minutes for reading and exercises that the lesson itself states."""
    return int(re.search(r"^\| reading and exercises \| (\d+) min", markdown(number), re.M)[1])


def test_one_session_is_90_minutes_and_its_core_50():
    found = re.findall(
        r"^\| (\d+)( ★)? \| .* \| \[(\d\d)\]", part("One session of 90 minutes"), re.M
    )
    assert sum(int(minutes) for minutes, _, _ in found) == 90
    assert sum(int(minutes) for minutes, star, _ in found if star) == 50
    for number in NOTEBOOKS:
        assert sum(int(minutes) for minutes, _, which in found if which == number) <= study(number)


def test_four_sessions_are_90_minutes_each_and_use_up_every_lesson():
    found = re.findall(
        r"^\| (\d) \| \[(\d\d)\][^|]*\| (\d+) \| (\d+) \|",
        part("Four sessions of 90 minutes"),
        re.M,
    )
    for session in "1234":
        assert sum(int(there) for which, _, there, _ in found if which == session) == 90
    assert [number for _, number, _, _ in found] == list(NOTEBOOKS)
    for _, number, there, home in found:
        assert int(there) + int(home) == study(number)


def test_the_full_course_has_every_lesson_once_with_its_minutes():
    lessons = []
    for week in re.findall(r"^\| \d+ \| (.*\[\d\d\].*)$", part("The full course"), re.M):
        numbers = re.findall(r"\[(\d\d)\]\(", week)
        minutes = int(week.split("|")[1])
        assert minutes == sum(study(number) for number in numbers)
        lessons += numbers
    assert lessons == list(NOTEBOOKS)


def test_there_is_an_answer_for_every_lesson():
    numbers = re.findall(r"^\| \[(\d\d)\]", part("Answers to expect"), re.M)
    assert sorted(set(numbers)) == list(NOTEBOOKS)
    for number in NOTEBOOKS:
        assert "**Predict" in markdown(number)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"https?:|#", target):
            assert (path.parent / target.split("#")[0]).exists(), target


def test_sections_that_are_named_exist():
    """Where a row is about one lesson, the sections it names are that lesson's."""
    for heading in ("One session of 90 minutes", "Four sessions of 90 minutes"):
        for line in part(heading).splitlines():
            numbers = set(re.findall(r"\[(\d\d)\]\(", line))
            if line.startswith("|") and len(numbers) == 1:
                (number,) = numbers
                for which in re.findall(r"[Ss]ections? (\d+)(?: and (\d+))?", line):
                    for section in filter(None, which):
                        assert re.search(rf"^## {section} ", markdown(number), re.M), line


def test_the_folder_holds_lessons_and_pages_only():
    """No lesson leaves a file beside itself that another could come to rely on."""
    known = {*NOTEBOOKS.values(), *PAGES, FOLDER / ".ipynb_checkpoints", FOLDER / "__pycache__"}
    assert {path.name for path in PAGES} == {"glossary.md", "teaching.md"}
    assert set(FOLDER.iterdir()) <= known
