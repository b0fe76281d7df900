"""How long the lessons take: measured, kept, told."""

from __future__ import annotations

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from small_course import ROOT, make_course

from corrlib.course import lessons
from corrlib.course.timing import FILE, duration, lesson_with, measure, readme_with, write
from corrlib.errors import InputError

TIMING = {"cores": 2, "seconds": {"00_first": 17.2, "01_second": 131.0}}


def made_course(root, source: str):
    """Two lessons that run in an instant; the second runs ``source``."""
    make_course(root)
    for path, code in zip(lessons(root), ("x = 1", source), strict=True):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [c for c in notebook.cells if c.cell_type == "markdown"]
        notebook.cells.append(new_code_cell(code, id="only"))
        nbformat.write(notebook, path)
    return root


def test_lessons_run_where_they_are_in_the_laptop_profile(tmp_path):
    source = "import os, pathlib\nassert os.environ['CORRLIB_PROFILE'] == 'laptop'\n"
    source += "assert pathlib.Path('01_second.ipynb').exists()"
    root = made_course(tmp_path, source)
    before = [path.read_bytes() for path in lessons(root)]
    lines = []
    timing = measure(root=root, report=lines.append)
    assert list(timing["seconds"]) == ["00_first", "01_second"]
    assert all(0 < seconds < 60 for seconds in timing["seconds"].values())
    assert timing["cores"] >= 1 and timing["profile"] == "laptop" and timing["torch"]
    assert [line.split(":")[0] for line in lines] == ["00_first", "01_second"]
    assert [path.read_bytes() for path in lessons(root)] == before


def test_a_lesson_that_fails_is_named_in_one_line(tmp_path):
    root = made_course(tmp_path, "raise ValueError('a reason')")
    lessons(root)[0].unlink()
    with pytest.raises(InputError, match=r"01_second\.ipynb.*a reason") as failure:
        measure(root=root)
    assert len(str(failure.value).splitlines()) == 1


def test_times_are_kept_and_told(tmp_path):
    root = make_course(tmp_path)
    changed = write(TIMING, root)
    assert set(changed) == {root / FILE, root / "README.md", lessons(root)[1]}  # 00: as it was
    assert json.loads((root / FILE).read_text()) == TIMING
    readme = (root / "README.md").read_text()
    assert "| 00 | [First](notebooks/00_first.ipynb) | 40 | 0.3 |" in readme
    assert "| 01 | [Second](notebooks/01_second.ipynb) | 45 | 2.2 |" in readme
    first, second = (path.read_text() for path in lessons(root))
    assert "| running every cell | 15 seconds on two cores | not measured yet |" in first
    assert "| running every cell | 2.2 minutes on two cores | not measured yet |" in second
    for path in lessons(root):
        nbformat.validate(nbformat.read(path, as_version=4))
    assert write(TIMING, root) == []


def test_nothing_else_of_the_files_changes(tmp_path):
    for path in lessons():
        text = path.read_bytes().decode()
        timing = {"cores": 1, "seconds": {path.stem: 1000.0}}
        new = lesson_with(text, timing, path.stem)
        different = [
            (old, line)
            for old, line in zip(text.split("\n"), new.split("\n"), strict=True)
            if old != line
        ]
        assert len(different) == 1, path.stem
        assert "running every cell | 16.7 minutes on one core |" in different[0][1]
    text = (ROOT / "README.md").read_text()
    timing = {"seconds": {path.stem: 6000.0 for path in lessons()}}
    assert readme_with(text, timing).count("| 100 |") == len(lessons())


@pytest.mark.parametrize(
    ("seconds", "cores", "words"),
    [
        (0.2, 1, "5 seconds on one core"),
        (17.4, 2, "15 seconds on two cores"),
        (75, 2, "75 seconds on two cores"),
        (119.9, 8, "2 minutes on eight cores"),
        (95, 64, "1.6 minutes on 64 cores"),
    ],
)
def test_durations_are_said_as_exactly_as_they_repeat(seconds, cores, words):
    assert duration({"cores": cores, "seconds": {"x": seconds}}, "x") == words


def test_readme_and_lessons_tell_what_was_measured():
    timing = json.loads((ROOT / FILE).read_text())
    assert set(timing["seconds"]) == {path.stem for path in lessons()}
    readme = (ROOT / "README.md").read_text()
    assert readme_with(readme, timing) == readme
    for path in lessons():
        text = path.read_text(encoding="utf-8")
        assert lesson_with(text, timing, path.stem) == text
