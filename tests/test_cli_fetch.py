"""``corrlib fetch``: what it passes on; downloads themselves are tested in test_fetch."""

from __future__ import annotations

import json

import pytest
from commands import refused, run

from corrlib.fetch import ARCHIVES, BY_HAND


def test_it_says_what_it_does_and_where(monkeypatch, tmp_path, capsys):
    def fetch(name, root, report):
        report(f"{name}: 800 MB to download; licence: CC BY-NC 4.0")
        return root / "DAVIS-2017"

    monkeypatch.setattr("corrlib.fetch.fetch", fetch)
    command = ("fetch", "davis-2017", "--root", tmp_path, "--json", tmp_path / "f.json")
    assert run(*command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "licence" in printed[0] and str(tmp_path / "DAVIS-2017") in printed[1]
    assert json.loads((tmp_path / "f.json").read_text())["name"] == "davis-2017"


@pytest.mark.parametrize("name", ["imagenet", *BY_HAND])
def test_what_cannot_be_fetched_is_explained(name, tmp_path, capsys):
    line = refused(capsys, "fetch", name, "--root", tmp_path)
    assert (BY_HAND[name] if name in BY_HAND else next(iter(ARCHIVES))) in line
    assert not list(tmp_path.iterdir())
