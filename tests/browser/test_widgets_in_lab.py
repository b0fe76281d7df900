"""The widgets in a real JupyterLab and a real browser, by mouse and by keyboard."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

PICTURE = "img[alt='The figure that the text below describes']"
PATIENCE = 300_000  # milliseconds, for machines that have other work


class Lesson:
    """A notebook that is open in JupyterLab."""

    def __init__(self, browser, lab: tuple[str, str], name: str):
        address, token = lab
        self.outside, self.complaints = [], []
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        self.page.route("**/*", self._keep_inside)
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{address}/lab/tree/{name}?reset&token={token}")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self._wait_for_kernel(f"{address}/api/sessions?token={token}", name)

    def _wait_for_kernel(self, sessions: str, name: str) -> None:
        """The page says "idle" from the start; ask the server whether they have met."""
        for _ in range(PATIENCE // 500):
            with urlopen(sessions) as answer:
                kernels = [one["kernel"] for one in json.load(answer) if one["path"] == name]
            if any(one["connections"] and one["execution_state"] == "idle" for one in kernels):
                return
            self.page.wait_for_timeout(500)
        pytest.fail(f"no kernel was ready for {name}")

    def _keep_inside(self, route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https") and address.hostname != "127.0.0.1":
            self.outside.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    def _listen(self, message) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def run_all(self) -> None:
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        self.page.wait_for_function(  # folded solutions have an empty prompt
            "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
            ".every(prompt => /^(\\[\\d+\\]:)?$/.test(prompt.textContent))",
            polling=500,
        )
        assert self.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0

    def close(self) -> None:
        self.page.close()


class Shown:
    """One widget: its picture, its words, its sliders."""

    def __init__(self, page, cell):
        self.page, self.cell = page, cell
        self.picture = cell.locator(PICTURE)
        self.words = cell.locator("[role=status]")
        self.picture.scroll_into_view_if_needed()

    def slider(self, description: str):
        row = self.cell.locator(".widget-slider", has_text=description)
        return row.locator("[role=slider]")

    def changes(self, action) -> str:
        """Do something, wait until the picture has changed, and return the words then."""
        before = self.picture.get_attribute("src")
        action()
        self.page.wait_for_function(
            "([cell, picture, before]) => cell.querySelector(picture).src !== before",
            arg=[self.cell.element_handle(), PICTURE, before],
            polling=50,
        )
        self.page.wait_for_timeout(200)  # the words follow the picture
        return self.words.inner_text()

    def drag(self, handle, pixels: int) -> None:
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + pixels / 2, y, steps=3)
        self.page.mouse.move(x + pixels, y, steps=3)
        self.page.mouse.up()


@pytest.fixture
def lesson(browser, lab, request):
    opened = Lesson(browser, lab, request.param)
    opened.run_all()
    yield opened
    opened.close()


def chosen(words: str) -> tuple[int, int]:
    column, row = re.search(r"Target cell \((\d+), (\d+)\)", words).groups()
    return int(column), int(row)


@pytest.mark.parametrize("lesson", ["02_full_affinity.ipynb"], indirect=True)
def test_the_attention_explorer(lesson):
    page = lesson.page
    shown = Shown(page, page.locator(".jp-CodeCell", has=page.locator(PICTURE)).first)
    assert shown.words.inner_text().count("bits") == 3

    # A click on the target, which is on the left above.
    start = chosen(shown.words.inner_text())
    size = shown.picture.bounding_box()
    place = {"x": size["width"] * 0.1, "y": size["height"] * 0.2}
    clicked = chosen(shown.changes(lambda: shown.picture.click(position=place)))
    assert clicked[0] < start[0] and clicked[1] < start[1]

    # The mouse on a slider.
    column = shown.slider("column (x)")
    dragged = chosen(shown.changes(lambda: shown.drag(column, 60)))
    assert dragged[0] > clicked[0] and dragged[1] == clicked[1]

    # The keyboard, with the focus on a slider.
    column.focus()
    stepped = chosen(shown.changes(lambda: page.keyboard.press("ArrowRight")))
    assert stepped == (dragged[0] + 1, dragged[1])
    shown.slider("Best cells k").focus()
    assert "The 9 best" in shown.changes(lambda: page.keyboard.press("ArrowLeft"))
    for description in ("Temperature", "Radius M"):
        shown.slider(description).focus()
        assert shown.changes(lambda: page.keyboard.press("ArrowLeft"))

    assert not lesson.complaints
    assert lesson.outside == []


@pytest.mark.parametrize("lesson", ["05_scheduled_sampling.ipynb"], indirect=True)
def test_the_player(lesson):
    page = lesson.page
    shown = Shown(page, page.locator(".jp-CodeCell", has=page.locator(PICTURE)).first)
    assert "Frame 0 of" in shown.words.inner_text()

    # It plays to the end, and back at the start it stays where it is paused.
    buttons = shown.cell.locator(".widget-play button")
    last = int(re.search(r"Frame 0 of 0 to (\d+)", shown.words.inner_text())[1])
    buttons.nth(0).click()
    page.wait_for_function(
        "([cell, last]) => cell.querySelector('[role=status]').textContent"
        ".includes(`Frame ${last} of`)",
        arg=[shown.cell.element_handle(), last],
        polling=100,
    )
    page.wait_for_timeout(500)
    assert f"Frame {last} of" in shown.words.inner_text()

    # The keyboard, then the mouse, on the slider.
    slider = shown.slider("Frame")
    slider.focus()
    assert f"Frame {last - 1} of" in shown.changes(lambda: page.keyboard.press("ArrowLeft"))
    assert "Frame 0 of" in shown.changes(lambda: page.keyboard.press("Home"))
    assert "Frame 0 of" not in shown.changes(lambda: shown.drag(slider, 80))

    assert not lesson.complaints
    assert lesson.outside == []
