"""A small course of two lessons, for tests of what is made of the course."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
PIXEL = (  # a PNG of 1 x 1
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
BOOTSTRAP = (
    'import sys; "google.colab" in sys.modules and get_ipython().system("test -d course || git '
    "clone -q --depth 1 --branch v0.1.0 https://github.com/video-correspondence/"
    'video-correspondence-course course; pip install -q course")'
)
EXPLORER_PAGE = "<!doctype html><html lang='en'><title>Explorer</title><p id='live'>explorer</p>"

# What makes a browser ask for something; a link that a reader may follow is no request.
_TAGS = "link|script|img|iframe|source|video|audio|object|embed|use|image|track"
REQUEST = re.compile(
    rf"""<(?:{_TAGS})\b[^>]*?\s(?:href|src|srcset|data|data-src|poster)\s*=\s*["']?\s*(?:https?:)?//
    |url\(\s*["']?(?:https?:)?//
    |@import\s+["'](?:https?:)?//
    |\bimport\s*\(?\s*["'](?:https?:)?//
    |\b(?:fetch|importScripts|EventSource|WebSocket)\(\s*["'](?:https?:|wss?:)?//""",
    re.IGNORECASE | re.VERBOSE,
)


def requests_of(folder: Path) -> list[str]:
    """Addresses elsewhere that the pages in a folder load, as they stand in their text."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".js", ".css", ".svg"):
            text = path.read_text(encoding="utf-8")
            found += [f"{path.name}: {m[0]}" for m in REQUEST.finditer(text)]
    return found


def lesson(number: int, title: str, other: str) -> nbformat.NotebookNode:
    link = (
        "[Open in Colab]"
        "(https://colab.research.google.com/github/video-correspondence/"
        f"video-correspondence-course/blob/main/notebooks/{number:02d}_{title}.ipynb)"
    )
    figure = new_output(
        "display_data",
        {"image/png": PIXEL + "\n", "text/plain": "words"},
        metadata={"image/png": {"alt": "A single pixel, for whoever does not see it."}},
    )
    words = {"text/html": "<details><summary>Description of the figure</summary>A pixel</details>"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox()"}
    verdict = {"text/html": "<div>not written yet: twice is waiting</div>", "text/plain": "n"}
    cells = [
        new_markdown_cell(f"# {number:02d} · {title.title()}\n\nA promise.\n\n{link}"),
        new_markdown_cell(
            "| | laptop, CPU only | Colab, T4 |\n|---|---|---|\n"
            "| running every cell | 15 seconds on two cores | not measured yet |"
        ),
        new_markdown_cell("## Objectives\n\nAfter this lesson you can\n\n- tell $f_2$ from $f_1$."),
        new_code_cell(BOOTSTRAP),
        new_code_cell("from corrlib import profiles\n\nprint(profiles.current())"),
        new_markdown_cell(
            f"## 1 Section\n\nSee [the other]({other}) and [clips](../data/README.md).\n\n"
            "$$A_{ij} = \\frac{1}{n} \\quad 5 % \\\\[2pt]$$\n\n**Predict.** What is seen?"
        ),
        new_code_cell(
            'x = 1\nviews.show(\n    x,\n    alt="long words",\n)',
            outputs=[figure, new_output("display_data", words)],
        ),
        new_code_cell(
            "widgets.attention_explorer()",
            outputs=[new_output("display_data", widget)],
            metadata={"tags": ["attention-explorer"]},
        ),
        new_markdown_cell("### Exercise 1 · twice (●○○, 5 minutes)\n\nDouble it."),
        new_code_cell("def twice(x):\n    raise NotImplementedError  # your code here"),
        new_code_cell("check.twice(twice)", outputs=[new_output("execute_result", verdict)]),
        new_code_cell(
            "def solution_twice(x):\n    return 2 * x",
            metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}},
            outputs=[new_output("stream", text="secret output\n")],
        ),
        new_markdown_cell(
            "## 2 Self-test\n\n**1.** Why?\n<details><summary>Answer</summary>\n"
            "Because of $x^2$.\n</details>\n\n" + "\n".join(f"- row {n}" for n in range(40))
        ),
    ]
    for index, cell in enumerate(c for c in cells if c.cell_type == "code"):
        cell.execution_count = index + 1
    for index, cell in enumerate(cells):
        cell.id = f"cell-{index}"
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def make_course(root: Path) -> Path:
    (root / "notebooks").mkdir(parents=True)
    (root / "data").mkdir()
    names = ("00_first.ipynb", "01_second.ipynb")
    for number, (title, other) in enumerate((("first", names[1]), ("second", names[0]))):
        nbformat.write(lesson(number, title, other), root / "notebooks" / names[number])
    (root / "notebooks" / "glossary.md").write_text("# Glossary\n\n**affinity**: zebra\n")
    (root / "notebooks" / "teaching.md").write_text("# Teaching\n\nAnswers.\n")
    (root / "data" / "README.md").write_text("# Data\n\nSee [the list](list.json).\n")
    (root / "data" / "list.json").write_text("{}\n")
    (root / "README.md").write_text(
        "# The course\n\n| | notebook | study | run |\n|---|---|---|---|\n"
        "| 00 | [First](notebooks/00_first.ipynb) | 40 | 0.3 |\n"
        "| 01 | [Second](notebooks/01_second.ipynb) | 45 | 2 |\n\n[data](data/README.md)\n"
    )
    return root
