"""What the README tells its reader to type."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from corrlib.cli import _parser
from corrlib.clips import shipped_clip

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README.read_text("utf-8")) if found == language]


def test_the_code_makes_the_figures_it_names(tmp_path, monkeypatch):
    """As written, but for fewer and smaller frames."""
    (code,) = blocks("python")
    assert len(code.splitlines()) <= 12
    shutil.copy(shipped_clip("box").path, tmp_path / "cat.mp4")
    monkeypatch.chdir(tmp_path)
    assert "stop=60, short_side=256" in code
    exec(code.replace("stop=60, short_side=256", "stop=3, short_side=128"), {})
    figures = re.findall(r'savefig\("([^"]+)"\)', code)
    assert len(figures) == 2
    for figure in figures:
        assert (tmp_path / figure).read_bytes().startswith(b"%PDF")


def commands() -> list[str]:
    text = README.read_text("utf-8")
    lines = "\n".join(blocks("")).splitlines() + re.findall(r"`([^`\n]+)`", text)
    lines = [re.sub(r"^torchrun \S+ -m ", "", line.split(" #")[0].strip()) for line in lines]
    found = [line for line in lines if re.match(r"corrlib \w+ .*--", line)]
    return [line for line in found if "..." not in line]


def test_there_are_commands():
    assert len(commands()) >= 5


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line):
    assert callable(_parser().parse_args(shlex.split(line)[1:]).run)
