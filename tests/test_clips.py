"""The shipped clips: sizes, licences, and annotations that fit their videos."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from corrlib.clips import (
    CLIPS_FOLDER,
    Clip,
    PointTracks,
    fill_polygons,
    read_polygons,
    shipped_clip,
    shipped_clips,
)
from corrlib.errors import InputError
from corrlib.masks import PALETTE

CLIPS = shipped_clips()
ANNOTATED = [clip for clip in CLIPS if clip.masks]
TRACKED = [clip for clip in CLIPS if clip.points is not None]

each_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
each_annotated = pytest.mark.parametrize("clip", ANNOTATED, ids=lambda clip: clip.name)
each_tracked = pytest.mark.parametrize("clip", TRACKED, ids=lambda clip: clip.name)


def test_there_is_enough_to_learn_and_to_score() -> None:
    assert len(CLIPS) >= 3
    assert sum(len(clip.masks) >= 8 for clip in CLIPS) >= 2
    assert any(len(clip.objects) == 2 for clip in ANNOTATED)
    assert any(len(t.points.names) >= 8 and len(t.points.frames) >= 11 for t in TRACKED)


def test_the_folder_stays_small() -> None:
    assert sum(file.stat().st_size for file in CLIPS_FOLDER.rglob("*") if file.is_file()) < 5e6


@each_clip
def test_clip_says_whose_it_is(clip: Clip) -> None:
    for text in (clip.title, clip.source, clip.author, clip.attribution, clip.what_was_changed):
        assert text.strip()
    assert clip.licence in {"Apache-2.0", "CC-BY-3.0"}
    assert clip.licence_url.startswith("https://")
    readme = (CLIPS_FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"`{clip.name}`" in readme and clip.attribution in readme


@each_clip
def test_video_is_what_its_description_says(clip: Clip) -> None:
    assert clip.path.stat().st_size < 1.5e6
    with av.open(str(clip.path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(clip.fps)
        sizes = {(frame.height, frame.width) for frame in container.decode(stream)}
        assert sizes == {(clip.height, clip.width)}
        container.seek(0)
        assert sum(1 for _ in container.decode(stream)) == clip.frames


@each_clip
def test_video_starts_playing_before_it_is_whole(clip: Clip) -> None:
    start = clip.path.read_bytes()
    assert 0 < start.find(b"moov") < start.find(b"mdat")


@each_annotated
def test_masks_fit_the_clip(clip: Clip) -> None:
    assert clip.objects
    assert min(clip.masks) == 0 and max(clip.masks) < clip.frames
    for file in clip.masks.values():
        with Image.open(file) as image:
            assert image.mode == "P" and image.size == (clip.width, clip.height)
            palette = np.array(image.getpalette()).reshape(-1, 3)
            ids = set(np.unique(np.asarray(image)))
        assert ids == set(range(len(clip.objects) + 1))
        used = len(clip.objects) + 1
        np.testing.assert_array_equal(palette[:used], PALETTE[:used])


@each_annotated
def test_masks_are_the_filled_polygons(clip: Clip) -> None:
    assert clip.polygons is not None
    outlines = read_polygons(clip.polygons)
    assert sorted(outlines) == sorted(clip.masks)
    for frame, objects in outlines.items():
        filled = fill_polygons(objects, clip.height, clip.width)
        np.testing.assert_array_equal(filled, np.asarray(Image.open(clip.masks[frame])))


@each_annotated
def test_copying_the_first_mask_is_a_poor_answer(clip: Clip) -> None:
    masks = {frame: np.asarray(Image.open(file)) for frame, file in clip.masks.items()}
    overlaps = []
    for number in range(1, len(clip.objects) + 1):
        first = masks[0] == number
        for frame in sorted(masks)[1:]:
            now = masks[frame] == number
            overlaps.append((first & now).sum() / (first | now).sum())
    assert np.mean(overlaps) < 0.5


@each_tracked
def test_points_lie_within_the_frame(clip: Clip) -> None:
    points = clip.points
    frames, count = len(points.frames), len(points.names)
    assert points.xy.shape == (frames, count, 2) and points.xy.dtype == np.float32
    assert points.visible.shape == (frames, count) and points.visible.dtype == bool
    assert points.frames[0] == 0 and (np.diff(points.frames) > 0).all()
    assert points.frames[-1] < clip.frames
    assert points.visible[0].all() and not points.visible.all()
    assert (points.xy >= 0).all() and (points.xy <= [clip.width - 1, clip.height - 1]).all()
    assert len(set(points.names)) == count


@each_tracked
def test_visible_points_lie_on_the_annotated_object(clip: Clip) -> None:
    both = sorted(set(clip.masks) & set(points_frames := clip.points.frames.tolist()))
    assert both
    for frame in both:
        row = points_frames.index(frame)
        mask = np.asarray(Image.open(clip.masks[frame]))
        near = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2), (5, 5)).max(axis=(2, 3))
        for (x, y), seen in zip(clip.points.xy[row], clip.points.visible[row], strict=True):
            assert not seen or near[round(float(y)), round(float(x))]


def test_fill_takes_pixels_that_are_half_covered() -> None:
    square = [[1.5, 0.5], [4.5, 0.5], [4.5, 2.5], [1.5, 2.5]]
    expected = np.zeros((4, 6), dtype=np.uint8)
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(fill_polygons({1: [square]}, 4, 6), expected)
    less = [[1.5, 0.5], [4.25, 0.5], [4.25, 2.5], [1.5, 2.5]]
    np.testing.assert_array_equal(fill_polygons({1: [less]}, 4, 6), expected)
    expected[1:3, 4] = 0
    least = [[1.5, 0.5], [3.75, 0.5], [3.75, 2.5], [1.5, 2.5]]
    np.testing.assert_array_equal(fill_polygons({1: [least]}, 4, 6), expected)


def test_higher_ids_lie_in_front_and_polygons_of_one_object_are_united() -> None:
    def block(x: float, width: float) -> list[list[float]]:
        return [[x - 0.5, -0.5], [x + width - 0.5, -0.5], [x + width - 0.5, 2], [x - 0.5, 2]]

    mask = fill_polygons({2: [block(2, 2)], 1: [block(0, 3), block(5, 1)]}, 2, 7)
    np.testing.assert_array_equal(mask, [[1, 1, 2, 2, 0, 1, 0]] * 2)


def test_clips_are_found_by_name_and_cannot_be_changed() -> None:
    name = CLIPS[0].name
    clip = shipped_clip(name)
    assert clip.name == name and clip.path.is_file()
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.name = "other"  # type: ignore[misc]


def test_unknown_name_lists_the_clips() -> None:
    with pytest.raises(InputError) as error:
        shipped_clip("blackswan")
    message = str(error.value)
    assert "blackswan" in message and "\n" not in message
    assert all(clip.name in message for clip in CLIPS)


def test_missing_and_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        shipped_clips(tmp_path)
    clip = tmp_path / "mine"
    clip.mkdir()
    (clip / "clip.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"clip\.json"):
        shipped_clips(tmp_path)
    (clip / "clip.json").write_text(json.dumps({"name": "mine"}), encoding="utf-8")
    with pytest.raises(InputError, match="'title'"):
        shipped_clips(tmp_path)


def test_clip_without_annotations_is_read(tmp_path: Path) -> None:
    about = json.loads((CLIPS_FOLDER / CLIPS[0].name / "clip.json").read_text(encoding="utf-8"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "clip.json").write_text(json.dumps(about), encoding="utf-8")
    (clip,) = shipped_clips(tmp_path)
    assert clip.masks == {} and clip.polygons is None and clip.points is None


@each_tracked
def test_points_are_read_as_written(clip: Clip) -> None:
    points = clip.points
    assert isinstance(points, PointTracks)
    written = json.loads((clip.path.parent / "points.json").read_text(encoding="utf-8"))
    last = int(points.frames[-1])
    x, y, visible = written["frames"][str(last)][0]
    np.testing.assert_allclose(points.xy[-1, 0], [x, y], rtol=1e-6)
    assert points.visible[-1, 0] == bool(visible)
