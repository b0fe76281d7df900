"""The player, without a browser: what it shows of every frame, and what it refuses."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from corrlib import views, widgets
from corrlib.errors import InputError
from corrlib.masks import DISPLAY_COLOURS
from corrlib.synthetic import synthetic_clip
from corrlib.widgets.film import FilmView, Scene


@pytest.fixture(scope="module")
def clip():
    return synthetic_clip(frames=6, height=48, width=64, seed=1)


@pytest.fixture
def tracks():
    """Two points: one moves to the right, the other hides from frame 3 on."""
    position = torch.tensor([[10.0, 20.0], [40.0, 30.0]]).repeat(6, 1, 1)
    position[:, 0, 0] += 3 * torch.arange(6.0)
    visible = torch.ones(6, 2, dtype=torch.bool)
    visible[3:, 1] = False
    confidence = torch.stack([torch.ones(6), torch.linspace(1, 0, 6)], dim=1)
    return position, visible, confidence


def parts(box) -> SimpleNamespace:
    (play, slider), picture, words = box.children[0].children, *box.children[1:]
    return SimpleNamespace(play=play, slider=slider, picture=picture, words=words)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


class TestPlayer:
    def test_scrubbing_and_playing_show_the_same_frame(self, clip):
        shown = parts(widgets.player({"the clip": Scene(clip.frames)}))
        assert "Frame 0 of 0 to 5." in shown.words.value
        shown.slider.value = 4
        assert shown.play.value == 4 and "Frame 4 of" in shown.words.value
        fourth = shown.picture.data
        shown.play.value = 5
        assert shown.slider.value == 5 and "Frame 5 of" in shown.words.value
        assert shown.picture.data != fourth
        shown.play.value = 4
        assert shown.picture.data == fourth
        assert (shown.play.min, shown.play.max, shown.play.interval) == (0, 5, 150)

    def test_every_frame_is_drawn_once(self, clip, monkeypatch):
        drawn = []
        jpeg = views.jpeg
        monkeypatch.setattr(views, "jpeg", lambda figure: drawn.append(0) or jpeg(figure))
        shown = parts(widgets.player({"the clip": Scene(clip.frames)}))
        for _ in range(3):
            for index in range(6):
                shown.slider.value = index
        assert len(drawn) == 6

    def test_can_be_used_without_a_mouse_and_says_what_it_is(self, clip):
        shown = parts(widgets.player({"the clip": Scene(clip.frames)}))
        assert (shown.slider.min, shown.slider.max) == (0, 5)
        assert shown.slider.description and shown.play.description
        assert 'role="status"' in shown.words.value

    def test_says_what_the_points_do_on_each_side(self, clip, tracks):
        halved = (*tracks[:2], tracks[2] / 2)
        shown = parts(
            widgets.player(
                {"one": Scene(clip.frames, tracks=tracks), "two": Scene(clip.frames, None, halved)},
                say=lambda index: f"J is {index / 10} & more",
            )
        )
        assert "one: 2 of 2 points visible, mean confidence 1.00." in shown.words.value
        shown.slider.value = 5
        assert "one: 1 of 2 points visible, mean confidence 0.50." in shown.words.value
        assert "two: 1 of 2 points visible, mean confidence 0.25." in shown.words.value
        assert "J is 0.5 &amp; more" in shown.words.value

    def test_a_mistake_while_drawing_raises(self, clip):
        def say(index):
            if index == 2:
                raise RuntimeError("broken")
            return ""

        shown = parts(widgets.player({"a": Scene(clip.frames)}, say=say))
        with pytest.raises(RuntimeError, match="broken"):
            shown.play.value = 2

    def test_wants_clips_that_fit_each_other(self, clip):
        with pytest.raises(InputError, match="at least one scene"):
            widgets.player({})
        with pytest.raises(InputError, match="one length and size"):
            widgets.player({"a": Scene(clip.frames), "b": Scene(clip.frames[:3])})
        with pytest.raises(InputError, match="at least a frame"):
            widgets.player({"a": Scene(clip.frames[:0])})

    def test_a_scene_wants_masks_and_points_for_its_frames(self, clip, tracks):
        with pytest.raises(InputError, match="a mask for each of 6 frames, got 4"):
            Scene(clip.frames, clip.masks[:4])
        with pytest.raises(InputError, match=r"on 6 frames, got \(5, 2, 2\)"):
            Scene(clip.frames, tracks=tuple(part[:5] for part in tracks))
        with pytest.raises(InputError, match="confidence"):
            Scene(clip.frames, tracks=(*tracks[:2], tracks[2][:, :1]))


class TestFilmView:
    def drawn(self, view, scenes, index) -> np.ndarray:
        view.update(scenes, [index] * len(scenes))
        return pixels(views.jpeg(view.figure))

    def marks(self, axis) -> tuple[set, set]:
        """x of filled dots, and of rings."""
        dots, rings = set(), set()
        for line in axis.lines:
            if line.get_marker() == "o":
                hollow = line.get_markerfacecolor() == "none"
                (rings if hollow else dots).add(round(float(line.get_xdata()[0])))
        return dots, rings

    def legend(self, view) -> list[str]:
        return [text.get_text() for legend in view.figure.legends for text in legend.get_texts()]

    def test_points_that_are_occluded_are_hollow(self, clip, tracks):
        scenes = [Scene(clip.frames, tracks=tracks)]
        view = FilmView(["a"], scenes)
        for index, expected in ((0, ({10, 40}, set())), (4, ({22}, {40})), (1, ({13, 40}, set()))):
            self.drawn(view, scenes, index)
            assert self.marks(view.figure.axes[0]) == expected

    def test_the_tail_follows(self, clip, tracks):
        scenes = [Scene(clip.frames, tracks=tracks)]
        view = FilmView(["a"], scenes, tail=2)
        for index, xs in ((5, [19, 22, 25]), (1, [10, 13])):
            self.drawn(view, scenes, index)
            lines = view.figure.axes[0].lines
            tails = [line for line in lines if line.get_marker() == "None"]
            assert tails[0].get_xdata().tolist() == xs

    def test_masks_are_filled_where_they_are_and_nothing_stays_behind(self, clip):
        masks = torch.zeros(6, 48, 64, dtype=torch.uint8)
        masks[0, 10:40, 5:25] = 1
        masks[3, 10:40, 40:60] = 1
        scenes = [Scene(clip.frames, masks)]
        view = FilmView(["a"], scenes)
        at = {}
        for index in (0, 3, 1):
            picture = self.drawn(view, scenes, index)
            axis = view.figure.axes[0]
            for x in (15, 50):
                column, row = axis.transData.transform((x, 25)).astype(int)
                at[index, x] = picture[len(picture) - row, column]
        colour = DISPLAY_COLOURS[1].astype(int)
        for (index, x), found in at.items():
            grey = np.ptp(found) < 12
            assert grey == ((index, x) not in {(0, 15), (3, 50)}), (index, x, found)
        assert np.argsort(at[0, 15]).tolist() == np.argsort(colour).tolist()

    def test_what_is_shown_has_a_legend(self, clip, tracks):
        ids = sorted(set(clip.masks.unique().tolist()) - {0, 255})
        both = FilmView(["a"], [Scene(clip.frames, clip.masks, tracks)], names=["the cup"])
        rest = [f"object {number}" for number in ids[1:]]
        assert self.legend(both) == [
            *("the cup", *rest),
            *("visible", "occluded", "path of the last 8 frames"),
        ]
        assert any(axis.get_ylabel() == "confidence (0 to 1)" for axis in both.figure.axes)
        assert self.legend(FilmView(["a"], [Scene(clip.frames)])) == []

    def test_masks_of_some_frames_leave_the_others_in_colour(self, clip):
        scenes = [Scene(clip.frames, {2: torch.ones(48, 64, dtype=torch.uint8)})]
        view = FilmView(["a"], scenes)
        for index, in_colour in ((1, True), (2, False)):
            view.update(scenes, [index])
            shown = view.figure.axes[0].images[0].get_array()
            assert (shown == clip.frames[index].permute(1, 2, 0).numpy()).all() == in_colour
        assert scenes[0].ids() == [1]

    @pytest.mark.parametrize("count", (1, 2, 3, 4))
    @pytest.mark.parametrize("shape", ((48, 64), (64, 30)))
    def test_pictures_keep_their_shape_and_do_not_overlap(self, count, shape):
        scenes = [Scene(torch.zeros(2, 3, *shape, dtype=torch.uint8))] * count
        view = FilmView([f"side {number}" for number in range(count)], scenes)
        boxes = [axis.bbox for axis in view.figure.axes]
        for number, box in enumerate(boxes):
            assert box.height / box.width == pytest.approx(shape[0] / shape[1], rel=0.02)
            assert 0 <= box.x0 and box.x1 <= view.figure.bbox.width + 1 and box.y0 >= 0
            assert not any(box.count_overlaps([other]) for other in boxes[:number])
