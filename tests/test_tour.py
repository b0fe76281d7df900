"""The tour, with hardly any training: what it leaves behind, not how well it does."""

from __future__ import annotations

import json
import re

import pytest

from corrlib.clips import shipped_clip
from corrlib.errors import InputError
from corrlib.tour import CLIP, tour
from corrlib.video import open_video


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour") / "tour"
    (out / "runs" / "seed-0").mkdir(parents=True)
    (out / "runs" / "seed-0" / "checkpoint.pt").write_text("of an earlier tour")
    (out / "report.html").write_text("old")
    lines: list[str] = []
    metrics = tour(out, seeds=1, minutes=0.01, device="cpu", precision="fp32", report=lines.append)
    return out, metrics, lines


def test_metrics_hold_the_three_methods(toured):
    out, metrics, _ = toured
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert list(metrics) == ["identity", "colour-patch", "ours"]
    for figure in metrics.values():
        assert 0 < figure["J"]["mean"] < 1 and 0 < figure["F"]["mean"] < 1
        mean = (figure["J"]["mean"] + figure["F"]["mean"]) / 2
        assert figure["J&F"] == pytest.approx(mean)
    assert metrics["ours"]["J&F per seed"] == [pytest.approx(metrics["ours"]["J&F"])]
    assert metrics["identity"]["J"]["mean"] < 0.5 < metrics["colour-patch"]["J"]["mean"]


def test_the_video_has_four_panels_for_every_frame(toured):
    out, _, _ = toured
    clip = shipped_clip(CLIP)
    video = open_video(out / "comparison.mp4")
    assert video.info.width == 4 * clip.width and video.info.height > clip.height
    assert len(list(video)) == clip.frames


def test_the_report_is_one_page_that_needs_no_network(toured):
    out, metrics, _ = toured
    page = (out / "report.html").read_text()
    for source in re.findall(r'(?:src|href)="([^"]{0,60})', page):
        assert source.startswith("data:"), source
    assert page.count("<img ") == 3 == len(re.findall(r"<img [^>]*alt=\"[^\"]{20,}", page))
    for name in ("identity", "colour-patch", "ours"):
        assert f"{100 * metrics[name]['J&F']:.1f}" in page
    assert shipped_clip(CLIP).attribution in page


def test_the_report_computes_where_a_pixel_looks(toured):
    page = (toured[0] / "report.html").read_text()
    (fragment,) = re.findall(r'<section class="attention-explorer".*?</section>', page, re.DOTALL)
    assert page.index("Where does a pixel look?") < page.index(fragment) < page.index("Learning")
    assert len(fragment.encode()) < 600_000


def test_it_says_what_it_does_and_leaves_no_halves(toured):
    out, _, lines = toured
    assert [line[:5] for line in lines if line.startswith("[")] == [
        f"[{step}/5]" for step in range(1, 6)
    ]
    assert not list(out.rglob(".*"))


def test_what_an_earlier_tour_left_is_replaced(toured):
    out, _, _ = toured
    assert "old" not in (out / "report.html").read_text()[:100]
    assert (out / "runs" / "seed-0" / "checkpoint.pt").stat().st_size > 1000


def test_no_seeds_is_an_error(tmp_path):
    with pytest.raises(InputError, match="seed"):
        tour(tmp_path, seeds=0)
