"""Widgets, without a browser: every control redraws, and mistakes raise."""

from __future__ import annotations

import io

import ipywidgets
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from corrlib import widgets
from corrlib.affinity import normalise
from corrlib.errors import InputError
from corrlib.synthetic import synthetic_clip


@pytest.fixture(scope="module")
def explorer():
    frames = synthetic_clip(frames=2, height=45, width=70, seed=1).frames
    maps = normalise(torch.randn(2, 8, 6, 9, generator=torch.Generator().manual_seed(0)))
    return widgets.attention_explorer(
        frames[0], frames[1], maps[:1], maps[1:], stride=8, temperature=0.1, radius=2
    )


def parts(box):
    *controls, picture, words = box.children
    return controls, picture, words


def a_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "hello")
    return figure


class TestAttentionExplorer:
    def test_shows_a_picture_and_says_what_it_shows(self, explorer):
        controls, picture, words = parts(explorer)
        assert Image.open(io.BytesIO(picture.value)).format == "PNG"
        assert "Target cell (4, 3)" in words.value
        assert words.value.count("bits") == 2
        assert 'role="status"' in words.value

    def test_sliders_are_described_in_words_and_cover_the_map(self, explorer):
        u, v, temperature, radius = parts(explorer)[0]
        assert (u.min, u.max, v.min, v.max) == (0, 8, 0, 5)
        assert (temperature.value, radius.value) == (0.1, 2)
        for control in (u, v, temperature, radius):
            assert len(control.description) > 8

    @pytest.mark.parametrize("index", range(4))
    def test_every_control_redraws(self, explorer, index):
        controls, picture, words = parts(explorer)
        before, said = picture.value, words.value
        control = controls[index]
        old = control.value
        control.value = control.min if index != 2 else 1.0
        assert picture.value != before
        assert words.value != said
        control.value = old
        assert (picture.value, words.value) == (before, said)

    def test_the_corners_of_every_slider_work(self, explorer):
        controls, _, words = parts(explorer)
        old = [control.value for control in controls]
        for u in (0, 8):
            for v in (0, 5):
                controls[0].value, controls[1].value = u, v
                assert f"Target cell ({u}, {v})" in words.value
        controls[2].value = 10 ** controls[2].min
        controls[2].value = 10 ** controls[2].max
        controls[3].value = controls[3].max
        assert "Restricted to 54 cells" in words.value
        for control, value in zip(controls, old, strict=True):
            control.value = value

    def test_the_words_are_right(self, explorer):
        controls, _, words = parts(explorer)
        old = controls[2].value
        controls[2].value = 10 ** controls[2].min  # so cold that one cell has it all
        assert "strongest (1) at" in words.value and "entropy 0.0 bits" in words.value
        controls[2].value = old

    def test_the_displacement_is_where_the_peak_moved(self):
        frames = torch.zeros(2, 3, 48, 72, dtype=torch.uint8)
        target = torch.eye(54).view(1, 54, 6, 9)  # every cell like itself alone
        moved = target.roll((1, -2), (2, 3))
        box = widgets.attention_explorer(frames[0], frames[1], moved, target, 8)
        assert box.children[-1].value.count("at (2, 4), 2 left and 1 down from") == 2
        box = widgets.attention_explorer(frames[0], frames[1], target, target, 8)
        assert box.children[-1].value.count("at (4, 3), no cell from") == 2

    def test_a_large_radius_at_the_start_is_kept(self):
        frames = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
        maps = normalise(torch.ones(2, 4, 2, 3))
        box = widgets.attention_explorer(frames[0], frames[1], maps[:1], maps[1:], 8, radius=6)
        assert parts(box)[0][3].value == 6


class TestExplore:
    def test_redraws_with_the_values_by_name(self):
        seen = []

        def render(a, b):
            seen.append((a, b))
            return a_figure(), f"{a} &\n{b}"

        box = widgets.explore(
            render, {"a": widgets.slider_of("first", 1, 0, 3), "b": ipywidgets.Checkbox(False)}
        )
        box.children[0].value = 2
        box.children[1].value = True
        assert seen == [(1, False), (2, False), (2, True)]
        assert "2 &amp;<br>True" in box.children[-1].value

    def test_a_mistake_in_a_callback_raises(self):
        def render(index):
            if index:
                raise RuntimeError("broken")
            return a_figure(), "fine"

        box = widgets.frame_slider(render, 3)
        with pytest.raises(RuntimeError, match="broken"):
            box.children[0].value = 1

    def test_a_mistake_at_the_start_raises(self):
        with pytest.raises(ZeroDivisionError):
            widgets.frame_slider(lambda index: 1 // 0, 3)

    def test_a_slider_over_frames(self):
        box = widgets.frame_slider(lambda i: (a_figure(), f"frame {i}"), 5, "Frame of the clip")
        slider = box.children[0]
        assert (slider.min, slider.max, slider.description) == (0, 4, "Frame of the clip")
        slider.value = 4
        assert "frame 4" in box.children[-1].value
        with pytest.raises(InputError, match="at least one frame"):
            widgets.frame_slider(lambda i: (a_figure(), ""), 0)

    def test_no_output_widget_is_needed(self, explorer):
        assert not any(isinstance(child, ipywidgets.Output) for child in explorer.children)
