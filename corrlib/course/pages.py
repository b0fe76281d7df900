"""What handout, slides and site have in common: reading lessons, their links and pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat

from corrlib.errors import InputError

EXPLORER = "explorer.html"  # the page of the attention explorer
LIVE = "attention-explorer"  # the tag of the cells whose widget that page stands for

_COLAB = re.compile(r"\[[^\]]*\]\(https://colab\.[^)\s]+\)")
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
_OTHER_HOST = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)


def read_lesson(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # whatever nbformat meets in a file that is no notebook
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"expected a notebook in {path}, it cannot be read ({reason}); restore the file"
        ) from error


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def without_colab(text: str) -> str:
    """Markdown without the link that opens the lesson on Colab."""
    return _COLAB.sub("", text)


def open_answers(text: str) -> str:
    """Markdown whose folded answers are Markdown as well, so that formulas in them are drawn."""
    return re.sub(r"(</summary>)\n(?!\n)|(?<!\n)\n(</details>)", r"\1\n\n\2", text)


def lesson_texts(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def alternative(output) -> str:
    """The words for those who do not see a picture that a cell put out."""
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def local_links(texts: Iterable[str]) -> set[str]:
    """Paths that Markdown links to."""
    found = {target for text in texts for target in _LINK.findall(text)}
    return {target for target in found if not _OTHER_HOST.match(target)}


def copy_linked(texts: Iterable[str], folder: Path, root: Path, destination: Path) -> None:
    """Copy the files of ``root`` that Markdown of its folder ``folder`` links to, and what those
    link to in turn, to the same places in ``destination``. What is there already stays."""
    for target in sorted(local_links(texts)):
        source = (folder / target).resolve()
        if not source.is_relative_to(root.resolve()):
            raise InputError(f"expected links inside the course, {folder} has {target!r}; mend it")
        copy = destination / source.relative_to(root.resolve())
        if copy.exists() or not source.is_file():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        if source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            copy_linked([text], source.parent, root, destination)
