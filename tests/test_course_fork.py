"""The repository that the lessons lead to on Colab."""

from __future__ import annotations

import re
import shutil

import pytest
from commands import refused
from small_course import ROOT, make_course

from corrlib.course import lessons
from corrlib.course.fork import current, point_to
from corrlib.errors import InputError


@pytest.fixture
def root(tmp_path):
    """The course's own lessons and README, to be changed."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def addresses(root) -> set[str]:
    """Every repository that a link or a first cell names."""
    found = set()
    for path in (*root.glob("notebooks/*.*"), root / "README.md"):
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)", text))
        found.update(re.findall(r"https://github\.com/([\w.-]+/[\w.-]+) \S*course", text))
    return found


def contents(root) -> dict:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_course_leads_to_one_place():
    assert addresses(ROOT) == {current()}
    for path in lessons():
        text = path.read_text(encoding="utf-8")
        assert text.count(f"github.com/{current()} ") == 1
        assert text.count(f"/github/{current()}/blob/main/notebooks/{path.name})") == 1


def test_a_fork_leads_to_itself_and_back_again(root):
    before = contents(root)
    assert set(lessons(root)) <= set(point_to("some-body/my.course_2", root=root))
    assert addresses(root) == {"some-body/my.course_2"} == {current(root)}
    assert point_to("some-body/my.course_2", root=root) == []
    point_to(current(), root=root)
    assert contents(root) == before


def test_a_name_that_papers_link_to_does_not_stick(root):
    """Links to other repositories stay what they are, whatever the fork is called."""
    with (root / "README.md").open("a") as file:
        file.write("[code](https://github.com/a/b), [other](https://github.com/a/b-c)\n")
    before = contents(root)
    point_to("a/b", root=root)
    point_to(current(), root=root)
    assert contents(root) == before


@pytest.mark.parametrize(
    "name",
    [
        *("", "a", "a/", "/b", "a/b/c", "a b/c", "a/b c", "-a/b", "a-/b", "a/..", "a/.", "a/b.git"),
        *("a/b\n", "a/b;ls", "a/$(ls)", "a/b`ls`", 'a/b"', "a/b'", "a/b\\", "ä/b", "a/ü", "../a/b"),
        *("https://github.com/a/b", "a" * 40 + "/b", "a/" + "b" * 101, "\\1/\\g<0>"),
    ],
)
def test_names_that_github_would_not_have_change_nothing(root, name):
    before = contents(root)
    with pytest.raises(InputError, match="owner/name") as refusal:
        point_to(name, root=root)
    assert len(str(refusal.value).splitlines()) == 1
    assert contents(root) == before


def test_the_command_refuses_in_one_line(capsys):
    assert current() in refused(capsys, "course", "colab", "")


def test_a_course_that_clones_nothing_is_named(tmp_path):
    root = make_course(tmp_path)
    path = lessons(root)[0]
    path.write_text(path.read_text().replace("git clone", "git pull"))
    with pytest.raises(InputError, match="first cell"):
        current(root)
