"""The attention explorer's page as text. What it computes is tested in tests/browser."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import colormaps

from corrlib import attention_page, views
from corrlib.affinity import normalise
from corrlib.attention_page.fragment import text
from corrlib.attention_page.lesson import FRAME, TRIES
from corrlib.baselines import trained
from corrlib.clips import shipped_clip
from corrlib.errors import InputError
from corrlib.synthetic import synthetic_clip
from corrlib.video import read_video
from corrlib.weights import load_weights

LIMIT = 600_000  # bytes a pair


@pytest.fixture(scope="module")
def page() -> str:
    return attention_page.lesson_page()


def a_pair() -> tuple[torch.Tensor, ...]:
    """Frames that are no multiple of the stride, and their features."""
    frames = synthetic_clip(frames=2, height=45, width=70, seed=1).frames
    maps = normalise(torch.randn(2, 8, 6, 9, generator=torch.Generator().manual_seed(0)))
    return frames[0], frames[1], maps[:1], maps[1:]


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])


def test_eight_bits_are_off_by_half_a_step_at_most():
    features = torch.randn(1, 16, 3, 5, generator=torch.Generator().manual_seed(0))
    features[0, :, 1, 2] = 0
    values, scales = attention_page.quantise(features)
    assert values.dtype == torch.int8 and values.shape == (15, 16) and scales.shape == (15,)
    error = (values * scales[:, None] - features[0].flatten(1).T).abs()
    assert (error <= scales[:, None] * 0.50001).all()
    used = values.abs().amax(dim=1)
    assert (used[[i for i in range(15) if i != 7]] == 127).all() and used[7] == 0


def test_the_page_holds_features_as_they_are_rounded():
    reference, target, *maps = a_pair()
    data = data_of(attention_page.explorer(reference, target, *maps, 8))
    assert (data["height"], data["width"], data["stride"]) == (6, 9, 8)
    for name, features in zip(("reference", "target"), maps, strict=True):
        values, scales = attention_page.quantise(features)
        held = {
            key: zlib.decompress(base64.b64decode(data[name][key])) for key in ("values", "scales")
        }
        assert np.array_equal(np.frombuffer(held["values"], "int8"), values.flatten().numpy())
        assert np.array_equal(np.frombuffer(held["scales"], "<f4"), scales.numpy())


def test_the_lesson_is_one_small_page_that_needs_nothing_else(page):
    assert len(page.encode()) < LIMIT
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert shipped_clip("box").attribution in page
    code = re.sub(r'"[\w+/=]{200,}"|base64,[\w+/=]+', '""', page)
    for reaches_out in (
        "http:",
        "https:",
        "//cdn",
        "url(",
        "fetch(",
        "import ",
        "XMLHttp",
        "@import",
    ):
        assert reaches_out not in code, reaches_out
    for source in re.findall(r'(?:src|href)="([^"]{0,60})', page):
        assert source.startswith("data:"), source
    assert re.search(r'<img [^>]*alt="[^"]{40,}"', page)
    assert "$" not in re.sub(r"\$\{|\$'", "", code), "a placeholder was not filled in"


def test_what_the_answers_say_is_so():
    """The three things to try, with the features before they are rounded."""
    frames = read_video(shipped_clip("box").path, stop=FRAME + 1, step=FRAME)
    *features, stride = attention_page.encode_pair(*frames, trained(load_weights("corrflow")))
    assert (stride, tuple(features[0].shape)) == (12, (1, 256, 30, 40))

    def look(number: int, **options) -> torch.Tensor:
        settings = {"temperature": 0.05} | TRIES[number].settings | options
        cell = settings.pop("u"), settings.pop("v")
        return views.attention_map(*features, cell, **settings)

    # The corner of the picture on the box came from (9, 12), as the hand-placed points say.
    for options, found in (({}, False), ({"radius": 6}, True), ({"topk": 10}, False)):
        u, v = views.peak_cell(look(0, **options))
        assert (max(abs(u - 9), abs(v - 12)) <= 1) is found
        assert found or u > 20
    # The box's right corner came from (30, 7), three rows up.
    assert views.peak_cell(look(1)) == (30, 10)
    assert float(look(1).max()) > 0.4
    assert views.peak_cell(look(1, radius=3)) == (30, 7)
    # Warm: nearly log₂ 1200 bits, and the colour of everything; not for the 10 best.
    assert views.entropy_bits(look(2)) > 9.9
    reference_colours, target_colours = F.avg_pool2d(frames.float(), stride)
    true = target_colours[:, TRIES[2].settings["v"], TRIES[2].settings["u"]]

    def off(**options) -> float:
        return float(((reference_colours * look(2, **options)).sum((1, 2)) - true).abs().mean())

    assert off() > 40 and off(topk=10) < 10
    for options in ({}, {"radius": 6}, {"topk": 10}):
        assert off(temperature=0.05, **options) < 10


def test_colours_are_those_of_the_still_figures():
    """The table in the script, drawn through, against magma's upper part."""
    (table,) = re.findall(r"const COLOURS = \[(.*?)\]", text("explorer.js"), re.DOTALL)
    stops = np.array(
        [[int(h[i : i + 2], 16) for i in (0, 2, 4)] for h in re.findall("#(.{6})", table)]
    )
    places = np.linspace(0, 1, 101)
    drawn = [np.interp(places, np.linspace(0, 1, len(stops)), channel) for channel in stops.T]
    magma = 255 * colormaps["magma"](0.35 + 0.65 * places)[:, :3]
    assert np.abs(np.array(drawn).T - magma).max() < 4


def test_what_is_asked_for_is_where_it_starts():
    fragment = attention_page.explorer(
        *a_pair(),
        8,
        cell=(7, 2),
        temperature=0.2,
        radius=20,
        topk=60,
        target_alt='A "quoted" <one>',
    )
    start = {"u": 7, "v": 2, "temperature": 0.2, "radius": 20, "topk": 60, "near": False}
    assert data_of(fragment)["start"] == start
    assert 'name="radius" min="1" max="20"' in fragment
    assert 'name="topk" min="1" max="54"' in fragment  # there are no more cells
    assert "A &quot;quoted&quot; &lt;one&gt; Arrow keys" in fragment


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference_features": torch.zeros(1, 8, 6, 8)}, r"\(1, 8, 6, 9\).*got \(1, 8, 6, 8\)"),
        ({"target_features": torch.zeros(1, 4, 6, 9)}, "target features"),
        ({"target_features": torch.full((1, 8, 6, 9), torch.nan)}, "finite target"),
        ({"reference": torch.zeros(3, 45, 70)}, "uint8"),
        ({"reference": torch.zeros(3, 45, 71, dtype=torch.uint8)}, "of one size"),
        ({"stride": 9}, r"stride 9"),
    ],
)
def test_what_does_not_fit_is_an_error(change, words):
    names = "reference", "target", "reference_features", "target_features", "stride"
    arguments = dict(zip(names, (*a_pair(), 8), strict=True))
    with pytest.raises(InputError, match=words):
        attention_page.explorer(**arguments | change)
