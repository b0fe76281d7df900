"""The attention explorer's page: its arithmetic against the library's, and driven in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zlib
from io import BytesIO

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from corrlib import attention_page, views
from corrlib.affinity import full_affinity, keep_top, normalise, restricted_affinity
from corrlib.attention_page.fragment import text
from corrlib.attention_page.lesson import TRIES
from corrlib.geometry import pad_to_multiple
from corrlib.synthetic import synthetic_clip

HEIGHT, WIDTH, CHANNELS = 6, 9, 32

ANSWER = """async ([frames, questions, pictures]) => {
  const [reference, target] = await Promise.all(frames.map(unpack));
  const answers = questions.map((question) =>
    Object.fromEntries(Object.entries(affinities(reference, target, question)).map(
      ([name, { share }]) =>
        [name, { share: [...share], bits: entropy(share), peak: peak(share) }])));
  const colours = pictures.map(([picture, ...grid]) => cellColours(picture, ...grid));
  return { answers, colours };
}"""


def compute(request, frames, questions=(), pictures=()) -> dict:
    """What attention.js answers, in node or, where that is not, in the browser."""
    argument = [frames, list(questions), list(pictures)]
    if not shutil.which("node"):
        page = request.getfixturevalue("browser").new_page()
        return page.evaluate(
            f"(given) => {{ {text('attention.js')}; return ({ANSWER})(given); }}", argument
        )
    program = f"""{text("attention.js")}
        const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
        ({ANSWER})(given).then((answer) => console.log(JSON.stringify(answer)));"""
    result = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(argument),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def pair() -> list[torch.Tensor]:
    """Unit features of a synthetic pair with some likeness: (1, C, h, w) each."""
    made = torch.Generator().manual_seed(3)
    first = torch.randn(1, CHANNELS, HEIGHT, WIDTH, generator=made)
    noise = torch.randn(1, CHANNELS, HEIGHT, WIDTH, generator=made)
    return [normalise(first), normalise(first.roll((1, -2), (2, 3)) + noise)]


@pytest.fixture(scope="module")
def fragment(pair) -> str:
    frames = synthetic_clip(frames=2, height=45, width=70, seed=1).frames
    return attention_page.explorer(
        *frames, *pair, 8, cell=(4, 3), temperature=0.1, radius=2, topk=5
    )


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])


def dequantised(features: torch.Tensor) -> torch.Tensor:
    values, scales = attention_page.quantise(features)
    cells = values.double() * scales.double()[:, None]
    return cells.T.unflatten(1, features.shape[-2:])[None]


QUESTIONS = [
    {"u": u, "v": v, "temperature": t, "radius": m, "topk": k, "near": near}
    | {"height": HEIGHT, "width": WIDTH}
    for (u, v), t, m, k, near in (
        ((0, 0), 0.05, 2, 5, False),
        ((8, 5), 0.02, 1, 1, True),
        ((4, 3), 1.0, 3, 10, True),
        ((8, 0), 0.1, 20, 54, False),
        ((3, 5), 0.07, 2, 50, True),  # fewer than k within M
    )
]


def library(pair: list[torch.Tensor], question: dict) -> dict[str, torch.Tensor]:
    """The three affinities of a target cell as maps (h, w), by :mod:`corrlib.affinity`."""
    u, v, tau, m = (question[name] for name in ("u", "v", "temperature", "radius"))
    column = v * WIDTH + u
    full = full_affinity(*pair, tau)
    # The window's cells (2M+1)² in row-major order, put back where they lie in the image.
    window = restricted_affinity(*pair, m, tau)[0, :, v, u].unflatten(0, (2 * m + 1, -1))
    around = torch.zeros(HEIGHT + 2 * m, WIDTH + 2 * m, dtype=window.dtype)
    around[v : v + 2 * m + 1, u : u + 2 * m + 1] = window
    restricted = around[m:-m, m:-m].clone()
    around[m:-m, m:-m] = 0
    assert not around.any()  # outside the image: exactly 0
    of = restricted.reshape(1, -1, 1) if question["near"] else full[:, :, column, None]
    top = keep_top(of, question["topk"])
    return {
        "full": full[0, :, column].unflatten(0, (HEIGHT, WIDTH)),
        "restricted": restricted,
        "top": top[0, :, 0].unflatten(0, (HEIGHT, WIDTH)),
    }


def as_map(share: list[float]) -> torch.Tensor:
    return torch.tensor(share, dtype=torch.float64).view(HEIGHT, WIDTH)


def test_affinities_are_the_librarys(request, pair, fragment):
    data = data_of(fragment)
    rounded = [dequantised(features) for features in pair]
    answers = compute(request, [data["reference"], data["target"]], QUESTIONS)["answers"]
    for question, answer in zip(QUESTIONS, answers, strict=True):
        for name, expected in library(rounded, question).items():
            found = as_map(answer[name]["share"])
            assert (found - expected).abs().max() < 1e-5, (question, name)
            assert torch.equal(found == 0, expected == 0), (question, name)
            assert answer[name]["bits"] == pytest.approx(views.entropy_bits(expected), abs=1e-5)
            assert answer[name]["peak"] == int(expected.argmax())


def test_rounding_changes_them_within_the_bound(request, pair, fragment):
    """``A (exp(2ε/τ) - 1)`` with the ε of :func:`quantise`; and the k best are the k best to 2ε."""
    data = data_of(fragment)
    reference, target = (features[0].flatten(1).T.double() for features in pair)  # (n, C)
    steps = [attention_page.quantise(features)[1].double() / 2 for features in pair]
    rounded = dequantised(pair[0])[0].flatten(1).T
    bound = steps[0][:, None] * target.abs().sum(1) + steps[1] * rounded.abs().sum(1)[:, None]
    scores = reference @ target.T
    answers = compute(request, [data["reference"], data["target"]], QUESTIONS)["answers"]
    assert bound.max() < 0.05  # or it says nothing
    for question, answer in zip(QUESTIONS, answers, strict=True):
        column = question["v"] * WIDTH + question["u"]
        epsilon = float(bound[:, column].max())
        factor = torch.tensor(2 * epsilon / question["temperature"]).double().expm1()
        for name, expected in library([maps.double() for maps in pair], question).items():
            found = as_map(answer[name]["share"])
            if name == "top" and not torch.equal(found > 0, expected > 0):
                chosen = scores[(found > 0).flatten(), column]
                least = scores[(expected > 0).flatten(), column].min()
                assert chosen.min() > least - 2 * epsilon
                continue
            assert ((found - expected).abs() <= expected * factor + 1e-12).all(), (question, name)


def test_colours_of_cells_are_means_with_the_edge_repeated(request):
    frame = synthetic_clip(frames=1, height=45, width=70, seed=2).frames[0]
    rgba = torch.cat([frame, torch.full((1, 45, 70), 255, dtype=torch.uint8)])
    picture = {"width": 70, "height": 45, "data": rgba.permute(1, 2, 0).flatten().tolist()}
    (found,) = compute(request, [], pictures=[[picture, 8, 6, 9]])["colours"]
    expected = F.avg_pool2d(pad_to_multiple(frame[None].double(), 8), 8)[0]
    assert torch.allclose(torch.tensor(found).double(), expected.flatten(1).T, atol=1e-4)


class Shown:
    """A page in the browser, with what it complained of and asked for."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}} | options)
        self.page, self.errors, self.requests = self.context.new_page(), [], []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def started(self) -> Shown:
        self.page.wait_for_selector(".attention-explorer[data-answered]")
        return self

    def caption(self, panel: str) -> str:
        return self.page.inner_text(f"[data-panel={panel}] figcaption")

    def pictures(self) -> list[str]:
        return self.page.eval_on_selector_all("canvas", "all => all.map(c => c.toDataURL())")

    def slide(self, name: str, value: float) -> None:
        self.page.fill(f"input[name={name}]", str(value))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    path.write_text(attention_page.lesson_page(), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser, lesson):
    shown = Shown(browser, lesson).started()
    yield shown
    assert not shown.errors
    assert not [url for url in shown.requests if not url.startswith(("file:", "data:", "blob:"))]
    shown.context.close()


def test_says_what_the_library_says(shown, lesson):
    data = data_of(lesson.read_text(encoding="utf-8"))
    features, colours = [], []
    for frame in (data["reference"], data["target"]):
        held = {
            name: zlib.decompress(base64.b64decode(frame[name])) for name in ("values", "scales")
        }
        scales = torch.frombuffer(bytearray(held["scales"]), dtype=torch.float32)
        values = torch.frombuffer(bytearray(held["values"]), dtype=torch.int8)
        cells = values.view(len(scales), -1) * scales[:, None]
        features.append(cells.T.unflatten(1, (30, 40))[None])
        picture = Image.open(BytesIO(base64.b64decode(frame["picture"].partition(",")[2])))
        colours.append(F.avg_pool2d(pil_to_tensor(picture.convert("RGB")).float(), data["stride"]))
    u, v = TRIES[0].settings["u"], TRIES[0].settings["v"]
    for panel, options in {"full": {}, "restricted": {"radius": 6}, "top": {"topk": 10}}.items():
        found = views.attention_map(*features, (u, v), 0.05, **options)
        off = ((colours[0] * found).sum((1, 2)) - colours[1][:, v, u]).abs().mean()
        words = shown.caption(panel)
        for pattern, value, tolerance in (
            (r"strongest ([\d.]+)", float(found.max()), 0.0051),
            (r"entropy ([\d.]+) bits", views.entropy_bits(found), 0.051),
            (r"off by (\d+)/255", float(off), 2),  # decoders round differently
        ):
            assert float(re.search(pattern, words)[1]) == pytest.approx(value, abs=tolerance)


def test_a_click_chooses_the_cell_under_it(shown):
    before = shown.pictures()
    box = shown.page.locator("[data-panel=target] canvas").bounding_box()
    u, v = 25, 8
    shown.page.mouse.click(
        box["x"] + box["width"] * (u + 0.5) / 40, box["y"] + box["height"] * (v + 0.5) / 30
    )
    assert f"cell ({u}, {v})" in shown.caption("target")
    assert all(old != new for old, new in zip(before, shown.pictures(), strict=True))
    assert shown.page.input_value("[name=u]") == str(u)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 1, box["y"] + 1)
    assert "cell (0, 0)" in shown.caption("target")
    shown.page.mouse.move(box["x"] - 50, box["y"] + box["height"] + 50)  # beside it: the nearest
    shown.page.mouse.up()
    assert "cell (0, 29)" in shown.caption("target")
    shown.page.mouse.move(box["x"] + 90, box["y"] + 90)
    assert "cell (0, 29)" in shown.caption("target")


def test_arrow_keys_move_the_cell_and_the_change_is_spoken(shown):
    u, v = TRIES[0].settings["u"], TRIES[0].settings["v"]
    status = shown.page.locator("[role=status][aria-live=polite]")
    shown.page.focus("[data-panel=target] canvas")
    shown.page.keyboard.press("ArrowRight")
    shown.page.keyboard.press("Shift+ArrowDown")
    assert f"cell ({u + 1}, {v + 5})" in shown.caption("target")
    shown.page.wait_for_function(
        f"/cell .{u + 1}, {v + 5}./.test(document.querySelector('.said').textContent)"
    )
    assert status.inner_text().count("bits") == 3
    for _ in range(10):
        shown.page.keyboard.press("Shift+ArrowUp")
    assert f"cell ({u + 1}, 0)" in shown.caption("target")  # it stays in the picture
    assert shown.page.evaluate("scrollY") == 0
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.name") == "u"


def test_sliders_change_what_they_should(shown):
    before = {panel: shown.caption(panel) for panel in ("full", "restricted", "top")}
    shown.slide("topk", 3)
    assert "the best 3 of all" in shown.caption("top")
    shown.slide("radius", 2)
    assert "25 cells, M = 2" in shown.caption("restricted")
    assert shown.caption("full") == before["full"]
    shown.page.check("[name=near]")
    assert "the best 3 within M" in shown.caption("top")
    shown.slide("temperature", 0)
    assert shown.page.inner_text("label:has([name=temperature]) output") == "1.000"
    assert "10.2 bits" in shown.caption("full")
    shown.slide("temperature", -2)
    assert "10.2 bits" not in shown.caption("full")


def test_things_to_try_are_set_up_by_a_button(shown):
    shown.page.click("text=Set it up >> nth=1")
    assert "25 cells, M = 2" in shown.caption("restricted")
    assert "at the same place" in shown.caption("restricted")
    shown.page.click("text=Set it up >> nth=2")
    assert "169 cells, M = 6" in shown.caption("restricted")  # what is not named is as at the start
    assert shown.page.locator("details[open]").count() == 0


def test_every_picture_says_what_it_shows(shown):
    labels = shown.page.eval_on_selector_all("canvas", "all => all.map(c => c.ariaLabel)")
    assert len(labels) == 4 and all(len(label) > 60 for label in labels)
    for name in ("u", "v", "temperature", "radius", "topk", "near"):
        assert shown.page.locator(f"label:has(input[name={name}])").inner_text().strip()
    assert not shown.page.is_visible(".still")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_is_wide_enough(browser, lesson, scheme):
    small = {"width": 400, "height": 800}
    shown = Shown(browser, lesson, viewport=small, color_scheme=scheme, has_touch=True).started()
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 400
    box = shown.page.locator("[data-panel=target] canvas").bounding_box()
    shown.page.touchscreen.tap(box["x"] + box["width"] - 3, box["y"] + 3)
    assert "cell (39, 0)" in shown.caption("target")
    assert not shown.errors
    shown.context.close()


def test_without_scripts_a_still_figure_stands_there(browser, lesson):
    shown = Shown(browser, lesson, java_script_enabled=False)
    assert shown.page.locator(".still img").bounding_box()["width"] > 500
    assert shown.page.locator(".live").bounding_box() is None
    shown.context.close()


def test_a_browser_that_cannot_compute_keeps_the_still_figure(browser, lesson, tmp_path):
    page = lesson.read_text(encoding="utf-8").replace("new DecompressionStream", "new Unheard")
    (tmp_path / "old.html").write_text(page, encoding="utf-8")
    shown = Shown(browser, tmp_path / "old.html")
    shown.page.wait_for_selector(".still img", state="visible")
    assert any("Unheard" in error for error in shown.errors)
    shown.context.close()


def test_two_on_one_page_do_not_disturb_each_other(browser, fragment, tmp_path):
    (tmp_path / "two.html").write_text(f"<!doctype html>{fragment}{fragment}", encoding="utf-8")
    shown = Shown(browser, tmp_path / "two.html")
    shown.page.wait_for_function("document.querySelectorAll('[data-answered]').length == 2")
    shown.page.locator("input[name=u]").nth(1).fill("8")
    captions = shown.page.locator("[data-panel=target] figcaption")
    assert "cell (4, 3)" in captions.nth(0).inner_text()
    assert "cell (8, 3)" in captions.nth(1).inner_text()
    assert not shown.errors
    shown.context.close()
