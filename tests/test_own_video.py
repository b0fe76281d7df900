"""Your own video: turned, uneven, odd, with sound, stopped half way, broken."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from phone_videos import TICK, UNEVEN, heard, moving_square, shown_at, write_phone_video
from PIL import Image

from corrlib.baselines import colour_patch, identity
from corrlib.errors import InputError
from corrlib.keypoint_files import read_keypoints
from corrlib.keypoints import Skeleton, propagate_keypoints
from corrlib.masks import read_mask
from corrlib.own_video import carry_keypoints, carry_mask, carry_points, check_outputs
from corrlib.propagation import PropagationConfig, propagate_mask
from corrlib.tracks import PointEstimate
from corrlib.video import open_video, read_video


def square_mask(size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    """The square of ``moving_square`` on its first frame."""
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[10:30, 8:28] = 1
    return mask


def same(mask: torch.Tensor):
    return lambda frames: identity(frames, mask)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_time_stamps_and_sound_stay(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), sound="aac")
    outcome = carry_mask(open_video(source), same(square_mask()), tmp_path / "out.mp4")
    assert (outcome.frames, outcome.finished) == (6, True)
    assert outcome.sound == "sound copied (aac)" and outcome.seconds > 0
    assert shown_at(tmp_path / "out.mp4") == [time * TICK for time in UNEVEN]
    (before, tone), (after, kept) = heard(source), heard(tmp_path / "out.mp4")
    assert before == after and np.array_equal(tone, kept)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_turned_videos_are_written_upright(tmp_path, rotation, turns):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), rotation=rotation)
    mask = square_mask().rot90(turns)
    carry_mask(open_video(source), same(mask), tmp_path / "out.mp4", tmp_path / "masks")
    assert read_mask(tmp_path / "masks" / "00003.png").shape == mask.shape
    before, after = read_video(source)[0].int(), read_video(tmp_path / "out.mp4")[0].int()
    assert before.shape == after.shape == (3, *mask.shape)
    difference = (before - after).abs().float().mean(0)
    assert difference[mask == 1].mean() > 8 * difference[mask == 0].mean()


def test_odd_sizes_come_back_in_masks(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(3, (47, 63)), UNEVEN[:3])
    carry_mask(
        open_video(source), same(square_mask((47, 63))), tmp_path / "out.mp4", tmp_path / "masks"
    )
    assert names(tmp_path / "masks") == ["00000.png", "00001.png", "00002.png"]
    assert read_mask(tmp_path / "masks" / "00002.png").shape == (47, 63)
    assert read_video(tmp_path / "out.mp4").shape == (3, 3, 48, 64)


@pytest.mark.parametrize(("short_side", "least"), [(None, 0.5), (24, 0.05), (96, 0.5)])
def test_masks_have_the_size_of_the_video_whatever_is_encoded(tmp_path, short_side, least):
    source = write_phone_video(tmp_path / "a.mp4", moving_square())
    carry = partial(
        propagate_mask,
        mask=square_mask(),
        extractor=colour_patch(),
        config=PropagationConfig(radius=3, short_side=short_side),
    )
    carry_mask(open_video(source), carry, tmp_path / "out.mp4", tmp_path / "masks")
    last = read_mask(tmp_path / "masks" / "00005.png")
    assert last.shape == (48, 64)
    truth = square_mask().roll(10, dims=1)
    assert ((last & truth).sum() / (last | truth).sum()) > least


def test_a_stop_leaves_whole_files_of_the_frames_so_far(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), sound="aac")
    done = itertools.count(1)
    outcome = carry_mask(
        open_video(source),
        same(square_mask()),
        tmp_path / "out.mp4",
        tmp_path / "masks",
        stop=lambda: next(done) == 4,
    )
    assert (outcome.frames, outcome.finished) == (4, False)
    assert shown_at(tmp_path / "out.mp4") == [time * TICK for time in UNEVEN[:4]]
    assert len(heard(tmp_path / "out.mp4")[1]) < len(heard(source)[1])
    assert names(tmp_path) == ["a.mp4", "masks", "out.mp4"]
    assert names(tmp_path / "masks") == [f"{index:05d}.png" for index in range(4)]


def test_an_error_leaves_nothing(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), sound="aac")

    def failing(frames):
        for index, _ in enumerate(frames):
            if index == 3:
                raise InputError("no more")
            yield square_mask()

    with pytest.raises(InputError, match="no more"):
        carry_mask(open_video(source), failing, tmp_path / "out.mp4", tmp_path / "masks")
    assert names(tmp_path) == ["a.mp4"]


def test_no_frame_is_held_back(tmp_path):
    """What is decoded is at most one frame ahead of what is written, however long the video."""
    source = write_phone_video(tmp_path / "a.mp4", moving_square(12), range(0, 240, 20))
    written, ahead = [], []

    def carry(frames):
        for index, _ in enumerate(frames):
            ahead.append(index - len(written))
            yield square_mask()

    carry_mask(open_video(source), carry, tmp_path / "out.mp4", on_frame=lambda: written.append(1))
    assert len(written) == 12 and set(ahead) == {0}


def test_keypoints_are_drawn_and_their_tracks_can_be_given_again(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), sound="aac")
    skeleton = Skeleton(("corner", "middle", "hidden"), ((0, 1), (1, 2)))
    points = torch.tensor([[8.0, 10.0], [18.0, 20.0], [torch.nan, torch.nan]])
    config = PropagationConfig(radius=3)
    carry = partial(propagate_keypoints, points=points, extractor=colour_patch(), config=config)
    outcome = carry_keypoints(
        open_video(source), carry, skeleton, tmp_path / "out.mp4", tmp_path / "tracks.json"
    )
    assert outcome.frames == 6 and outcome.sound == "sound copied (aac)"
    tracks = json.loads((tmp_path / "tracks.json").read_text())["frames"]
    assert len(tracks) == 6 and tracks[5]["joints"][2]["x"] is None
    (tmp_path / "again.json").write_text(json.dumps(tracks[5]))
    again, places = read_keypoints(tmp_path / "again.json", (48, 64))
    assert again == skeleton
    assert abs(places[1, 0] - 28) < 8 and abs(places[1, 1] - 20) < 8
    before, after = read_video(source)[0].int(), read_video(tmp_path / "out.mp4")[0].int()
    difference = (before - after).abs().float().mean(0)
    assert difference[20, 18] > 20 and difference[:, 40:].mean() < 5


def test_points_are_drawn_with_their_tails(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), sound="aac")
    points = torch.tensor([[9.0, 11.0], [50.0, 40.0]])

    def carry(frames):
        for index, _ in enumerate(frames):
            seen = torch.tensor([True, index < 3])
            yield PointEstimate(points + 2.0 * index, seen, torch.tensor([1.0, 0.2]))

    outcome = carry_points(
        open_video(source), carry, tmp_path / "out.mp4", tmp_path / "tracks.json"
    )
    assert outcome.frames == 6 and outcome.sound == "sound copied (aac)"
    tracks = json.loads((tmp_path / "tracks.json").read_text())
    assert tracks["points"][0]["x"] == [9, 11, 13, 15, 17, 19]
    assert tracks["points"][1]["visible"] == [True] * 3 + [False] * 3
    before, after = read_video(source)[5].int(), read_video(tmp_path / "out.mp4")[5].int()
    difference = (before - after).abs().float().mean(0)
    assert difference[21, 19] > 30 and difference[46:, :40].mean() < 5


def test_outputs_need_names_of_their_own(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(2), UNEVEN[:2])
    video = open_video(source)
    check_outputs(video, (tmp_path / "b.mp4", None, tmp_path / "c.json"))
    (tmp_path / "link.mp4").symlink_to(source)
    for outputs in [(source,), (tmp_path / "b", tmp_path / "b"), (tmp_path / "link.mp4",)]:
        with pytest.raises(InputError, match="name of its own"):
            check_outputs(video, outputs)


def test_a_folder_of_frames_has_no_sound(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(moving_square(3)):
        Image.fromarray(frame).save(folder / f"{index}.png")
    outcome = carry_mask(open_video(folder), same(square_mask()), tmp_path / "out.mp4")
    assert (outcome.frames, outcome.sound) == (3, None)
