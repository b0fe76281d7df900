"""Widgets, without a browser: every control redraws, and mistakes raise."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import ipywidgets
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from corrlib import views, widgets
from corrlib.affinity import full_affinity, keep_top, normalise, restricted_affinity
from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.feature_cache import cached
from corrlib.metrics import region_similarity
from corrlib.propagation import PropagationConfig, propagate_mask
from corrlib.synthetic import synthetic_clip
from corrlib.tracks import PointEstimate, track_points
from corrlib.widgets import points

CLOCK = itertools.count(1)


@pytest.fixture(scope="module")
def explorer():
    frames = synthetic_clip(frames=2, height=45, width=70, seed=1).frames
    maps = normalise(torch.randn(2, 8, 6, 9, generator=torch.Generator().manual_seed(0)))
    return widgets.attention_explorer(
        frames[0], frames[1], maps[:1], maps[1:], stride=8, temperature=0.1, radius=2, topk=5
    )


def parts(box):
    row, *_, picture, words = box.children
    return row.children, picture, words


def click(picture: widgets.ClickablePicture, axes: int, x: float, y: float) -> None:
    """As the page reports a click at a place of one of the figure's axes."""
    figure = picture._figure
    point = figure.axes[axes].transData.transform((x, y))
    across, down = point[0] / figure.bbox.width, 1 - point[1] / figure.bbox.height
    picture.children[1].value = f"{across} {down} {next(CLOCK)}"


def a_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "hello")
    return figure


class TestAttentionExplorer:
    def test_shows_a_picture_and_says_what_it_shows(self, explorer):
        controls, picture, words = parts(explorer)
        assert Image.open(io.BytesIO(picture.data)).format == "JPEG"
        assert "Target cell (4, 3)" in words.value
        assert words.value.count("bits") == 3
        assert 'role="status"' in words.value

    def test_sliders_are_described_in_words_and_cover_the_map(self, explorer):
        u, v, temperature, radius, topk, near = parts(explorer)[0]
        assert (u.min, u.max, v.min, v.max) == (0, 8, 0, 5)
        assert (temperature.value, radius.value, topk.value) == (0.1, 2, 5)
        for control in (u, v, temperature, radius, topk, near):
            assert len(control.description) > 8

    @pytest.mark.parametrize("index", range(5))
    def test_every_control_redraws(self, explorer, index):
        controls, picture, words = parts(explorer)
        before, said = picture.data, words.value
        control = controls[index]
        old = control.value
        control.value = control.min if index != 2 else 1.0
        assert picture.data != before
        assert words.value != said
        control.value = old
        assert (picture.data, words.value) == (before, said)

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
        assert box.children[-1].value.count("at (2, 4), 2 left and 1 down from") == 3
        box = widgets.attention_explorer(frames[0], frames[1], target, target, 8)
        assert box.children[-1].value.count("at (4, 3), no cell from") == 3

    def test_a_large_radius_at_the_start_is_kept(self):
        frames = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
        maps = normalise(torch.ones(2, 4, 2, 3))
        box = widgets.attention_explorer(frames[0], frames[1], maps[:1], maps[1:], 8, radius=6)
        assert parts(box)[0][3].value == 6

    def test_a_click_on_the_target_chooses_the_cell_under_it(self, explorer):
        controls, picture, words = parts(explorer)
        click(picture, 0, 7.6 * 8, 1.2 * 8)
        assert (controls[0].value, controls[1].value) == (7, 1)
        assert "Target cell (7, 1)" in words.value
        click(picture, 1, 2 * 8, 2 * 8)  # the reference
        assert (controls[0].value, controls[1].value) == (7, 1)
        controls[0].value, controls[1].value = 4, 3

    def test_the_three_maps_are_those_of_the_library(self, explorer):
        _, _, words = parts(explorer)
        maps = normalise(torch.randn(2, 8, 6, 9, generator=torch.Generator().manual_seed(0)))
        full = full_affinity(maps[:1], maps[1:], 0.1)
        near = restricted_affinity(maps[:1], maps[1:], 2, 0.1)[0, :, 3, 4]
        columns = full[0, :, 4 + 3 * 9], near, keep_top(full, 5)[0, :, 4 + 3 * 9]
        for column, line in zip(columns, words.value.split("<br>")[1:], strict=True):
            bits = -(column.clamp(min=1e-30) * column.clamp(min=1e-30).log2()).sum()
            assert f"strongest ({column.max():.3g})" in line
            assert f"entropy {bits:.1f} bits" in line
        assert "The 5 best of all:" in words.value

    def test_the_best_cells_can_be_those_of_the_window(self, explorer):
        controls, _, words = parts(explorer)
        controls[0].value, controls[1].value, controls[5].value = 0, 0, True
        maps = normalise(torch.randn(2, 8, 6, 9, generator=torch.Generator().manual_seed(0)))
        near = restricted_affinity(maps[:1], maps[1:], 2, 0.1)
        column = keep_top(near, 5)[0, :, 0, 0]
        assert f"The 5 best within M: strongest ({column.max():.3g})" in words.value
        controls[4].value = 50
        assert "The 9 best within M" in words.value  # the corner has no more
        controls[4].value = 5
        controls[0].value, controls[1].value, controls[5].value = 4, 3, False

    def test_the_copied_colour_is_that_of_the_cells_that_are_looked_at(self):
        """Every reference cell has a colour of its own; the target's cell looks at one of them."""
        red = torch.arange(54).view(6, 9) * 4
        cells = torch.stack([red, 255 - red, torch.full((6, 9), 40)]).to(torch.uint8)
        reference = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
        target = torch.full_like(reference, 60)
        eye = torch.eye(54).view(1, 54, 6, 9)
        box = widgets.attention_explorer(reference, target, eye, eye, 8, temperature=0.003)
        first, *lines = parts(box)[2].value.split("<br>")
        assert "its colour rgb(60, 60, 60)" in first
        red = 4 * (3 * 9 + 4)
        off = (abs(red - 60) + abs(255 - red - 60) + 20) / 3
        for line in lines:
            assert f"copies rgb({red}, {255 - red}, 40), off by {off:.0f}." in line

    def test_a_mean_of_colours_is_copied_through_spread_attention(self):
        reference = torch.zeros(3, 16, 32, dtype=torch.uint8)
        reference[0, :, 16:] = 200
        same = normalise(torch.ones(1, 4, 2, 4))
        box = widgets.attention_explorer(reference, reference, same, same, 8, radius=1)
        full, near, _ = parts(box)[2].value.split("<br>")[1:]
        assert "copies rgb(100, 0, 0)" in full and "3.0 bits" in full
        assert "copies rgb(133, 0, 0)" in near and "6 cells" in near  # columns 1, 2, 3

    def test_frames_may_be_floats_and_of_any_size(self):
        frames = torch.rand(2, 3, 45, 70, generator=torch.Generator().manual_seed(0))
        maps = normalise(torch.ones(2, 4, 6, 9))
        box = widgets.attention_explorer(frames[0], frames[1], maps[:1], maps[1:], 8)
        assert parts(box)[2].value.count("copies rgb(") == 3

    def test_features_of_another_size_than_the_frames_are_refused(self):
        frames = torch.zeros(2, 3, 48, 72, dtype=torch.uint8)
        maps = torch.ones(2, 4, 5, 9)
        with pytest.raises(InputError, match="features of .6, 9. cells"):
            widgets.attention_explorer(frames[0], frames[1], maps[:1], maps[1:], 8)

    def test_k_is_at_most_the_number_of_cells(self):
        frames = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
        maps = normalise(torch.ones(2, 4, 2, 3))
        controls, _, words = parts(
            widgets.attention_explorer(frames[0], frames[1], maps[:1], maps[1:], 8, topk=3)
        )
        assert controls[4].max == 6
        controls[4].value = 6
        assert "The 6 best of all:" in words.value


class TestClickablePicture:
    def shown(self, on_click=None) -> widgets.ClickablePicture:
        picture = widgets.ClickablePicture(on_click)
        figure = Figure(figsize=(4, 2))
        for left in (0.1, 0.6):
            axis = figure.add_axes((left, 0.25, 0.3, 0.5))
            axis.set_xlim(0, 30)
            axis.set_ylim(50, 0)
        picture.show(figure)
        return picture

    def test_tells_axes_and_place_of_a_click(self):
        places = []
        picture = self.shown(lambda *place: places.append(place))
        field = picture.children[1]
        field.value = "0.25 0.5 1000"
        field.value = "0.25 0.5 1001"  # the same place again
        field.value = "0.61 0.26 1002"
        (first, second, third) = places
        assert first == second == (0, pytest.approx(15), pytest.approx(25))
        assert third == (1, pytest.approx(1, abs=0.05), pytest.approx(1, abs=0.05))

    def test_a_click_beside_the_axes_is_nothing(self):
        places = []
        picture = self.shown(lambda *place: places.append(place))
        for where in ("0.5 0.5 1", "0.01 0.01 2", "1 1 3", "1.5 -2 4"):
            picture.children[1].value = where
        assert not places

    def test_a_mistake_in_what_a_click_does_raises(self):
        picture = self.shown(lambda *place: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            picture.children[1].value = "0.25 0.5 1"

    def test_the_picture_has_a_text_alternative_and_keeps_its_place(self):
        shown, _ = self.shown(print).children
        assert re.search(r'alt="[^"]{10,}"', shown.value)
        assert re.search(r'width="\d+" height="\d+"', shown.value)

    def test_the_page_finds_the_field_of_this_picture(self):
        one, other = self.shown(print), self.shown(print)
        (name,) = re.findall(r"corrlib-click-\w+", one.children[0].value)
        assert name in one.children[1]._dom_classes
        assert name not in other.children[1]._dom_classes
        assert one.children[1].layout.display == "none"

    def test_what_does_nothing_does_not_look_as_if(self):
        shown = self.shown().children[0].value
        assert "onclick" not in shown and "crosshair" not in shown

    def test_its_text_form_in_a_saved_notebook_is_short(self, explorer):
        assert len(repr(self.shown(print))) < 100
        assert len(repr(explorer)) < 5000

    def test_needs_nothing_from_elsewhere(self):
        shown = self.shown(print).children[0].value
        assert "http" not in shown and "<script" not in shown
        assert 'src="data:image/jpeg;base64,' in shown

    def test_shows_a_picture_that_was_drawn_before(self):
        places = []
        picture = widgets.ClickablePicture(lambda *place: places.append(place))
        figure = a_figure()
        data = views.jpeg(figure)
        picture.show(data)
        assert picture.data == data
        width, height = (round(side) for side in figure.bbox.size)
        assert f'width="{width}" height="{height}"' in picture.children[0].value
        picture.children[1].value = "0.5 0.5 1"  # there are no axes to click in
        assert not places


class TestExplore:
    def test_a_click_that_sets_several_controls_is_drawn_once(self):
        seen = []

        def render(a, b):
            seen.append((a, b))
            figure = a_figure()
            figure.add_axes((0, 0, 1, 1))
            return figure, ""

        controls = {name: widgets.slider_of(name, 0, 0, 9) for name in "ab"}

        def both(axes, x, y):
            controls["a"].value, controls["b"].value = 3, 4

        box = widgets.explore(render, controls, both)
        click(box.children[-2], 0, 0.5, 0.5)
        assert seen == [(0, 0), (3, 4)]
        controls["a"].value = 5
        assert seen[-1] == (5, 4)

    def test_redraws_with_the_values_by_name(self):
        seen = []

        def render(a, b):
            seen.append((a, b))
            return a_figure(), f"{a} &\n{b}"

        box = widgets.explore(
            render, {"a": widgets.slider_of("first", 1, 0, 3), "b": ipywidgets.Checkbox(False)}
        )
        first, second = parts(box)[0]
        first.value = 2
        second.value = True
        assert seen == [(1, False), (2, False), (2, True)]
        assert "2 &amp;<br>True" in box.children[-1].value

    def test_a_mistake_in_a_callback_raises(self):
        def render(index):
            if index:
                raise RuntimeError("broken")
            return a_figure(), "fine"

        box = widgets.frame_slider(render, 3)
        with pytest.raises(RuntimeError, match="broken"):
            parts(box)[0][0].value = 1

    def test_a_mistake_at_the_start_raises(self):
        with pytest.raises(ZeroDivisionError):
            widgets.frame_slider(lambda index: 1 // 0, 3)

    def test_a_slider_over_frames(self):
        box = widgets.frame_slider(lambda i: (a_figure(), f"frame {i}"), 5, "Frame of the clip")
        ((slider,), _, _) = parts(box)
        assert (slider.min, slider.max, slider.description) == (0, 4, "Frame of the clip")
        slider.value = 4
        assert "frame 4" in box.children[-1].value
        with pytest.raises(InputError, match="at least one frame"):
            widgets.frame_slider(lambda i: (a_figure(), ""), 0)

    def test_no_output_widget_is_needed(self, explorer):
        assert not any(isinstance(child, ipywidgets.Output) for child in explorer.children)


class TestPointExplorer:
    @pytest.fixture
    def frames(self):
        return synthetic_clip(frames=5, height=48, width=64, seed=1).frames

    @pytest.fixture
    def asked(self):
        return []

    @pytest.fixture
    def explorer(self, frames, asked, monkeypatch):
        """Every point goes 2 pixels to the right a frame, and hides on frame 3."""

        def track_points(frames, points, extractor, config):
            asked.append(points)
            for time in range(len(frames)):
                yield PointEstimate(
                    points + torch.tensor([2.0 * time, 0]),
                    torch.full((len(points),), time != 3),
                    torch.full((len(points),), 1 - time / 4),
                )

        monkeypatch.setattr(points, "track_points", track_points)
        return widgets.point_explorer(frames, colour_patch(), points=[(10.0, 20.0)])

    def parts(self, box):
        place, buttons, player, picture, words = box.children
        return SimpleNamespace(
            x=place.children[0],
            y=place.children[1],
            take=buttons.children[0],
            undo=buttons.children[1],
            clear=buttons.children[2],
            play=player.children[0],
            frame=player.children[1],
            picture=picture,
            words=words,
        )

    def test_starts_with_the_points_it_is_given(self, explorer, asked):
        shown = self.parts(explorer)
        assert [points.tolist() for points in asked] == [[[10, 20]]]
        assert shown.frame.value == 2
        assert "1 of 1 points visible" in shown.words.value
        assert "1: (14, 20), confidence 0.50" in shown.words.value

    def test_a_click_on_the_first_frame_adds_the_point_and_asks_for_it_alone(self, explorer, asked):
        shown = self.parts(explorer)
        before = shown.picture.data
        click(shown.picture, 0, 30.2, 11.8)
        assert asked[-1].tolist() == [[30, 12]] and len(asked) == 2
        assert (shown.x.value, shown.y.value) == (30, 12)
        assert "2: (34, 12)" in shown.words.value
        assert shown.picture.data != before

    def test_a_click_on_the_other_frame_adds_nothing(self, explorer, asked):
        shown = self.parts(explorer)
        click(shown.picture, 1, 30, 12)
        assert len(asked) == 1

    def test_a_click_at_the_very_border_is_on_the_frame(self, explorer, asked):
        shown = self.parts(explorer)
        click(shown.picture, 0, 63.45, -0.45)
        assert asked[-1].tolist() == [[63, 0]]

    def test_works_without_a_mouse(self, explorer, asked):
        shown = self.parts(explorer)
        shown.x.value, shown.y.value = 5, 40
        assert "Cursor at (5, 40)" in shown.words.value
        shown.take.click()
        assert asked[-1].tolist() == [[5, 40]]
        assert "of 2 points" in shown.words.value
        shown.undo.click()
        assert "of 1 points" in shown.words.value
        shown.clear.click()
        assert "No point is tracked yet" in shown.words.value
        shown.undo.click()  # there is none
        shown.clear.click()
        shown.take.click()
        assert "of 1 points" in shown.words.value

    def test_scrubbing_and_playing_show_the_same_frame(self, explorer, asked):
        shown = self.parts(explorer)
        shown.frame.value = 3
        assert shown.play.value == 3
        assert "0 of 1 points visible" in shown.words.value
        assert "1: occluded, confidence 0.25" in shown.words.value
        shown.play.value = 4
        assert shown.frame.value == 4
        assert "1: (18, 20)" in shown.words.value
        assert (shown.play.min, shown.play.max) == (0, 4)
        assert len(asked) == 1  # nothing is tracked again

    def test_everything_that_can_be_used_says_what_it_is(self, explorer):
        shown = self.parts(explorer)
        for control in (shown.x, shown.y, shown.take, shown.undo, shown.clear, shown.frame):
            assert len(control.description) >= 5

    def test_tracks_as_the_library_does(self, frames):
        extractor, config = colour_patch(), PropagationConfig(radius=3)
        shown = self.parts(widgets.point_explorer(frames, extractor, config))
        assert "No point is tracked yet" in shown.words.value
        click(shown.picture, 0, 30, 20)
        shown.frame.value = 4
        *_, last = track_points(frames, torch.tensor([[30.0, 20.0]]), extractor, config)
        x, y = last.position[0].tolist()
        place = f"({x:.0f}, {y:.0f})" if last.visible else "occluded"
        assert f"1: {place}, confidence {last.confidence[0]:.2f}" in shown.words.value

    def test_a_mistake_of_the_tracker_raises(self, frames):
        def extract(frame):
            raise RuntimeError("broken")

        shown = self.parts(widgets.point_explorer(frames, replace(colour_patch(), extract=extract)))
        with pytest.raises(RuntimeError, match="broken"):
            shown.take.click()
        with pytest.raises(RuntimeError, match="broken"):
            click(shown.picture, 0, 20, 20)


@pytest.fixture(scope="module")
def clip():
    return synthetic_clip(frames=5, height=48, width=64, seed=1)


@pytest.fixture(scope="module")
def calls():
    """Frames that the propagation explorer had encoded."""
    return []


@pytest.fixture(scope="module")
def propagation(clip, calls):
    plain = colour_patch()

    def extract(frame):
        calls.append(frame)
        return plain.extract(frame)

    truth = {number: clip.masks[number] for number in (0, 2, 4)}
    config = PropagationConfig(references=2, radius=3, topk=5)
    return widgets.propagation_explorer(
        clip.frames, truth, cached(replace(plain, extract=extract)), config
    )


class TestPropagationExplorer:
    def parts(self, box):
        """The frame first, then the settings."""
        row, player, picture, words = box.children
        return [player.children[1], *row.children], picture, words

    def test_says_j_as_the_library_computes_it(self, propagation, clip):
        _, _, words = self.parts(propagation)
        config = PropagationConfig(references=2, radius=3, topk=5)
        masks = list(propagate_mask(clip.frames, clip.masks[0], colour_patch(), config))
        ids = [i for i in clip.masks[0].unique().tolist() if i]
        j = [
            sum(region_similarity(masks[t] == i, clip.masks[t] == i) for i in ids) / len(ids)
            for t in (2, 4)
        ]
        assert f"Frame 4: J {j[1]:.2f} at the start, {j[1]:.2f} as set now" in words.value
        assert f"{sum(j) / 2:.3f} at the start, {sum(j) / 2:.3f} as set now" in words.value

    @pytest.mark.parametrize("index", range(5))
    def test_every_control_redraws(self, propagation, index):
        controls, picture, words = self.parts(propagation)
        before, said = picture.data, words.value
        control = controls[index]
        old = control.value
        control.value = control.min if index != 4 else 10**control.max
        assert picture.data != before
        control.value = old
        assert (picture.data, words.value) == (before, said)

    def test_frames_are_encoded_once_whatever_is_set(self, propagation, calls):
        controls, _, _ = self.parts(propagation)
        controls[2].value = controls[2].max
        controls[1].value = controls[1].max
        assert len(calls) == 5
        controls[2].value, controls[1].value = 3, 2

    def test_a_frame_without_an_outline_has_no_score(self, propagation):
        controls, _, words = self.parts(propagation)
        controls[0].value = 3
        assert words.value.count("J ") == 1  # that of the mean
        controls[0].value = 4

    def test_settings_wait_for_the_end_of_a_drag(self, propagation):
        controls, _, _ = self.parts(propagation)
        assert [c.continuous_update for c in controls] == [True, False, False, False, False]

    def test_wants_a_mask_to_carry(self, clip):
        with pytest.raises(InputError, match="frame 0"):
            widgets.propagation_explorer(clip.frames, {1: clip.masks[1]}, colour_patch())
