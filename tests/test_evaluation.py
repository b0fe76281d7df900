"""Evaluating a DAVIS folder: scores, files, resuming, and sharing the work among processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import free_ports, run_two

from corrlib import evaluation, sharding
from corrlib.baselines import colour_patch, identity
from corrlib.datasets import davis
from corrlib.errors import InputError
from corrlib.evaluation import evaluate
from corrlib.masks import read_mask, write_mask
from corrlib.point_data import PointClip, point_clip
from corrlib.tapvid import evaluate_points

LENGTHS = {"long": 7, "short": 3, "middle": 5}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A DAVIS-2016 folder of squares that move, each at its own pace."""
    root = tmp_path_factory.mktemp("davis")
    for pace, (name, length) in enumerate(LENGTHS.items(), start=1):
        images, masks = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        images.mkdir(parents=True)
        for index in range(length):
            mask = torch.zeros(32, 48, dtype=torch.uint8)
            mask[8:24, 4 + pace * index : 20 + pace * index] = 1
            write_mask(masks / f"{index:05d}.png", mask)
            Image.fromarray(100 * mask.numpy()).convert("RGB").save(images / f"{index:05d}.jpg")
    lists = root / "ImageSets/2016"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(LENGTHS))
    return root


def timeless(figure: dict) -> dict:
    for one in figure["sequences"].values():
        one["seconds_per_frame"] = None
    return figure


def test_figures_and_files_of_every_sequence(tree, tmp_path):
    shown = []
    figure = evaluate(
        davis(tree), identity, tmp_path / "out", on_sequence=lambda *one: shown.append(one)
    )
    assert [name for name, _ in shown] == list(LENGTHS) == list(figure["sequences"])
    assert all(one["seconds_per_frame"] > 0 for _, one in shown)
    # The square is 16 wide and moves by `pace` a frame; the first and last frame do not count.
    for pace, (name, length) in enumerate(LENGTHS.items(), start=1):
        overlaps = [(16 - pace * t) / (16 + pace * t) for t in range(1, length - 1)]
        found = figure["sequences"][name]["J"]["mean"]
        assert found == pytest.approx(sum(overlaps) / len(overlaps))
        files = sorted((tmp_path / "out" / name).iterdir())
        assert len(files) == length
        assert torch.equal(read_mask(files[-1]), davis(tree, sequences=[name])[0].read_mask(0))
    means = [one["J"]["mean"] for one in figure["sequences"].values()]
    assert figure["J"]["mean"] == pytest.approx(sum(means) / 3)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tree, tmp_path):
    out = tmp_path / "out"
    whole = timeless(evaluate(davis(tree), identity))
    calls = []

    def interrupted(frames, mask):
        calls.append(mask)
        for index, found in enumerate(identity(frames, mask)):
            if len(calls) == 2 and index == 2:
                raise KeyboardInterrupt
            yield found

    with pytest.raises(KeyboardInterrupt):
        evaluate(davis(tree), interrupted, out)
    assert [path.name for path in out.iterdir()] == ["long"]  # nothing half-done is left
    with pytest.raises(InputError, match="--resume"):
        evaluate(davis(tree), identity, out)
    figure = evaluate(davis(tree), interrupted, out, resume=True)
    assert len(calls) == 4
    pace = {name: one["seconds_per_frame"] for name, one in figure["sequences"].items()}
    assert pace["long"] is None and pace["short"] > 0
    assert timeless(figure) == whole


def test_resuming_needs_to_know_where(tree):
    with pytest.raises(InputError, match="--masks-out"):
        evaluate(davis(tree), identity, resume=True)


@pytest.mark.parametrize("hands", [1, 2, 3, 8])
def test_sequences_are_dealt_evenly(hands):
    lengths = [90, 40, 40, 50, 10, 20, 70, 80]
    dealt = sharding.deal(lengths, hands)
    assert len(dealt) == hands
    assert sorted(index for hand in dealt for index in hand) == list(range(8))
    loads = [sum(lengths[index] for index in hand) for hand in dealt]
    assert max(loads) <= max(90, 1.1 * sum(lengths) / hands)


def test_one_process_is_not_distributed(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (sharding.rank(), sharding.world_size()) == (0, 1)
    assert sharding.gather("all") == ["all"]
    assert not torch.distributed.is_initialized()


def points(opened: list[str]) -> list[PointClip]:
    """Still clips, longest last, that say when they are opened."""

    def clip(name: str, length: int) -> PointClip:
        def frames():
            opened.append(name)
            return iter(torch.full((length, 3, 16, 16), 100, dtype=torch.uint8))

        where, seen = torch.full((length, 1, 2), 8.0), torch.ones(length, 1, dtype=torch.bool)
        return point_clip(name, frames, torch.arange(length), where, seen)

    return [clip("short", 3), clip("middle", 4), clip("long", 6)]


def worker(rank: int, port: int, tree: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    shown, done = [], []

    def method(frames, mask):
        done.append(frames.name)
        return identity(frames, mask)

    figure = evaluate(davis(tree), method, out / "masks", on_sequence=lambda *a: shown.append(a[0]))
    result = {"figure": figure and timeless(figure), "shown": shown, "done": done, "opened": []}
    tracked = evaluate_points(points(result["opened"]), colour_patch())
    result["tracked"] = tracked and list(tracked["clips"])
    result["one unit"] = list(sharding.shared(["a"], len, lambda unit: [rank, unit]))
    (out / f"{rank}.json").write_text(json.dumps(result))


def test_two_processes_give_the_result_of_one(tree, tmp_path):
    run_two(worker, *free_ports(), tree, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["figure"] == json.loads(json.dumps(timeless(evaluate(davis(tree), identity))))
    assert second["figure"] is None and second["shown"] == []
    assert first["shown"] == list(LENGTHS)
    assert [first["done"], second["done"]] == [["long"], ["short", "middle"]]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == sorted(LENGTHS)
    assert [first["opened"], second["opened"]] == [["long"], ["short", "middle"]]
    assert first["tracked"] == ["short", "middle", "long"] and second["tracked"] is None
    assert first["one unit"] == [["a", [0, "a"]]] and second["one unit"] == []


def test_alone_each_result_comes_before_the_next_unit_is_asked_for():
    asked = []

    def units():
        for unit in "abc":
            asked.append(unit)
            yield unit

    for unit, result in sharding.shared(units(), len, str.upper):
        assert result == unit.upper() and asked[-1] == unit
    assert asked == ["a", "b", "c"]


def test_a_method_that_yields_too_few_masks_is_an_error(tree):
    with pytest.raises(InputError, match="as many"):
        evaluate(davis(tree), lambda frames, mask: iter([mask]))


def test_the_time_is_of_the_method_alone(tree, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: next(clock))
    figure = evaluate(davis(tree, sequences=["long"]), identity)
    # One tick for each of 7 masks, and one to see that there is no further.
    assert figure["sequences"]["long"]["seconds_per_frame"] == pytest.approx(8 / 7)
