"""Figures: what they show, what they refuse, and how small they are."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from corrlib import views
from corrlib.affinity import full_affinity, normalise, restricted_affinity
from corrlib.errors import InputError
from corrlib.synthetic import synthetic_clip
from corrlib.views import output


@pytest.fixture(scope="module")
def clip():
    return synthetic_clip(frames=7, height=48, width=72, seed=3)


@pytest.fixture
def features(generator):
    maps = torch.randn(2, 8, 6, 9, generator=generator)
    return normalise(maps[:1]), normalise(maps[1:])


def drawn(figure: Figure) -> np.ndarray:
    return opened(views.png(figure))


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


class TestShow:
    def test_is_a_png_with_its_alt_text(self, clip):
        shown = views.show(views.images({"a": clip.frames[0]}), alt="A made-up scene")
        data, metadata = shown._repr_mimebundle_()
        assert metadata["image/png"]["alt"] == "A made-up scene"
        assert shown.data.startswith(b"\x89PNG")

    def test_shows_a_description_that_needs_no_eyes(self, clip, monkeypatch):
        published = []
        monkeypatch.setattr(output, "display", lambda *a, **k: published.append((a[0], k)))
        views.show(views.images({"a": clip.frames[0]}), alt="A <made-up> scene")._ipython_display_()
        (picture, about), (words, _) = published
        assert about["metadata"]["image/png"]["alt"] == picture["text/plain"] == "A <made-up> scene"
        assert "<details>" in words["text/html"] and "A &lt;made-up&gt; scene" in words["text/html"]

    def test_wants_an_alt_text(self):
        with pytest.raises(InputError, match="alt"):
            views.show(Figure(), alt=" ")

    def test_leaves_no_figure_behind(self, clip):
        pyplot = pytest.importorskip("matplotlib.pyplot")
        before = pyplot.get_fignums()
        views.show(views.images({"a": clip.frames[0]}), alt="x")
        assert pyplot.get_fignums() == before

    def test_keeps_white_black_and_nearly_every_colour(self):
        figure = Figure(figsize=(1, 1), facecolor="white")
        axis = figure.add_axes((0, 0, 1, 0.5))
        axis.set_facecolor((0.4, 0.6, 0.2))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        pixels = drawn(figure)
        assert (pixels[5, 5] == 255).all()
        assert np.abs(pixels[70, 50].astype(float) / 255 - (0.4, 0.6, 0.2)).max() < 0.02

    def test_a_figure_of_photographs_is_small_enough_for_a_notebook(self):
        noise = torch.rand(8, 3, 240, 320, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
        figure = views.clip_strip(smooth)
        assert len(views.png(figure)) < 150_000


class TestImages:
    def test_pictures_and_maps_each_with_a_title(self, clip):
        figure = views.images(
            {
                "bytes": clip.frames[0],
                "floats": clip.frames[0] / 255,
                "map": clip.frames[0, 0].float(),
            },
            label="brightness",
        )
        assert titles(figure) == ["bytes", "floats", "map"]
        assert figure.axes[-1].get_ylabel() == "brightness"
        first, second = (axis.images[0].get_array() for axis in figure.axes[:2])
        assert np.array_equal(first, second)

    def test_limits_hold_for_every_map(self):
        maps = {"a": torch.rand(4, 6), "b": 10 * torch.rand(4, 6)}
        figure = views.images(maps, limits=(0, 10))
        assert [axis.images[0].get_clim() for axis in figure.axes[:2]] == [(0, 10)] * 2

    def test_rows_are_filled_from_the_left(self):
        figure = views.images({str(k): torch.rand(4, 6) for k in range(5)}, columns=2)
        places = [axis.get_subplotspec() for axis in figure.axes[:5]]
        assert [(p.rowspan.start, p.colspan.start) for p in places] == [
            *((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
        ]

    def test_gradients_and_other_devices_do_not_matter(self):
        views.png(views.images({"a": torch.rand(4, 6, requires_grad=True)}))

    def test_refuses_nothing_and_batches(self):
        with pytest.raises(InputError, match="got none"):
            views.images({})
        with pytest.raises(InputError, match="shape"):
            views.images({"a": torch.rand(1, 4, 6)})


class TestStrips:
    def test_a_strip_says_which_frames(self, clip):
        assert titles(views.clip_strip(clip.frames, indices=[0, 3])) == ["frame 0", "frame 3"]
        assert len(titles(views.clip_strip(clip.frames))) == 6

    def test_masks_colour_a_grey_frame(self, clip):
        figure = views.clip_strip(clip.frames, {3: clip.masks[3]}, indices=[0, 3])
        without, under = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[:2])
        assert np.array_equal(without, clip.frames[0].permute(1, 2, 0).numpy())
        background = clip.masks[3].numpy() == 0
        colourfulness = under.max(axis=2).astype(int) - under.min(axis=2)
        assert np.median(colourfulness[background]) == 0  # outlines lie on it, too
        assert np.median(colourfulness[~background]) > 20

    def test_a_comparison_has_a_column_for_each_method(self, clip):
        figure = views.mask_comparison(
            clip.frames, {"truth": clip.masks, "none": {0: clip.masks[0]}}, [0, 4, 6]
        )
        assert titles(figure) == ["truth", "none"]
        assert len(figure.axes) == 6
        assert [a.get_ylabel() for a in figure.axes[::2]] == ["frame 0", "frame 4", "frame 6"]

    def test_frames_are_spread_over_the_clip(self):
        assert views.spread(7, 3) == [0, 3, 6]
        assert views.spread(3, 6) == [0, 1, 2]
        assert views.spread(1, 6) == [0]


class TestCurvesAndMatrices:
    def test_lines_differ_in_more_than_colour(self):
        series = {str(k): ([0, 1, 2], [k, k + 1, k]) for k in range(4)}
        figure = views.curves(series, "frame", "J", title="over time", logy=True)
        (axis,) = figure.axes
        looks = {(line.get_marker(), line.get_linestyle()) for line in axis.lines}
        assert len(looks) == 4
        assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("frame", "J", "log")
        assert [t.get_text() for t in figure.legends[0].get_texts()] == list(series)

    def test_one_line_needs_no_legend(self):
        assert not views.curves({"loss": ([0, 1], [2, 1])}, "step", "loss").legends

    def test_a_heatmap_is_labelled(self):
        figure = views.heatmap(torch.rand(5, 3), "target", "reference", "A", label="share")
        axis, bar = figure.axes
        assert (axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()) == (
            *("target", "reference", "share"),
        )
        assert axis.images[0].get_array().shape == (5, 3)


class TestAttentionMap:
    def test_is_a_column_of_the_full_affinity(self, features):
        columns = full_affinity(*features, temperature=0.1)[0]
        found = views.attention_map(*features, (7, 2), 0.1)
        assert torch.allclose(found.flatten(), columns[:, 2 * 9 + 7], atol=1e-6)

    @pytest.mark.parametrize("cell", [(0, 0), (8, 5), (4, 3)])
    @pytest.mark.parametrize("radius", [1, 3, 20])
    def test_is_a_window_of_the_restricted_affinity(self, features, cell, radius):
        u, v = cell
        window = restricted_affinity(*features, radius, temperature=0.1)[0, :, v, u]
        window = window.view(2 * radius + 1, 2 * radius + 1)
        found = views.attention_map(*features, cell, 0.1, radius)
        for y in range(6):
            for x in range(9):
                dy, dx = y - v + radius, x - u + radius
                inside = 0 <= dy <= 2 * radius and 0 <= dx <= 2 * radius
                expected = float(window[dy, dx]) if inside else 0.0
                assert float(found[y, x]) == pytest.approx(expected, abs=1e-6)

    def test_refuses_a_cell_outside(self, features):
        for cell in ((9, 0), (0, 6), (-1, 0)):
            with pytest.raises(InputError, match="cell"):
                views.attention_map(*features, cell, 0.1)

    def test_entropy_and_peak(self):
        assert views.entropy_bits(torch.full((4, 8), 1 / 32)) == pytest.approx(5)
        one = torch.zeros(4, 8)
        one[1, 6] = 1
        assert views.entropy_bits(one) == 0
        assert views.peak_cell(one) == (6, 1)
        assert views.entropy_bits(torch.tensor([[0.5, 0.25, 0.25]])) == pytest.approx(1.5)
        assert math.isfinite(views.entropy_bits(torch.rand(3, 3).softmax(0)))


class TestAttention:
    def test_marks_cell_peak_and_radius_in_pixels(self, clip):
        values = torch.zeros(6, 9)
        values[1, 7] = 1.0
        figure = views.attention(
            clip.frames[0], clip.frames[1], {"full": values}, (2, 3), stride=8, radius=1
        )
        target, reference = figure.axes
        assert titles(figure) == ["target", "full"]
        (cell,), (square,) = target.patches, reference.patches
        assert (cell.get_xy(), cell.get_width()) == ((15.5, 23.5), 8)
        assert (square.get_xy(), square.get_width()) == ((7.5, 15.5), 24)
        peak = reference.lines[0].get_xydata()
        assert peak.tolist() == [[7 * 8 + 3.5, 1 * 8 + 3.5]]
        assert reference.images[1].get_extent() == [-0.5, 71.5, 47.5, -0.5]
        assert "(7, 1)" in reference.get_xlabel()

    def test_no_radius_no_square(self, clip):
        figure = views.attention(
            clip.frames[0], clip.frames[1], {"full": torch.rand(6, 9)}, (2, 3), stride=8
        )
        assert not figure.axes[1].patches[0].get_visible()

    def test_a_frame_that_is_no_multiple_of_the_stride_keeps_its_size(self):
        frame = torch.zeros(3, 45, 70, dtype=torch.uint8)
        figure = views.attention(frame, frame, {"full": torch.rand(6, 9)}, (8, 5), stride=8)
        for axis in figure.axes:
            assert axis.get_xlim() == (-0.5, 69.5)
            assert axis.get_ylim() == (44.5, -0.5)
        assert figure.axes[1].images[1].get_extent() == [-0.5, 71.5, 47.5, -0.5]

    def test_the_strongest_cell_is_the_brightest(self, clip):
        values = torch.full((6, 9), 1e-4)
        values[4, 2] = 0.9
        figure = views.attention(clip.frames[0], clip.frames[1], {"full": values}, (0, 0), stride=8)
        colours = figure.axes[1].images[1].get_array()
        brightness = colours[..., :3].sum(axis=2) * colours[..., 3]
        assert np.unravel_index(brightness.argmax(), brightness.shape) == (4, 2)

    def test_can_be_updated(self, clip):
        view = views.AttentionView(clip.frames[0], clip.frames[1], ("a", "b"), 8)
        maps = [torch.rand(6, 9), torch.rand(6, 9)]
        view.update(maps, (1, 1), 2)
        first = views.png(view.figure)
        view.update(maps, (5, 4), 2)
        assert views.png(view.figure) != first
        view.update(maps, (1, 1), 2)
        assert views.png(view.figure) == first
        with pytest.raises(ValueError):
            view.update(maps[:1], (1, 1))


class TestLiveFigure:
    @pytest.fixture
    def live(self):
        figure = views.LiveFigure(figsize=(2, 1), facecolor="black")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.axis("off")
        axis.set_xlim(0, 2)
        axis.set_ylim(0, 1)
        still = axis.add_patch(Rectangle((0, 0), 0.5, 1, color="white"))
        moving = axis.add_patch(Rectangle((1, 0), 0.5, 1, color="white"))
        figure.moving = [moving]
        return figure, still, moving

    def lit(self, figure) -> list[bool]:
        """Whether each quarter of the width is white."""
        middle = drawn(figure)[45]
        return [middle[x].mean() > 128 for x in (22, 67, 112, 157)]

    def test_looks_as_if_it_were_drawn_whole(self, live):
        figure, _, moving = live
        assert self.lit(figure) == [True, False, True, False]
        moving.set_x(1.5)
        assert self.lit(figure) == [True, False, False, True]
        moving.set_visible(False)
        assert self.lit(figure) == [True, False, False, False]

    def test_only_what_moves_is_drawn_again(self, live):
        figure, still, moving = live
        self.lit(figure)
        still.set_x(0.5)
        assert self.lit(figure) == [True, False, True, False]
        figure.moving = []
        assert self.lit(figure) == [True, False, False, False]

    def test_what_is_hidden_at_first_can_be_shown_later(self, live):
        figure, _, moving = live
        moving.set_visible(False)
        assert self.lit(figure) == [True, False, False, False]
        moving.set_visible(True)
        assert self.lit(figure) == [True, False, True, False]

    def test_a_jpeg_shows_the_same_as_a_png(self, clip):
        figure = views.images({"a": clip.frames[0], "b": clip.masks[0]})
        pair = [opened(data).astype(float) for data in (views.png(figure), views.jpeg(figure))]
        assert np.abs(pair[0] - pair[1]).mean() < 4


class TestTracks:
    @pytest.fixture
    def found(self):
        """Three points on seven frames: one moves, one hides on frame 4, one is lost on it."""
        position = torch.zeros(7, 3, 2)
        position[:, 0, 0] = 10 + 5 * torch.arange(7.0)
        position[:, 1] = torch.tensor([50.0, 30.0])
        position[:, 2] = torch.tensor([30.0, 20.0])
        position[4, 2] = torch.nan
        visible = torch.ones(7, 3, dtype=torch.bool)
        visible[4, 1] = False
        return position, visible, torch.full((7, 3), 0.5)

    def marks(self, axis):
        """Places of filled dots and of rings, each once."""
        dots, rings = set(), set()
        for line in axis.lines:
            if line.get_marker() == "o":
                kind = rings if line.get_markerfacecolor() == "none" else dots
                kind.add(tuple(float(value[0]) for value in line.get_data()))
        return dots, rings

    def test_visible_points_are_filled_and_occluded_ones_hollow(self, clip, found):
        figure = views.tracks(clip.frames, *found, indices=[0, 4])
        first, later, _ = figure.axes
        assert self.marks(first) == ({(10, 0), (50, 30), (30, 20)}, set())
        assert self.marks(later) == ({(30, 0)}, {(50, 30)})

    def test_the_tail_is_as_long_as_asked(self, clip, found):
        figure = views.tracks(clip.frames, *found, indices=[6], tail=2)
        tails = [line for line in figure.axes[0].lines if line.get_marker() != "o"]
        assert tails[0].get_xdata().tolist() == [30, 35, 40]
        assert titles(figure) == ["frame 6"]

    def test_colours_are_those_of_the_bar(self, clip, found):
        position, visible, confidence = found
        confidence = confidence.clone()
        confidence[0] = torch.tensor([0.0, 0.5, 1.0])
        figure = views.tracks(clip.frames, position, visible, confidence, indices=[0])
        axis, bar = figure.axes
        faces = [line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"]
        for share, face in zip((0.0, 0.0, 0.5, 0.5, 1.0, 1.0), faces, strict=True):
            assert face == pytest.approx(colormaps["viridis"](share))
        assert bar.get_ylabel() == "confidence (0 to 1)"
        assert bar.get_ylim() == (0, 1)

    def test_axes_and_marks_are_explained(self, clip, found):
        figure = views.tracks(clip.frames, *found, indices=[0, 3], cursor=(5, 6))
        first, second, _ = figure.axes
        assert (first.get_xlabel(), first.get_ylabel()) == ("x (pixels)", "y (pixels)")
        words = [t.get_text() for t in figure.legends[0].get_texts()]
        assert {"visible", "occluded", "cursor"} <= set(words)
        crosses = [line for line in first.lines if line.get_marker() == "+"]
        assert [tuple(c.get_xydata()[0]) for c in crosses] == [(5, 6)]
        assert not [line for line in second.lines if line.get_marker() == "+"]

    def test_the_frame_is_shown_whole_whatever_leaves_it(self, clip, found):
        position, visible, confidence = found
        figure = views.tracks(clip.frames, position + 100, visible, confidence, indices=[6])
        assert figure.axes[0].get_xlim() == (-0.5, 71.5)
        assert figure.axes[0].get_ylim() == (47.5, -0.5)

    def test_no_points_is_a_picture_of_the_frames(self, clip):
        nothing = torch.zeros(7, 0)
        figure = views.tracks(clip.frames, torch.zeros(7, 0, 2), nothing.bool(), nothing)
        assert titles(figure) == ["frame 0", "frame 3", "frame 6"]
        views.png(figure)

    def test_refuses_what_does_not_go_together(self, clip, found):
        position, visible, confidence = found
        with pytest.raises(InputError, match="visible"):
            views.tracks(clip.frames, position, visible[:, :2], confidence)
        with pytest.raises(InputError, match="7 frames"):
            views.tracks(clip.frames, position[:5], visible[:5], confidence[:5])


class TestSkeletons:
    def test_a_row_for_each_frame_and_a_column_for_each_method(self, clip):
        joints = torch.rand(7, 3, 2) * 40
        figure = views.skeletons(
            clip.frames, {"one": joints, "other": joints + 2}, [(0, 1)], [2, 5]
        )
        assert titles(figure) == ["one", "other"]
        assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["frame 2", "frame 5"]
        bone = figure.axes[2].lines[0].get_xydata()
        assert np.allclose(bone, joints[5, :2].numpy())

    def test_errors_lead_from_what_was_found_to_the_truth(self, clip):
        joints = torch.rand(7, 2, 2) * 40
        true = {3: joints[3] + 4}
        figure = views.skeletons(clip.frames, {"one": joints}, [], [1, 3], truth=true)
        without, under = figure.axes
        segments = [line.get_xydata() for line in under.lines if len(line.get_xdata()) == 2]
        ends = torch.stack([joints[3], true[3]], dim=1).numpy()
        assert any(np.allclose(segment, ends[0]) for segment in segments)
        assert len(without.lines) < len(under.lines)
        words = [t.get_text() for t in figure.legends[0].get_texts()]
        assert words == ["joint", "bone", "true place", "error"]

    def test_a_lost_joint_is_left_out(self, clip):
        joints = torch.full((7, 2, 2), torch.nan)
        joints[:, 0] = 10
        views.png(views.skeletons(clip.frames, {"one": joints}, [(0, 1)], [0]))


class TestSweeps:
    def test_every_setting_has_its_panel_and_its_values(self):
        figure = views.sweeps(
            {
                "radius": ([1, 2, "all"], {"J": [0.1, 0.5, 0.4], "F": [0.2, 0.3, 0.1]}),
                "top k": ([1, 10], {"J": [0.3, 0.4], "F": [0.1, 0.2]}),
            },
            "mean",
            marks={"radius": 2},
            limits=(0, 1),
        )
        radius, topk = figure.axes
        assert [t.get_text() for t in radius.get_xticklabels()] == ["1", "2", "all"]
        assert (radius.get_xlabel(), topk.get_xlabel(), radius.get_ylabel()) == (
            *("radius", "top k", "mean"),
        )
        assert list(radius.lines[0].get_ydata()) == [0.1, 0.5, 0.4]
        assert list(radius.lines[2].get_xdata()) == [1, 1]
        assert len(topk.lines) == 2
        assert topk.get_ylim() == (0, 1)
        words = [t.get_text() for t in figure.legends[0].get_texts()]
        assert words[:2] == ["J", "F"] and len(words) == 3

    def test_many_series_are_all_drawn(self):
        series = {str(number): [number, number + 1] for number in range(9)}
        figure = views.sweeps({"x": ([0, 1], series)}, "y")
        assert len(figure.axes[0].lines) == 9


class TestSettingsComparison:
    def test_masks_above_scores_below(self, clip):
        figure = views.settings_comparison(
            clip.frames[3],
            {"truth": clip.masks[3], "mine": clip.masks[2], "none": None},
            {"a": ([1, 3], [0.5, 0.6]), "b": ([1, 3], [0.7, 0.8])},
            3,
        )
        *pictures, curves = figure.axes
        assert titles(figure) == ["truth", "mine", "none"]
        plain = np.asarray(pictures[2].images[0].get_array())
        assert np.array_equal(plain, clip.frames[3].permute(1, 2, 0).numpy())
        assert not np.array_equal(np.asarray(pictures[0].images[0].get_array()), plain)
        assert [list(line.get_ydata()) for line in curves.lines[:2]] == [[0.5, 0.6], [0.7, 0.8]]
        assert list(curves.lines[2].get_xdata()) == [3, 3]
        words = [t.get_text() for t in curves.get_legend().get_texts()]
        assert words == ["a", "b", "this frame"]


class TestPlaceIn:
    @pytest.mark.parametrize("layout", [None, "constrained"])
    def test_finds_the_pixel_under_a_place_of_the_picture(self, clip, layout):
        figure = Figure(figsize=(5, 2), layout=layout)
        for axis in figure.subplots(1, 2):
            axis.imshow(clip.frames[0].permute(1, 2, 0).numpy())
        views.png(figure)
        for number, axis in enumerate(figure.axes):
            x, y = axis.transData.transform((60, 10))
            across, down = x / figure.bbox.width, 1 - y / figure.bbox.height
            assert views.place_in(figure, across, down) == (
                *(number, pytest.approx(60), pytest.approx(10)),
            )

    def test_between_axes_there_is_nothing(self):
        figure = Figure(figsize=(4, 2))
        figure.add_axes((0.1, 0.1, 0.3, 0.8))
        views.png(figure)
        assert views.place_in(figure, 0.5, 0.5) is None
        assert views.place_in(figure, 0.2, 0.5) is not None
        assert views.place_in(figure, 1.2, -3) is None
