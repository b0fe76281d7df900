"""The lessons as a class gets them: exercises and checks, no solutions, no outputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

from corrlib.course import ROOT, fresh_folder, lessons
from corrlib.course.pages import copy_linked, lesson_texts, read_lesson, without_colab

# The teacher's page has answers; its name stays where a lesson mentions it, as plain text.
_TEACHING = re.compile(r"\[([^\]]+)\]\(teaching\.md[^)]*\)")


def handout(
    out: str | Path, *, root: Path = ROOT, report: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Write every lesson without solutions and outputs, and the files it links to.

    The folder has the layout of the course. The links to Colab are left out: they lead to the
    lessons with solutions. So is the teacher's page.

    Returns:
        The notebooks written.
    """
    names = []
    with fresh_folder(out) as folder:
        for path in lessons(root):
            notebook = without_answers(read_lesson(path))
            copy = folder / path.relative_to(root)
            copy.parent.mkdir(exist_ok=True)
            nbformat.write(notebook, copy)
            names.append(copy.relative_to(folder))
            report(f"{path.stem}: {_exercises(notebook)} exercises")
        for name in names:
            texts = lesson_texts(read_lesson(folder / name))
            copy_linked(texts, root / "notebooks", root, folder)
    return [Path(out) / name for name in names]


def without_answers(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A lesson without the cells tagged ``solution`` and without outputs; ids stay."""
    for step in (TagRemovePreprocessor(remove_cell_tags={"solution"}), ClearOutputPreprocessor()):
        notebook, _ = step.preprocess(notebook, {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _TEACHING.sub(r"\1", without_colab(cell.source)).rstrip()
    return notebook


def _exercises(notebook: nbformat.NotebookNode) -> int:
    return sum("raise NotImplementedError" in cell.source for cell in notebook.cells)
