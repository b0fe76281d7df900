"""What every notebook keeps to, whatever it teaches."""

from __future__ import annotations

import ast
import html
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import corrlib
from corrlib import colab

FOLDER = Path(__file__).resolve().parent.parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
assert NOTEBOOKS, f"no notebooks in {FOLDER}"
MAX_BYTES = 1_000_000
MIN_ALT = 25  # characters; less than this describes nothing

ABSOLUTE_PATHS = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users|tmp|mnt)/|\b[A-Z]:\\\\?\w")
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
# What a page fetches by itself, without anybody following a link.
FETCHED = re.compile(
    r"""\b(?:src|srcset|poster|data-main)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|@import|url\(\s*["']?\s*(?:https?:)?//|\bfetch\(|XMLHttpRequest|\brequire(?:js)?\.config""",
    re.IGNORECASE,
)
FILE_NAME = re.compile(
    r"[\w./-]*\w\.(?:pt|json|npy|npz|png|jpe?g|mp4|csv|safetensors|txt|pkl|html)"
)
# What would let one lesson's run meet another's, or a cell's effect outlive its kernel.
SHARED = re.compile(
    r"^\s*[%!]|\brun_line_magic\b|\bchdir\(|\bos\.environ\[[^]]*\]\s*=|\bsys\.path\b"
    r"|\bsubprocess\b",
    re.MULTILINE,
)
WRITERS = {"mkdir", "write_text", "write_bytes", "save", "savefig", "save_file", "build", "Trainer"}
WRITERS |= {"VideoWriter", "write_mask", "write_figures", "dump", "touch", "copy_file", "copytree"}
TAUGHT = ("1905.00875", "1909.11895")
HTML_TARGET = re.compile(r"""\b(?:src|href)\s*=\s*["']([^"']+)["']""", re.IGNORECASE)

# In this order; what stands between them is each notebook's own.
MARKERS = (
    ("title", r"^# (\d\d) · \S"),
    ("link to Colab", r"colab\.research\.google\.com/github/.+\.ipynb"),
    ("cost table", r"^\|.*\bT4\b.*\|"),
    ("objectives", r"^#+ .*objectives"),
    ("limitations", r"^#+ .*limitations"),
    ("self-test", r"^#+ .*self-test"),
    ("references", r"^#+ .*references"),
)

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [c for c in read(path).cells if c.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def text(value) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def sources(path: Path, kind: str) -> list[str]:
    return [text(c.source) for c in read(path).cells if c.cell_type == kind]


def outputs(path: Path) -> list:
    return [output for cell in code_cells(path) for output in cell.outputs]


class TestFile:
    def test_is_a_valid_notebook_with_cell_ids(self, path):
        notebook = read(path)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
        ids = [cell.id for cell in notebook.cells]
        assert len(set(ids)) == len(ids)

    def test_uses_the_plain_kernel_and_holds_no_widget_state(self, path):
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        assert metadata["kernelspec"]["name"] == "python3"
        assert "widgets" not in metadata

    def test_is_small(self, path):
        assert path.stat().st_size <= MAX_BYTES

    def test_name_and_number_agree(self, path):
        assert re.fullmatch(r"\d\d(_[a-z0-9]+)+", path.stem)
        assert sources(path, "markdown")[0].startswith(f"# {path.stem[:2]} · ")


class TestExecution:
    def test_every_cell_was_run_once_in_order(self, path):
        counts = [cell.execution_count for cell in code_cells(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_nothing_failed_or_complained(self, path):
        assert not [o.get("ename") for o in outputs(path) if o.output_type == "error"]
        assert not [text(o.text) for o in outputs(path) if o.get("name") == "stderr"]

    def test_cells_whose_output_is_compared_have_one(self, path):
        for cell in code_cells(path):
            if "nbval-check-output" in tags(cell):
                assert cell.outputs, cell.source

    def test_was_not_run_with_the_figures_of_the_tests(self, path):
        printed = "".join(text(o.get("text", "")) for o in outputs(path))
        assert "profile laptop" in printed
        assert "only show that the code runs" not in printed

    def test_outputs_fetch_nothing(self, path):
        """A saved page can be read without a network: what it shows, it holds."""
        for output in outputs(path):
            data = output.get("data", {})
            assert not [kind for kind in data if "javascript" in kind]
            for kind, value in data.items():
                if kind.startswith("text/"):
                    assert not FETCHED.search(text(value)), text(value)[:200]

    def test_runs_alone_and_in_any_order(self, path):
        """A lesson reads what the repository holds, and writes where nobody else reads."""
        for cell in code_cells(path)[1:]:
            assert not SHARED.search(text(cell.source)), cell.source
        whole = "\n".join(sources(path, "code"))
        temporary = "TemporaryDirectory()" in whole
        for cell in code_cells(path)[1:]:
            for node in ast.walk(tree(cell)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    if FILE_NAME.fullmatch(node.value):
                        assert temporary or (path.parent / node.value).exists(), node.value
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func).rsplit(".", 1)[-1]
                    assert temporary or name not in WRITERS, ast.unparse(node)

    def test_holds_no_traces_of_the_machine(self, path):
        for cell in read(path).cells:
            assert not ABSOLUTE_PATHS.search(text(cell.source)), cell.source
        for output in outputs(path):
            shown = text(output.get("text", ""))
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    shown += text(data)
            assert not ABSOLUTE_PATHS.search(shown), shown
        assert not [c for c in read(path).cells if "execution" in c.metadata]


class TestText:
    def test_parts_come_in_the_agreed_order(self, path):
        whole = "\n".join(sources(path, "markdown"))
        place = 0
        for name, pattern in MARKERS:
            found = re.compile(pattern, re.MULTILINE | re.IGNORECASE).search(whole, place)
            assert found, f"no {name} after the {whole[:place].count(chr(10))} lines before it"
            passed = name in ("title", "link to Colab", "cost table")
            place = found.end() if passed else found.start()

    def test_has_something_to_predict_to_do_and_to_fail(self, path):
        whole = "\n".join(sources(path, "markdown")).lower()
        for name in ("○", "control"):
            assert name in whole, name
        assert whole.count("**predict") >= 4

    def test_opens_where_the_last_lesson_ended(self, path):
        opening = sources(path, "markdown")[0].split("\n\n")[1]
        before = NOTEBOOKS[: NOTEBOOKS.index(path)]
        if before:
            assert f"]({before[-1].name})" in opening

    def test_asks_one_question(self, path):
        assert sources(path, "markdown")[0].count("**The question:** *") == 1

    def test_ends_with_the_ways_on(self, path):
        place = NOTEBOOKS.index(path)
        last = sources(path, "markdown")[-1].splitlines()[-1]
        around = [NOTEBOOKS[i].name for i in (place - 1, place + 1) if 0 <= i < len(NOTEBOOKS)]
        for name in (*around, "glossary.md"):
            assert f"]({name})" in last

    def test_figures_are_spoken_about(self, path):
        """The text that follows a figure begins with a sentence, not with the next heading."""
        cells = read(path).cells
        for index, cell in enumerate(cells):
            if any("image/png" in o.get("data", {}) for o in cell.get("outputs", ())):
                after = [text(c.source) for c in cells[index:] if c.cell_type == "markdown"]
                assert after and not after[0].startswith("#"), after[0][:80]

    def test_symbols_stand_beside_their_shapes(self, path):
        tables = re.findall(r"^\| symbol \|.*$", "\n".join(sources(path, "markdown")), re.MULTILINE)
        assert tables and all("shape" in head for head in tables), tables

    def test_common_mistakes_name_the_section_that_shows_them(self, path):
        whole = "\n".join(sources(path, "markdown"))
        (part,) = re.findall(r"^### Common mistakes.*?(?=^## )", whole, re.MULTILINE | re.DOTALL)
        named = re.findall(r"^\|.*\| section (\d+) \|$", part, re.MULTILINE)
        assert len(named) == part.count("\n|") - 2 >= 3
        for number in named:
            assert re.search(rf"^## {number} ", whole, re.MULTILINE), number

    def test_the_papers_it_teaches_are_cited_by_section(self, path):
        found = re.split(r"^#+ .*references", sources(path, "markdown")[-1], flags=re.M | re.I)[-1]
        for line in found.splitlines():
            if any(paper in line for paper in TAUGHT):
                assert re.search(r"\b(?:section|equation|table)s? \d", line), line

    def test_the_link_to_colab_opens_this_notebook(self, path):
        whole = "\n".join(sources(path, "markdown"))
        (target,) = set(re.findall(r"https://colab\.research\.google\.com/github/[^)\s]+", whole))
        assert target.endswith(f"/blob/main/notebooks/{path.name}")

    def test_local_links_lead_somewhere(self, path):
        for source in sources(path, "markdown"):
            targets = MARKDOWN_LINK.findall(source) + HTML_TARGET.findall(source)
            for target in targets:
                if not re.match(r"https?:|mailto:|#", target):
                    assert (path.parent / target.split("#")[0]).exists(), target

    def test_leads_on_to_the_next_lesson(self, path):
        later = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
        if later:
            assert f"]({later[0].name})" in "\n".join(sources(path, "markdown"))

    def test_the_map_of_the_course_states_its_minutes(self, path):
        own = re.search(
            r"^\| reading and exercises \| (\d+) minutes",
            "\n".join(sources(path, "markdown")),
            re.MULTILINE,
        )
        listed = re.search(
            rf"^\| .*\b{path.stem[:2]} .*\| (\d+) \|$",
            "\n".join(sources(NOTEBOOKS[0], "markdown")),
            re.MULTILINE,
        )
        assert own and listed and own[1] == listed[1]

    def test_pictures_in_the_text_have_an_alternative(self, path):
        for source in sources(path, "markdown"):
            for alt, target in MARKDOWN_IMAGE.findall(source):
                assert alt.strip(), target
            for image in HTML_IMAGE.findall(source):
                assert re.search(r"""\balt\s*=\s*["'][^"']+["']""", image), image

    def test_pictures_of_cells_have_an_alternative(self, path):
        """In the metadata, and folded below, as few readers of notebooks show the former."""
        for cell in code_cells(path):
            pages = [text(o.get("data", {}).get("text/html", "")) for o in cell.outputs]
            assert not any("<img" in page.lower() for page in pages)
            for output in cell.outputs:
                for kind in output.get("data", {}):
                    if kind.startswith("image/"):
                        alt = output.metadata.get(kind, {}).get("alt", "")
                        assert len(alt.strip()) >= MIN_ALT, f"a {kind} with the text {alt!r}"
                        assert any(html.escape(alt) in page for page in pages), alt

    def test_three_questions_have_folded_answers(self, path):
        whole = "\n".join(sources(path, "markdown"))
        after = re.split(r"^#+ .*self-test", whole, flags=re.MULTILINE | re.IGNORECASE)[-1]
        assert after.count("<details") == after.count("</details>") == 3
        assert re.findall(r"^\*\*(\d)\.\*\*", after, re.MULTILINE) == ["1", "2", "3"]

    def test_figures_are_many_enough(self, path):
        kinds = [kind for output in outputs(path) for kind in output.get("data", {})]
        assert kinds.count("image/png") >= 2


class TestBootstrap:
    def test_is_the_first_code_and_the_same_everywhere(self, path):
        first = code_cells(path)[0].source
        assert "\n" not in first
        assert first == code_cells(NOTEBOOKS[0])[0].source

    def test_no_other_cell_installs_anything(self, path):
        for cell in code_cells(path)[1:]:
            assert not re.search(r"\bpip\b|\bconda\b|git clone", cell.source)

    def test_does_nothing_where_corrlib_is(self, path, monkeypatch):
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
        before = list(sys.path)
        exec(code_cells(path)[0].source, {"get_ipython": None})
        assert sys.path == before

    def test_says_what_to_do_where_corrlib_is_not(self, path):
        # A bare interpreter without site-packages, away from the checkout.
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code_cells(path)[0].source],
            capture_output=True,
            text=True,
            cwd=path.anchor,
        )
        assert result.returncode
        message = result.stderr.strip().splitlines()[-1]
        assert "make setup" in message and "kernel" in message

    def test_on_colab_installs_the_tagged_course_and_leaves_torch_alone(
        self, path, monkeypatch, capsys
    ):
        commands = []

        class Shell:
            system = staticmethod(commands.append)

        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        monkeypatch.setattr(sys, "path", list(sys.path))
        exec(code_cells(path)[0].source, {"get_ipython": Shell})
        (command,) = commands
        assert f"--branch v{corrlib.__version__} " in command
        folder = re.search(r"git clone .* (\S+)\)", command)[1]
        assert sys.path[0] == folder
        assert f"test -d {folder} || git clone" in command
        installs = re.findall(r"pip install [^;&|]+", command)
        assert installs and all("--no-deps" in install for install in installs)
        assert not re.search(r"\b(torch|torchvision|numpy)\b", command)
        # What a shell of IPython would fill in before the system's shell sees it.
        assert not re.search(r"[{}$]", command)
        assert capsys.readouterr().out.startswith(colab.GREEN)

    def test_asks_for_the_version_of_av_that_the_course_needs(self, path):
        (asked,) = re.findall(r"'(av[^']*)'\"", code_cells(path)[0].source)
        assert asked in metadata.requires("corrlib")

    def test_on_colab_says_what_to_do_if_nothing_could_be_fetched(self, path):
        """Without the course, in a bare interpreter: git's own words, then one line."""
        fake = (
            "import sys, types; sys.modules['google.colab'] = types.ModuleType('colab'); "
            "get_ipython = lambda: types.SimpleNamespace(system=lambda command: 1)\n"
        )
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", fake + code_cells(path)[0].source],
            capture_output=True,
            text=True,
            cwd=path.anchor,
        )
        assert result.returncode
        assert "run this cell again" in result.stderr.strip().splitlines()[-1]


class TestExercises:
    def exercises(self, path: Path) -> list[tuple]:
        """(stub, check, solution) cells; a stub is what raises NotImplementedError."""
        cells = code_cells(path)
        stubs = [
            index
            for index, cell in enumerate(cells)
            if "raise NotImplementedError" in cell.source and "solution" not in tags(cell)
        ]
        return [tuple(cells[index : index + 3]) for index in stubs]

    def test_are_two_or_more_each_with_a_check_and_a_solution(self, path):
        found = self.exercises(path)
        assert len(found) >= 2
        assert len(found) == sum("solution" in tags(cell) for cell in code_cells(path))
        for stub, check, solution in found:
            (name,) = defined(stub)
            assert "  # your code here" in stub.source
            assert re.search(rf"\(\s*{name}\s*\)\s*$", check.source), "the check is the last line"
            assert "solution" in tags(solution)
            assert solution.metadata.get("check")
            assert solution.metadata.get("jupyter", {}).get("source_hidden") is True
            assert f"solution_{name}" in defined(solution)

    def test_the_saved_notebook_shows_the_stub_waiting_and_the_solution_passing(self, path):
        for _, check, solution in self.exercises(path):
            shown = [text(cell.outputs[-1].data["text/plain"]) for cell in (check, solution)]
            assert "not written yet" in shown[0]
            assert "passed" in shown[1]

    def test_say_how_hard_and_how_long(self, path):
        whole = "\n".join(sources(path, "markdown"))
        marks = re.findall(r"[●○]{3}.{0,40}?\d+\s*min", whole)
        assert len(marks) >= len(self.exercises(path))

    def test_nobody_relies_on_an_answer(self, path):
        """Later cells use neither the student's function nor the solution's."""
        cells = code_cells(path)
        for stub, check, solution in self.exercises(path):
            own = {cell.id for cell in (stub, check, solution)}
            names = set(defined(stub)) | set(assigned(solution))
            for cell in cells:
                if cell.id not in own:
                    assert not names & loaded(cell), names & loaded(cell)

    def test_solutions_stand_alone(self, path):
        """Without the solution cells, as in a handout, nothing that remains is undefined."""
        remaining = [c for c in code_cells(path) if "solution" not in tags(c)]
        kept = {name for cell in remaining for name in assigned(cell)}
        for cell in code_cells(path):
            if "solution" in tags(cell):
                lost = set(assigned(cell)) - kept
                assert not any(lost & loaded(other) for other in remaining)


def tree(cell) -> ast.Module:
    return ast.parse(text(cell.source))


def defined(cell) -> list[str]:
    return [s.name for s in tree(cell).body if isinstance(s, (ast.FunctionDef, ast.ClassDef))]


def assigned(cell) -> list[str]:
    """Every name that a cell binds at its top level."""
    names = defined(cell)
    for statement in tree(cell).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            names += [(a.asname or a.name).split(".")[0] for a in statement.names]
        elif not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names += [
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            ]
    return names


def loaded(cell) -> set[str]:
    return {
        node.id
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
