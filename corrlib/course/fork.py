"""Where the lessons are fetched from on Colab, and how a fork says that it is somewhere else.

The address stands in every notebook twice, in the link to Colab and in the first cell, which
clones the course there. Both are text in the file, so a change touches nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from corrlib.course import ROOT, lessons
from corrlib.errors import InputError
from corrlib.files import atomic_path

# What GitHub allows: an owner of up to 39 letters, digits and inner hyphens; a repository's name
# of up to 100 letters, digits, dots, hyphens and underscores.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?/[\w.-]{1,100}", re.ASCII)
_ADDRESS = re.compile(
    r"(?P<before>colab\.research\.google\.com/github/|git clone [^\n;|&\"]*https://github\.com/)"
    r"(?P<name>[\w.-]+/[\w.-]+)"
)


def current(root: Path = ROOT) -> str:
    """``owner/name`` of the repository that the first lesson clones on Colab."""
    first = lessons(root)[0]
    for found in _ADDRESS.finditer(first.read_text(encoding="utf-8")):
        if found["before"].startswith("git clone"):
            return found["name"]
    raise InputError(f"expected {first} to clone the course on Colab; restore its first cell")


def point_to(
    repository: str, *, root: Path = ROOT, report: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Let links to Colab and first cells of all lessons, and links elsewhere, lead to a repository.

    Args:
        repository: ``owner/name`` on GitHub.

    Returns:
        The files that were changed.

    Raises:
        InputError: a name that GitHub would not allow; nothing is changed.
    """
    _, _, name = repository.partition("/")
    if not _NAME.fullmatch(repository) or name in (".", "..") or name.endswith(".git"):
        raise InputError(
            f"expected REPO as owner/name of a repository on GitHub, got {repository!r}; "
            f"it is {current(root)} now"
        )
    pages = [*lessons(root), *sorted((root / "notebooks").glob("*.md")), root / "README.md"]
    changed = []
    for page in pages:
        old = page.read_bytes().decode("utf-8")
        new = _ADDRESS.sub(lambda found: found["before"] + repository, old)
        if new != old:
            with atomic_path(page) as temporary:
                temporary.write_bytes(new.encode("utf-8"))
            changed.append(page)
            report(f"{page.relative_to(root)} leads to {repository}")
    return changed
