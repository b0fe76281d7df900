"""The course as pages: the lessons with their outputs, searchable, readable from a folder."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
from sphinx.application import Sphinx
from sphinx.util.console import nocolor
from sphinx.util.docutils import docutils_namespace, patch_docutils

from corrlib.attention_page import lesson_page
from corrlib.course import ROOT, fresh_folder, lessons
from corrlib.course.mathematics import FONTS
from corrlib.course.pages import (
    EXPLORER,
    LIVE,
    alternative,
    copy_linked,
    lesson_texts,
    open_answers,
    read_lesson,
    tags,
)

WIDGET = "application/vnd.jupyter.widget-view+json"
TITLE = "Video correspondence without labels"
FIRST = "README"

_STYLE = f"""
math {{ font-family: {FONTS}; }}
.formula {{ overflow-x: auto; margin: 1rem 0; }}
.formula math {{ font-size: 1.1em; }}
.cell_output img {{ background: #fff; border-radius: .3rem; }}
.explorer {{ width: 100%; height: 72rem; border: 1px solid var(--color-background-border); }}
body[data-theme="dark"] .explorer {{ color-scheme: dark; }}
body[data-theme="light"] .explorer {{ color-scheme: light; }}
table.docutils {{ font-size: .9em; }}
.content {{ width: 54em; }}
.content pre {{ font-size: 81.25%; }}
"""

_FRAME = f"""
<iframe class="explorer" src="../{EXPLORER}" title="Attention explorer: choose a cell of one frame
and see where it looks in another" loading="lazy"></iframe>
<p><a href="../{EXPLORER}">Open the explorer alone</a></p>
"""

_CONTENTS = """
```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""

_SETTINGS = {
    "project": TITLE,
    "html_title": TITLE,
    "language": "en",
    "extensions": ["myst_nb", "corrlib.course.mathematics"],
    "html_math_renderer": "mathml",
    "root_doc": FIRST,
    "html_theme": "furo",
    "html_static_path": ["_static"],
    "html_css_files": ["course.css"],
    "html_extra_path": [EXPLORER],
    "html_copy_source": False,
    "html_show_sphinx": False,
    "html_show_copyright": False,
    # A page of a folder may not read the page that a hit is on.
    "html_show_search_summary": False,
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 4,
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},
    "nb_render_markdown_format": "myst",
}


def site(
    out: str | Path, *, root: Path = ROOT, report: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Write the pages; nothing is executed. The one to open is ``index.html``.

    The README comes first, then the lessons, and what they and it link to. Solutions are folded.
    Widgets need a kernel: figures stand in their place, and for the attention explorer a page of
    its own, which computes in the browser.

    Returns:
        Sphinx's warnings, such as a link that leads nowhere.
    """
    with fresh_folder(out) as folder, tempfile.TemporaryDirectory() as work:
        sources = Path(work) / "sources"
        _write_sources(root, sources)
        warnings = _build(sources, folder, Path(work) / "doctrees", report)
        shutil.copyfile(folder / f"{FIRST}.html", folder / "index.html")
    for warning in warnings:
        report(f"warning: {warning}")
    return warnings


def _write_sources(root: Path, sources: Path) -> None:
    """The pages' sources, where they are in the course."""
    (sources / "notebooks").mkdir(parents=True)
    for path in lessons(root):
        notebook = page(read_lesson(path))
        nbformat.write(notebook, sources / path.relative_to(root))
        copy_linked(lesson_texts(notebook), path.parent, root, sources)
    first = f"{FIRST}.md"
    beside = [f"[]({path.name})" for path in sorted((root / "notebooks").glob("*.md"))]
    copy_linked(beside, root / "notebooks", root, sources)
    copy_linked([f"[]({first})"], root, root, sources)

    pages = [path.relative_to(sources).as_posix() for path in sorted(sources.rglob("*.[mi][dp]*"))]
    kinds = {"Lessons": [name for name in pages if name.endswith(".ipynb")]}
    kinds["Beside the lessons"] = [
        name for name in pages if name.endswith(".md") and name.startswith("notebooks/")
    ]
    kinds["More"] = [name for name in pages if not name.startswith("notebooks/") and name != first]
    with (sources / first).open("a", encoding="utf-8") as file:
        for caption, names in kinds.items():
            file.write(_CONTENTS.format(caption=caption, pages="\n".join(names)))

    (sources / "_static").mkdir()
    (sources / "_static" / "course.css").write_text(_STYLE, encoding="utf-8")
    (sources / EXPLORER).write_text(lesson_page(), encoding="utf-8")


def page(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A lesson as its page wants it."""
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = open_answers(cell.source)
            continue
        if "solution" in tags(cell):
            _fold(cell, "the solution")
        if cell is first:
            _fold(cell, "the cell that fetches the course on Colab")
        for output in cell.outputs:
            if alternative(output):
                cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alternative(output)}
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        if LIVE in tags(cell):
            html = {"text/html": _FRAME, "text/plain": ""}
            cell.outputs.append(nbformat.v4.new_output("display_data", html))
    return notebook


def _fold(cell: nbformat.NotebookNode, what: str) -> None:
    cell.metadata.tags = [*tags(cell), "hide-cell"]
    prompts = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
    cell.metadata.setdefault("mystnb", {}).update(prompts)


def _build(sources: Path, folder: Path, doctrees: Path, report: Callable[[str], None]) -> list[str]:
    nocolor()
    warnings = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            sources,
            None,
            folder,
            doctrees,
            "html",
            confoverrides=_SETTINGS,
            status=None,
            warning=warnings,
        )
        app.connect("source-read", lambda app, name, text: report(f"reading {name}"))
        app.build()
    shown = (line.replace(f"{sources}/", "") for line in warnings.getvalue().splitlines())
    return [line for line in shown if line.strip()]
