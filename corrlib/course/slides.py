"""The lessons as presentations, with reveal.js.

What is on the slides follows from the lessons: a section is a column of slides, a subsection, a
code cell or a figure starts a new one. Where that is more than fits, ``slides.js`` breaks it in the
browser, which alone knows how large text is. Solutions are left out, and so are the checks and
everything that only prepares; code is shown where it is short enough to be read from the back.
"""

from __future__ import annotations

import ast
import base64
import html
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import sphinx_revealjs
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from corrlib.attention_page import lesson_page
from corrlib.course import ROOT, fresh_folder, lessons
from corrlib.course.mathematics import FONTS, mathml
from corrlib.course.pages import (
    EXPLORER,
    LIVE,
    alternative,
    open_answers,
    read_lesson,
    tags,
    without_colab,
)

LONGEST_CODE = 16  # lines that a slide shows of a cell
REVEAL = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"
REVEAL_FILES = ("LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js")
OWN_FILES = ("slides.css", "slides.js")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="reveal/reset.css">
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="slides.css">
<style>math {{ font-family: {fonts}; }}
{code_style}</style></head><body>
<div class="reveal"><div class="slides">
{columns}
</div></div>
<script src="reveal/reveal.js"></script>
<script src="slides.js"></script>
</body></html>
"""
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Slides</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="slides.css"></head><body class="index">
<h1>Slides</h1>
<ul>
{links}
</ul>
<p>Space goes on, Shift and space back; the arrow keys left and right go from section to section.
Escape shows all slides, F fills the screen, a dot blackens it. To print, open a page with
<code>?print-pdf</code> behind its name. The <a href="{explorer}">attention explorer</a> alone.</p>
</body></html>
"""
_EXPLORER = f"""<iframe class="explorer" data-src="{EXPLORER}" title="Attention explorer: choose a
cell of one frame and see where it looks in another"></iframe>"""


def slides(
    out: str | Path, *, root: Path = ROOT, report: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Write a page of slides for every lesson, and ``index.html`` with links to them.

    Returns:
        The pages, the index first.
    """
    with fresh_folder(out) as folder:
        links = []
        for path in lessons(root):
            columns = list(_columns(read_lesson(path)))
            (folder / f"{path.stem}.html").write_text(_page(columns), encoding="utf-8")
            title = _words(columns[0][0][0])
            links.append(f'<li><a href="{path.stem}.html">{title}</a></li>')
            report(f"{path.stem}: {len(columns)} sections")
        index = _INDEX.format(links="\n".join(links), explorer=EXPLORER)
        (folder / "index.html").write_text(index, encoding="utf-8")
        (folder / EXPLORER).write_text(lesson_page(), encoding="utf-8")
        (folder / "reveal").mkdir()
        for name in REVEAL_FILES:
            shutil.copy(REVEAL / name, folder / "reveal")
        for name in OWN_FILES:
            shutil.copy(Path(__file__).parent / name, folder)
    return [Path(out) / name for name in ["index.html", *(f"{p.stem}.html" for p in lessons(root))]]


def _page(columns: list[list[list[str]]]) -> str:
    def slide(blocks: list[str]) -> str:
        return "<section>" + "\n".join(blocks) + "</section>"

    def column(parts: list[list[str]]) -> str:
        return "<section>" + "\n".join(slide(blocks) for blocks in parts if blocks) + "</section>"

    return _PAGE.format(
        title=_words(columns[0][0][0]),
        fonts=FONTS,
        code_style=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
        columns="\n".join(column(parts) for parts in columns),
    )


def _columns(notebook: nbformat.NotebookNode) -> Iterator[list[list[str]]]:
    """Columns of slides of blocks of HTML."""
    column: list[list[str]] = []
    for starts, blocks in _slides(notebook):
        if starts == "column" and column:
            yield column
            column = []
        if not column or (starts == "slide" and not all(map(_is_heading, column[-1]))):
            column.append([])
        column[-1].extend(blocks)
    yield column


def _is_heading(block: str) -> bool:
    return block.startswith(("<h1", "<h2", "<h3"))


def _slides(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, list[str]]]:
    """What comes one after the other: what it starts (a column, a slide, nothing), its blocks."""
    after_stub = False
    for cell in notebook.cells:
        if "solution" in tags(cell) or "google.colab" in cell.source:
            continue
        if cell.cell_type == "markdown":
            yield from _text(cell.source)
        elif "raise NotImplementedError" in cell.source:
            yield "nothing", [_code(cell.source)]
            yield "slide", []
            after_stub = True
        elif after_stub:  # the check
            after_stub = False
        elif "profiles.current()" not in cell.source:
            yield from _cell(cell)


def _text(source: str) -> Iterator[tuple[str, list[str]]]:
    for block in blocks(open_answers(without_colab(source))):
        level = re.match(r"<h([1-6])", block)
        starts = "nothing" if not level else "column" if int(level[1]) <= 2 else "slide"
        if not block.startswith("<table") or "<th>laptop" not in block:
            yield starts, [block]


def _cell(cell: nbformat.NotebookNode) -> Iterator[tuple[str, list[str]]]:
    yield "slide", []
    source = _without_show(cell.source)
    code = LIVE not in tags(cell) and 0 < len(source.splitlines()) <= LONGEST_CODE
    if code:
        yield "nothing", [_code(source)]
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            yield "nothing", [f"<pre class='printed'>{html.escape(output.text)}</pre>"]
        elif "image/png" in data:
            figure = _figure(data["image/png"], alternative(output))
            yield "slide" if code else "nothing", [figure]
        elif "text/markdown" in data:
            yield "slide" if code else "nothing", blocks(data["text/markdown"])
        elif "text/html" in data and not data["text/html"].startswith("<details"):
            yield "nothing", [data["text/html"]]
    if LIVE in tags(cell):
        yield "slide", [_EXPLORER]


def blocks(source: str) -> list[str]:
    """The paragraphs, lists, tables and formulas of Markdown, each as HTML; a fold is one."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.use(dollarmath_plugin, renderer=lambda latex, how: mathml(latex, how["display_mode"]))
    markdown.add_render_rule("link_open", _link)
    found, folded = [], 0
    for node in SyntaxTreeNode(markdown.parse(source)).children:
        rendered = markdown.renderer.render(node.to_tokens(), markdown.options, {})
        rendered = rendered.replace("<p><strong>Predict", "<p class='predict'><strong>Predict")
        if folded:
            found[-1] += rendered
        else:
            found.append(rendered)
        folded += rendered.count("<details") - rendered.count("</details>")
    return found


def _link(renderer, tokens, index, options, environment) -> str:
    """Links to lessons lead to their slides; to other files of the course, nowhere."""
    target = tokens[index].attrs["href"]
    if re.match(r"\d\d_\w+\.ipynb", target):
        tokens[index].attrs["href"] = target.replace(".ipynb", ".html")
    elif not re.match(r"https?:|#", target):
        del tokens[index].attrs["href"]
    return renderer.renderToken(tokens, index, options, environment)


def _without_show(source: str) -> str:
    """Code without the statement at its end that shows a figure: it says what is seen anyway."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # the magic of a notebook
        return source
    if statements and "views.show" in ast.unparse(statements[-1]):
        return "\n".join(source.splitlines()[: statements[-1].lineno - 1]).rstrip()
    return source


def _code(source: str) -> str:
    return highlight(source, PythonLexer(), HtmlFormatter())


def _figure(png: str, words: str) -> str:
    data = "".join(png.split())
    width, height = struct.unpack(">II", base64.b64decode(data[:44])[16:24])  # of the first chunk
    return (
        f'<img class="figure" width="{width}" height="{height}" alt="{html.escape(words)}" '
        f'src="data:image/png;base64,{data}">'
    )


def _words(block: str) -> str:
    return re.sub(r"<[^>]+>", "", block).strip()
