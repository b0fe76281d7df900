"""What is made of the lessons: handout, slides and pages."""

from __future__ import annotations

import json
import re
import sys

import nbformat
import pytest
from commands import refused, run
from small_course import EXPLORER_PAGE, ROOT, make_course, requests_of

from corrlib.course import fresh_folder, lessons
from corrlib.course.handout import handout, without_answers
from corrlib.course.pages import local_links, read_lesson
from corrlib.errors import InputError

slides_module = pytest.importorskip("corrlib.course.slides")
site_module = pytest.importorskip("corrlib.course.site")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """The folders that the three commands make."""
    out = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for module in (slides_module, site_module):
            patch.setattr(module, "lesson_page", lambda: EXPLORER_PAGE)
        handout(out / "handout", root=root)
        slides_module.slides(out / "slides", root=root)
        assert site_module.site(out / "site", root=root) == []
    return out


def read(*parts) -> str:
    path, *rest = parts
    return path.joinpath(*rest).read_text(encoding="utf-8")


class TestFolders:
    def test_replace_what_they_made_and_nothing_else(self, tmp_path):
        out = tmp_path / "out"
        for text in ("old", "new"):
            with fresh_folder(out) as folder:
                (folder / text).touch()
        assert (out / "new").exists() and not (out / "old").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis").touch()
        with pytest.raises(InputError, match="--out"), fresh_folder(tmp_path / "mine"):
            pass
        assert (tmp_path / "mine" / "thesis").exists()

    def test_leave_nothing_half_done(self, tmp_path):
        with fresh_folder(tmp_path / "out") as folder:
            (folder / "whole").touch()
        with pytest.raises(KeyboardInterrupt), fresh_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out" / "whole").exists()


class TestHandout:
    def test_has_the_exercises_but_no_solutions_and_no_outputs(self, made):
        for path in lessons(made / "handout"):
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
            text = read(path)
            assert "raise NotImplementedError" in text and "check.twice(twice)" in text
            for hidden in ("solution", "secret", "return 2 * x", "Open in Colab", "image/png"):
                assert hidden not in text
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    assert cell.outputs == [] and cell.execution_count is None

    def test_brings_what_it_links_to_but_not_the_answers(self, made, root):
        folder = made / "handout"
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file()} == {
            *("notebooks/00_first.ipynb", "notebooks/01_second.ipynb"),
            *("data/README.md", "data/list.json", ".made-by-corrlib"),
        }

    @pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
    def test_of_the_course_keeps_every_other_cell(self, path):
        notebook = read_lesson(path)
        answers = [c for c in notebook.cells if "solution" in c.metadata.get("tags", [])]
        kept = [cell.id for cell in notebook.cells if cell not in answers]
        written = without_answers(notebook)
        assert [cell.id for cell in written.cells] == kept
        text = nbformat.writes(written)
        assert answers and not [c.source for c in answers if json.dumps(c.source)[1:-1] in text]
        assert "def solution_" not in text and "teaching.md" not in text

    def test_refuses_links_out_of_the_course(self, root, tmp_path):
        other = make_course(tmp_path / "other")
        path = other / "notebooks" / "00_first.ipynb"
        path.write_text(read(path).replace("../data/README.md", "../../../etc/passwd"))
        with pytest.raises(InputError, match="inside the course"):
            handout(tmp_path / "out", root=other)
        assert not (tmp_path / "out").exists()


class TestSlides:
    def test_start_at_headings_cells_and_figures(self, made):
        page = read(made, "slides", "00_first.html")
        columns = page.split("<section><section>")[1:]
        assert [re.search(r"<h[12]>(.*?)</h", column)[1] for column in columns] == [
            *("00 · First", "Objectives", "1 Section", "2 Self-test"),
        ]
        assert [column.count("<section>") + 1 for column in columns] == [1, 1, 5, 1]

    def test_show_code_that_teaches_and_no_answers(self, made):
        page = read(made, "slides", "00_first.html")
        words = re.sub(r"<[^>]+>", "", page)
        assert "x = 1" in words and "def twice(x):" in words
        for hidden in ("solution", "secret", "not written yet", "views.show", "google.colab"):
            assert hidden not in words
        for hidden in ("VBox", "profiles.current", "15 seconds", "Description of the figure"):
            assert hidden not in words

    def test_draw_formulas_figures_folds_and_the_explorer(self, made):
        page = read(made, "slides", "00_first.html")
        assert page.count("<math") == 4 and "mfrac" in page
        assert 'alt="A single pixel, for whoever does not see it."' in page
        assert 'width="1" height="1"' in page
        assert "<p class='predict'><strong>Predict" in page
        fold = page[page.index("<details>") : page.index("</details>")]
        assert "<math" in fold and "<section>" not in fold
        assert 'data-src="explorer.html"' in page
        assert read(made, "slides", "explorer.html") == EXPLORER_PAGE

    def test_lead_to_each_other_and_to_nothing_missing(self, made):
        folder = made / "slides"
        for path in folder.glob("*.html"):
            for target in re.findall(r'(?:href|src)="([^"#]+)"', read(path)):
                if not target.startswith(("data:", "https:")):
                    assert (folder / target).is_file(), target
        assert '<a href="01_second.html">the other</a>' in read(folder, "00_first.html")
        assert "<a>clips</a>" in read(folder, "00_first.html")
        assert read(folder, "index.html").count("<li>") == 2


class TestSite:
    def test_shows_lessons_with_outputs_folds_and_alternatives(self, made):
        page = read(made, "site", "notebooks", "00_first.html")
        assert 'alt="A single pixel, for whoever does not see it."' in page
        assert page.count("<math") == 4
        solution = page.index("Show the solution")
        assert page.rindex("<details", 0, solution) > 0
        assert page.index("secret output") > solution
        assert "VBox" not in page
        assert '<iframe class="explorer" src="../explorer.html" title=' in page
        assert read(made, "site", "explorer.html") == EXPLORER_PAGE

    def test_leads_on_and_back_and_to_nothing_missing(self, made):
        folder = made / "site"
        assert read(folder, "index.html") == read(folder, "README.html")
        for path in folder.rglob("*.html"):
            for target in re.findall(r'(?:href|src)="([^"#?]+)[^"]*"', read(path)):
                if not re.match(r"[a-z]+:", target):
                    assert (path.parent / target).exists(), f"{path.name}: {target}"
        first = read(folder, "notebooks", "00_first.html")
        assert 'class="next-page" href="01_second.html"' in first
        for name in ("glossary", "teaching"):
            assert f'href="{name}.html"' in first

    def test_is_searched_in_the_browser(self, made):
        assert "zebra" in read(made, "site", "searchindex.js")

    def test_names_links_that_lead_nowhere(self, tmp_path, monkeypatch):
        monkeypatch.setattr(site_module, "lesson_page", lambda: EXPLORER_PAGE)
        other = make_course(tmp_path / "other")
        with (other / "README.md").open("a") as file:
            file.write("\n[lost](nowhere.md)\n")
        (warning,) = site_module.site(tmp_path / "out", root=other)
        assert "README.md" in warning and "nowhere.md" in warning
        assert str(tmp_path) not in warning and "\x1b" not in warning


def test_pages_ask_no_other_machine(made):
    assert requests_of(made) == []


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel='stylesheet' href='//cdn.example/x.css'>",
        "body { background: url(https://cdn.example/x.png) }",
        '@import "https://cdn.example/x.css"',
        'import mermaid from "x"; import("https://cdn.example/x.js")',
        'fetch("https://cdn.example/x")',
    ],
)
def test_a_request_would_be_found(tmp_path, text):
    (tmp_path / "x.html").write_text(text)
    assert len(requests_of(tmp_path)) == 1


@pytest.mark.parametrize("path", [*lessons(), *sorted((ROOT / "notebooks").glob("*.md"))])
def test_formulas_of_the_course_are_drawn(path):
    """Slides use the same parser for the text; a formula that it cannot convert is an error."""
    if path.suffix == ".md":
        texts = [read(path)]
    else:
        texts = [c.source for c in read_lesson(path).cells if c.cell_type == "markdown"]
    drawn = "".join("".join(slides_module.blocks(text)) for text in texts)
    assert "$$" not in drawn


def test_links_are_those_to_files():
    text = "[a](b.md#part) ![c](d/e.png) [f](https://g.h) [i](#j) [k](mailto:l@m) `x[0](n)`"
    assert local_links([text]) == {"b.md", "d/e.png", "n"}


def test_formulas_that_cannot_be_read_are_named():
    from corrlib.course.mathematics import mathml

    with pytest.raises(InputError, match=r"'\\\\frac\{1'"):
        mathml(r"\frac{1", block=True)
    assert "97.5" in mathml(r"\text{97.5 % of}", block=False)


class TestCommands:
    def test_write_where_they_are_told(self, tmp_path, capsys):
        out, figures = tmp_path / "out", tmp_path / "f.json"
        assert run("course", "handout", "--out", out, "--json", figures) == 0
        assert len(lessons(out)) == len(lessons())
        assert json.loads(read(figures))["files"] == len(lessons())
        assert "notebooks in" in capsys.readouterr().out.splitlines()[-1]

    @pytest.mark.parametrize("name", ["handout", "slides", "site", "colab", "timing"])
    def test_have_help_with_an_example(self, name, capsys):
        with pytest.raises(SystemExit) as stop:
            run("course", name, "--help")
        assert stop.value.code == 0
        assert f"example: corrlib course {name}" in " ".join(capsys.readouterr().out.split())

    def test_keep_what_is_not_theirs(self, tmp_path, capsys):
        (tmp_path / "mine").touch()
        for name in ("handout", "slides", "site"):
            assert "--out" in refused(capsys, "course", name, "--out", tmp_path)

    def test_say_what_is_missing(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "corrlib.course.slides", None)
        assert "make setup" in refused(capsys, "course", "slides")
