"""Slides and pages of the course in a real browser, opened from a folder."""

from __future__ import annotations

import pytest
from small_course import EXPLORER_PAGE, make_course

slides_module = pytest.importorskip("corrlib.course.slides")
site_module = pytest.importorskip("corrlib.course.site")

OVERFLOWING = """[...document.querySelectorAll('.slide')].filter(slide => {
    const section = slide.closest('section');
    for (const part of [section, section.parentElement]) part.style.display = 'block';
    const over = slide.scrollHeight - slide.clientHeight > 1 || slide.scrollWidth > 1281;
    for (const part of [section, section.parentElement]) part.style.display = '';
    return over;
}).map(slide => slide.textContent)"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = make_course(tmp_path_factory.mktemp("course"))
    out = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for module in (slides_module, site_module):
            patch.setattr(module, "lesson_page", lambda: EXPLORER_PAGE)
        slides_module.slides(out / "slides", root=root)
        site_module.site(out / "site", root=root)
    return out


@pytest.fixture
def page(browser):
    """A page that may not complain, nor ask for anything but files."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    complaints, asked = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_slides_hold_what_is_on_them(page, made):
    page.goto((made / "slides" / "00_first.html").as_uri())
    page.wait_for_selector(".reveal.ready")
    assert page.evaluate(OVERFLOWING) == []
    # A list of 40 rows is more than one slide; the title comes along, no row is lost.
    last = page.locator(".slides > section").last
    assert last.locator("section").count() >= 2
    assert last.locator("li").count() == 40
    assert last.locator(".running").first.text_content() == "2 Self-test"
    assert page.locator("math").count() == 4


def test_keys_lead_through_the_slides(page, made):
    page.goto((made / "slides" / "00_first.html").as_uri())
    page.wait_for_selector(".reveal.ready")
    seen = []
    for key in ("Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
        seen.append(page.evaluate("Object.values(Reveal.getIndices()).slice(0, 2).join('.')"))
    assert seen == ["1.0", "2.0", "2.1"]


def test_pages_are_searched_and_dark_without_a_server(page, made):
    page.goto((made / "site" / "index.html").as_uri())
    assert page.locator(".sidebar-tree a", has_text="01 · Second").count() == 1
    page.fill("input[name=q]", "zebra")
    page.keyboard.press("Enter")
    page.locator("#search-results a", has_text="Glossary").click()
    assert page.locator("h1").text_content().startswith("Glossary")
    light = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(light)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(light) != before


def test_a_page_folds_solutions_and_holds_the_explorer(page, made):
    page.goto((made / "site" / "notebooks" / "00_first.html").as_uri())
    solution = page.get_by_text("def solution_twice")
    assert not page.get_by_text("secret output").is_visible() and not solution.is_visible()
    page.get_by_text("Show the solution").click()
    assert page.get_by_text("secret output").is_visible() and solution.is_visible()
    page.locator(".explorer").scroll_into_view_if_needed()
    assert page.frame_locator(".explorer").locator("#live").text_content() == "explorer"
