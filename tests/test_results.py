"""Recorded and published figures: what is read, in which order, and how it is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors

from corrlib import results
from corrlib.baselines import BASELINES
from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.metrics import SequenceScore, summarise
from corrlib.results import (
    DAVIS_2016,
    NOT_RUN,
    PUBLISHED_ABLATION,
    PUBLISHED_ADAPTATION,
    RESULTS_FOLDER,
    ROWS,
    command_line,
    format_table,
    read_adaptation,
    read_published,
    read_results,
)
from corrlib.weights import WEIGHTS

ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:\w+/)+|\b[A-Z]:\\\\?\w")


def figure(j: float, f: float, **settings) -> dict:
    """As ``corrlib evaluate davis --json`` writes it, for two sequences of constant J and F."""
    score = SequenceScore(J=np.full((1, 6), j), F=np.full((1, 6), f))
    made = summarise({"one": score, "two": score})
    for sequence in made["sequences"].values():
        sequence["seconds_per_frame"] = 0.1
    return made | {"settings": settings}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the published figures and nothing run."""
    (tmp_path / DAVIS_2016).mkdir()
    published = (RESULTS_FOLDER / "published.json").read_text(encoding="utf-8")
    (tmp_path / "published.json").write_text(published, encoding="utf-8")
    return tmp_path


def record(folder: Path, key: str, content: object) -> None:
    (folder / DAVIS_2016 / f"{key}.json").write_text(json.dumps(content), encoding="utf-8")


def by_key(rows) -> dict:
    return {row.key: row for row in rows}


def cells(table: str, method: str) -> list[str]:
    """The cells of the row whose method begins so."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {method}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


# -- what ships ----------------------------------------------------------------------------------


def test_the_shipped_folder_reads():
    rows = read_results()
    assert [row.key for row in rows[: len(ROWS)]] == [row.key for row in ROWS]
    assert format_table(rows).count("\n") == len(rows) + 1


def test_shipped_files_hold_no_traces_of_a_machine():
    for path in RESULTS_FOLDER.rglob("*.json"):
        assert not ABSOLUTE.search(path.read_text(encoding="utf-8")), path


def test_every_row_that_can_be_run_names_a_baseline_or_weights_and_stands_in_the_readme():
    readme = (RESULTS_FOLDER / "README.md").read_text(encoding="utf-8")
    for row in ROWS:
        if row.arguments is None:
            continue
        option, name, *_ = row.arguments.split()
        assert option in ("--baseline", "--weights")
        if option == "--baseline":
            assert name in BASELINES
        assert f"| `{row.key}.json` | `{row.command}` |" in readme


def test_keys_are_unique_and_every_published_key_exists():
    assert len({row.key for row in ROWS}) == len(ROWS)
    published = {row["key"] for row in read_published()["davis-2017-val"]}
    assert {row.published for row in ROWS} - {None} <= published


def test_published_figures_are_those_of_the_papers():
    tables = read_published()
    found = {row["key"]: (row["J"], row["F"]) for row in tables["davis-2017-val"]}
    assert found["corrflow"] == (47.7, 51.3)
    assert found["identity"] == (22.1, 23.6)
    assert found["uvc"] == (56.3, 59.2)
    assert found["osvos"] == (56.6, 63.9)
    without = {row["key"]: row["J"] for row in tables[PUBLISHED_ABLATION]}
    assert without == {
        "full": 47.7,
        "dropout": 40.5,
        "restricted": 40.8,
        "sampling": 40.2,
        "cycle": 41.0,
    }
    adapted = {row["key"]: (row["J before"], row["J"]) for row in tables[PUBLISHED_ADAPTATION]}
    assert len(adapted) == 8
    assert adapted["dog"] == (58.0, 76.1)
    assert adapted["drift-chicane"] == (3.9, 27.8)
    assert adapted["paragliding-launch"] == (32.4, 42.8)
    for table in tables.values():
        if isinstance(table, list):
            assert all(row["source"] in tables["sources"] for row in table)


# -- reading -------------------------------------------------------------------------------------


def test_without_figures_every_row_says_so(folder):
    rows = read_results(folder)
    assert [row.key for row in rows] == [row.key for row in ROWS]
    assert all(row.figure is None for row in rows)
    table = format_table(rows)
    assert cells(table, "identity")[1:4] == ["22.1 · 23.6", NOT_RUN, "–"]
    assert cells(table, "SiamMask")[1:4] == ["51.1 · 55.0", "quoted only", "–"]
    assert cells(table, "DINO")[1] == "J&F 69.9"
    assert cells(table, "colour patches")[1] == "–"


def test_a_folder_without_any_recorded_figures_needs_no_subfolder(folder):
    (folder / DAVIS_2016).rmdir()
    assert len(read_results(folder)) == len(ROWS)


def test_recorded_figures_come_in_the_tables_order_and_unknown_ones_last(folder):
    for index, key in enumerate(("zebra", "corrflow", "an-idea", "identity")):
        record(folder, key, figure(0.1 * (index + 1), 0.5))
    rows = read_results(folder)
    run = [row.key for row in rows if row.figure is not None]
    assert run == ["identity", "corrflow", "an-idea", "zebra"]
    assert by_key(rows)["corrflow"].figure["J"]["mean"] == pytest.approx(0.2)
    assert set(by_key(rows)["identity"].figure["sequences"]) == {"one", "two"}


def test_figures_are_shown_as_percentages(folder):
    record(folder, "corrflow", figure(0.6012, 0.5683))
    shown = cells(format_table(read_results(folder)), "CorrFlow (ResNet-18)")
    assert shown[1:4] == ["47.7 · 51.3", "60.1 · 56.8", "58.5"]


def test_supervised_and_other_inferences_are_marked(folder):
    table = format_table(read_results(folder))
    assert "*(supervised)*" in cells(table, "OSVOS")[0]
    assert "*(supervised)*" not in cells(table, "CorrFlow (ResNet-18)")[0]
    assert "†" in cells(table, "identity")[0] and "†" not in cells(table, "CorrFlow (ResNet-18)")[0]


def test_a_name_cannot_break_the_table(folder):
    record(folder, "a|b", figure(0.5, 0.5))
    table = format_table(read_results(folder))
    lines = table.splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "a\\|b" in table


def test_a_half_written_file_is_not_read(folder):
    with atomic_path(folder / DAVIS_2016 / "identity.json") as temporary:
        temporary.write_text("{", encoding="utf-8")
        assert by_key(read_results(folder))["identity"].figure is None
        temporary.write_text(json.dumps(figure(0.3, 0.2)), encoding="utf-8")
    assert by_key(read_results(folder))["identity"].figure["J"]["mean"] == pytest.approx(0.3)


# -- commands and inference ----------------------------------------------------------------------


def test_the_recorded_command_is_shown_without_the_machine(folder):
    command = ["evaluate", "davis", "--root", "/data/x/DAVIS 2016", "--baseline", "identity"]
    record(folder, "identity", figure(0.3, 0.2, command=[*command, "--json", "/tmp/a.json"]))
    row = by_key(read_results(folder))["identity"]
    assert row.command == "corrlib evaluate davis --root DAVIS --baseline identity"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--weights", "/srv/me/my run.safetensors"], "--weights 'my run.safetensors'"),
        (["--weights", "C:\\runs\\a.safetensors"], "--weights a.safetensors"),
        (["--root=/data/DAVIS", "--json=a.json"], "--root DAVIS"),
        (["--masks-out", "masks", "--resume", "--radius", "6"], "--radius 6"),
        (["--root"], "--root DAVIS"),
    ],
)
def test_command_lines(arguments, expected):
    assert command_line(arguments) == f"corrlib {expected}"


def test_the_inference_of_matched_features_is_told_from_the_settings(folder):
    shared = {"references": 4, "radius": 12, "topk": 10, "precision": "fp32"}
    record(folder, "identity", figure(0.3, 0.2, **shared))
    record(folder, "corrflow", figure(0.3, 0.2, features="corrflow", **shared))
    rows = by_key(read_results(folder))
    assert rows["identity"].inference is None
    assert rows["crw"].inference is None
    assert rows["corrflow"].inference == {"references": 4, "radius": 12, "topk": 10}


@pytest.mark.parametrize(
    "weights", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem
)
def test_released_weights_tell_the_scores_that_are_recorded(weights):
    """The record is the one whose command is written beside the scores."""
    with safetensors.safe_open(weights, framework="pt") as file:
        about = file.metadata()
    if about["method"] == "colour-autoencoder":  # carries no labels
        return
    scores = json.loads(about["scores"])
    texts = [path.read_text() for path in (RESULTS_FOLDER / DAVIS_2016).glob("*.json")]
    known = {command_line(found["settings"]["command"]): found for found in map(json.loads, texts)}
    found = known[scores["command"]]
    assert scores["command"].endswith(f"--weights {weights.stem}")
    for name, value in (("J", found["J"]["mean"]), ("F", found["F"]["mean"])):
        assert scores[name] == pytest.approx(value, abs=5e-5)
    assert scores["J&F"] == pytest.approx(found["J&F"], abs=5e-5)


# -- adaptation ----------------------------------------------------------------------------------


def test_j_before_and_after_is_read_and_may_be_absent(folder):
    assert read_adaptation(folder) is None
    sequences = {"dog": {"before": 0.5, "after": 0.75}, "goat": {"before": 1, "after": 0}}
    content = json.dumps({"minutes": 2, "sequences": sequences})
    (folder / "adaptation.json").write_text(content, encoding="utf-8")
    read = read_adaptation(folder)
    assert read.minutes == 2
    assert read.before == {"dog": 0.5, "goat": 1} and read.after == {"dog": 0.75, "goat": 0}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"minutes": 2, "sequences": {}}',
        '{"minutes": 0, "sequences": {"dog": {"before": 0, "after": 1}}}',
        '{"minutes": NaN, "sequences": {"dog": {"before": 0, "after": 1}}}',
        '{"minutes": "x", "sequences": {"dog": {"before": 0, "after": 1}}}',
        '{"minutes": 2, "sequences": {"dog": {"before": 0}}}',
        '{"minutes": 2, "sequences": {"dog": {"before": 0, "after": 76.1}}}',
        '{"minutes": 2, "sequences": {"dog": {"before": NaN, "after": 0}}}',
        '{"minutes": 2, "sequences": {"dog": [0, 1]}}',
        '{"minutes": 2, "sequences": ["dog"]}',
    ],
)
def test_a_damaged_adaptation(folder, content):
    (folder / "adaptation.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="adaptation.json") as caught:
        read_adaptation(folder)
    assert "\n" not in str(caught.value)


# -- bad input -----------------------------------------------------------------------------------


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="folder of recorded figures"):
        read_results(tmp_path / "nothing")


def test_no_published_figures(tmp_path):
    with pytest.raises(InputError, match="published.json"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"davis-2017-val": {}}',
        '{"davis-2017-val": [{"key": "a", "method": 3, "J": 1, "F": 1}], "davis-2016-val": []}',
        '{"davis-2017-val": [{"key": "a", "method": "a", "J": 101}], "davis-2016-val": []}',
        '{"davis-2017-val": [{"key": "a", "method": "a", "J": "x"}], "davis-2016-val": []}',
        '{"davis-2017-val": [{"key": "a", "method": "a"}], "davis-2016-val": []}',
    ],
)
def test_damaged_published_figures(folder, content):
    (folder / "published.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="published.json") as caught:
        read_results(folder)
    assert "\n" not in str(caught.value)


def broken(**changes) -> dict:
    return figure(0.5, 0.5) | changes


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1],
        broken(J=None),
        broken(J={"mean": 60.1, "recall": 1, "decay": 0}),
        broken(J={"mean": float("nan"), "recall": 1, "decay": 0}),
        broken(F={"mean": 0.5, "recall": 0.5}),
        broken(F={"mean": 0.5, "recall": 0.5, "decay": 2}),
        broken(**{"J&F": -0.1}),
        broken(**{"J&F": "high"}),
        broken(sequences=None),
        broken(sequences={"one": 3}),
        broken(sequences={"one": {"J": {"mean": 2}, "F": {"mean": 0}}}),
        broken(settings=3),
        broken(settings={"command": [1, 2]}),
        broken(settings={"command": 7}),
    ],
)
def test_damaged_figures(folder, content):
    record(folder, "identity", content)
    with pytest.raises(InputError, match="identity.json") as caught:
        read_results(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_files_that_are_no_json(folder, raw):
    (folder / DAVIS_2016 / "identity.json").write_bytes(raw)
    with pytest.raises(InputError, match="identity.json"):
        read_results(folder)


def test_the_default_folder_lies_in_the_repository():
    assert results.RESULTS_FOLDER.name == "results"
    assert (results.RESULTS_FOLDER / "README.md").is_file()
