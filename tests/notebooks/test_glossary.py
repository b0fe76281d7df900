"""The glossary agrees with the lessons: what it says is explained there, is."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "notebooks"
GLOSSARY = FOLDER / "glossary.md"
LESSON = re.compile(r"\[(\d\d)\]\((\d\d_[a-z0-9_]+\.ipynb)\)")


def parts() -> dict[str, str]:
    """The text below each heading of the second level."""
    found = re.split(r"^## (.+)$", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def rows(part: str) -> list[list[str]]:
    """The cells of every row of a part's tables, without their heads."""
    lines = [line for line in parts()[part].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [index for index, row in enumerate(cells) if set("".join(row)) <= set("-")]
    heads = {index - 1 for index in rules} | set(rules)
    return [row for index, row in enumerate(cells) if index not in heads]


def lesson(cell: str) -> Path:
    number, name = LESSON.fullmatch(cell).groups()
    assert name.startswith(number)
    assert (FOLDER / name).exists(), name
    return FOLDER / name


@cache
def written(path: Path, kind: str | None = None) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if kind in (None, c["cell_type"]))


TERMS = rows("Terms")
SYMBOLS = rows("Symbols")
REASONS = rows("Why each line of the losses is there")


def test_terms_are_sorted_and_said_once():
    terms = [row[0].lower() for row in TERMS]
    assert terms == sorted(terms)
    assert len(set(terms)) == len(terms) >= 50


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row[0])
def test_a_term_occurs_in_its_lesson(row):
    term, meaning, where = row
    assert meaning.endswith((".", ")"))
    assert term.lower() in written(lesson(where), "markdown").lower()


@pytest.mark.parametrize("row", SYMBOLS, ids=lambda row: row[0])
def test_a_symbol_occurs_in_its_lesson_with_its_name_in_code(row):
    symbol, meaning, shape, code, where = row
    assert re.fullmatch(r"\$[^$]+\$", symbol)
    # In the lesson an index may be followed by more: $z_{(r,i)\,j}$.
    core = re.sub(r"j}$", "", symbol.strip("$"))
    assert core in written(lesson(where), "markdown")
    assert re.fullmatch(r"`[^`]+`", code)
    assert code.strip("`") in written(lesson(where))
    assert meaning and shape


def test_a_symbol_has_one_row():
    symbols = [row[0] for row in SYMBOLS]
    assert len(set(symbols)) == len(symbols)


def test_symbols_are_in_the_order_of_the_lessons():
    numbers = [lesson(row[-1]).stem[:2] for row in SYMBOLS]
    assert numbers == sorted(numbers)


def test_every_lesson_links_to_the_glossary_and_is_linked_from_it():
    text = GLOSSARY.read_text(encoding="utf-8")
    for path in sorted(FOLDER.glob("*.ipynb")):
        assert "](glossary.md)" in written(path, "markdown"), path.name
        assert f"]({path.name})" in text, path.name


def test_every_part_of_either_loss_has_its_reason_and_its_lesson():
    methods = {"06": range(1, 7), "09": range(7, 10)}
    named = {number: set() for number in methods}
    for term, reason, where in REASONS:
        assert term and reason
        number = lesson(where).stem[:2]
        named["06" if int(number) <= 6 else "09"].add(int(number))
    for number, lessons in methods.items():
        assert named[number] == set(lessons)
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        text = written(path, "markdown")
        (part,) = re.findall(
            r"^### [^\n]* loss, line by line$.*?(?=^#)", text, flags=re.MULTILINE | re.DOTALL
        )
        # The lesson gives the whole formula, and a reason in every line.
        assert part.count("$$") == 2
        lines = [line for line in part.splitlines() if line.startswith("|")][2:]
        assert len(lines) >= 10
        assert all(re.search(rf"\|[^|]+\|[^|]+\| (?:\[\d\d\]|{number})", line) for line in lines)
