"""The frame cache: decoded once, complete or absent."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corrlib import frames as module
from corrlib.datasets import video_paths
from corrlib.errors import InputError
from corrlib.frames import FrameCache
from corrlib.video import VideoWriter, read_video


def write(path: Path, count: int = 5, level: int = 10, fps: int = 12) -> Path:
    with VideoWriter(path, fps) as writer:
        for i in range(count):
            writer.write(torch.full((3, 32, 48), level + 10 * i, dtype=torch.uint8))
    return path


def stored(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_it_holds_the_frames_of_each_video(tmp_path):
    paths = [write(tmp_path / "a.mp4", 5), write(tmp_path / "b.mp4", 3, level=50)]
    cache = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    assert cache.names == ("a", "b")
    assert cache.paths == tuple(paths)
    assert cache.frames == 8 and cache.skipped == ()
    assert cache.shapes == ((5, 3, 16, 24), (3, 3, 16, 24))
    assert len(cache.videos) == 2
    for path, video in zip(paths, cache.videos, strict=True):
        assert isinstance(video, np.memmap) and video.dtype == np.uint8
        assert not video.flags.writeable
        expected = read_video(path, short_side=16)
        assert torch.equal(torch.from_numpy(np.array(video)), expected)


def test_a_second_run_decodes_nothing(tmp_path, monkeypatch):
    paths = [write(tmp_path / "a.mp4")]
    first = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)

    def fail(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "_store", fail)
    assert FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False) == first


def test_other_settings_and_changed_files_are_other_entries(tmp_path):
    path = write(tmp_path / "a.mp4")
    cache = tmp_path / "cache"

    def build(**settings):
        return FrameCache.build([path], cache, **{"short_side": 16, "progress": False, **settings})

    files = [build().files, build(short_side=8).files, build(fps=4).files]
    os.utime(path, ns=(1, 1))
    files.append(build().files)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (20, 20)).save(folder / f"{i}.png")
    path = folder
    files.append(build().files)
    Image.new("RGB", (20, 20)).save(folder / "2.png")
    files.append(build().files)
    assert len(set(files)) == 6 == len(stored(cache))


def test_thinning_to_a_rate(tmp_path):
    path = write(tmp_path / "a.mp4", count=9, fps=12)
    for fps, step in [(12, 1), (4, 3), (100, 1), (5, 2)]:
        cache = FrameCache.build([path], tmp_path / "c", short_side=16, fps=fps, progress=False)
        expected = read_video(path, step=step, short_side=16)
        assert torch.equal(torch.from_numpy(np.array(cache.videos[0])), expected)


def test_what_cannot_be_used_is_skipped_and_named(tmp_path):
    good = write(tmp_path / "good.mp4")
    one = write(tmp_path / "one.mp4", count=1)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    broken = tmp_path / "broken"
    broken.mkdir()
    Image.new("RGB", (20, 20)).save(broken / "0.png")
    (broken / "1.png").write_bytes(b"no image")
    paths = [one, text, good, broken, tmp_path / "gone.mp4"]
    cache = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    assert cache.names == ("good",)
    reasons = dict(cache.skipped)
    assert list(reasons) == [str(p) for p in paths if p != good]
    assert "1 frame" in reasons[str(one)]
    assert "cannot be read as a video" in reasons[str(text)]
    assert "1.png" in reasons[str(broken)]
    assert stored(tmp_path / "cache") == list(cache.files)
    with pytest.raises(InputError, match=r"none of 2 training videos .*one\.mp4"):
        FrameCache.build([one, text], tmp_path / "cache", progress=False)
    with pytest.raises(InputError, match="none of 0 training videos"):
        FrameCache.build([], tmp_path / "cache", progress=False)


def test_videos_too_short_for_a_clip_are_skipped_also_when_they_are_stored(tmp_path):
    paths = [write(tmp_path / "long.mp4", 9), write(tmp_path / "short.mp4", 4)]
    for fps, least, used in [(None, 2, 2), (None, 5, 1), (4, 3, 1), (None, 4, 2)]:
        cache = FrameCache.build(
            paths, tmp_path / "c", short_side=16, fps=fps, progress=False, min_frames=least
        )
        assert len(cache.names) == used
        assert [name for name, _ in cache.skipped] == [str(p) for p in paths[used:]]
    assert all("short.mp4 has" in reason for _, reason in cache.skipped)


def frame_folder(path: Path, count: int) -> Path:
    path.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (24, 20), (10 * i, 99, 200)).save(path / f"{30 * i:06d}.jpeg")
    return path


def test_kinetics_with_a_tenth_of_its_files_broken(tmp_path):
    good = []
    for number, action in enumerate(["archery", "zumba"]):
        (tmp_path / "kinetics" / action).mkdir(parents=True)
        for i in range(5):
            name = f"{action}{i}_000010_000020.mp4"
            good.append(write(tmp_path / "kinetics" / action / name, 3 + i, level=50 * number))
    good.sort()
    broken = [good.pop(3), good.pop(5)]
    broken[0].write_bytes(broken[0].read_bytes()[:500])
    broken[1].write_bytes(b"")
    (tmp_path / "kinetics" / "zumba" / "notes.csv").write_text("label,youtube_id")
    paths = video_paths([tmp_path / "kinetics"])
    cache = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    assert list(cache.paths) == good
    assert [name for name, _ in cache.skipped] == [str(path) for path in broken]
    assert all(
        path.name in reason
        for path, reason in zip(broken, dict(cache.skipped).values(), strict=True)
    )


def test_oxuva_with_a_tenth_of_its_files_broken(tmp_path):
    root = tmp_path / "oxuva" / "images" / "dev"
    good = [frame_folder(root / f"vid{i:04d}", 8) for i in range(9)]
    broken = frame_folder(root / "vid0009", 8)
    (broken / "000120.jpeg").write_bytes(b"\xff\xd8 cut")
    paths = video_paths([root])
    cache = FrameCache.build(paths, tmp_path / "cache", 16, fps=6, progress=False, min_frames=2)
    assert list(cache.paths) == good and [name for name, _ in cache.skipped] == [str(broken)]
    assert cache.frames == 9 * 2  # every 4th
    names = tmp_path / "list.txt"
    names.write_text("# some\noxuva/images/dev/vid0003\n\noxuva/images/dev/vid0009\n")
    listed = FrameCache.build(video_paths([names]), tmp_path / "cache", 16, progress=False)
    assert list(listed.paths) == [good[3]] and len(listed.skipped) == 1


def test_a_source_that_the_system_cannot_read_is_skipped_too(tmp_path, monkeypatch):
    paths = [write(tmp_path / "a.mp4"), write(tmp_path / "b.mp4")]
    opened = module.open_video

    def failing(path):
        video = opened(path)
        if path == paths[0]:

            def clip(**_):
                raise PermissionError(13, "Permission denied", str(path))

            video.clip = clip
        return video

    monkeypatch.setattr(module, "open_video", failing)
    cache = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    assert cache.names == ("b",) and "Permission denied" in cache.skipped[0][1]


def test_an_interrupted_run_goes_on_with_the_next_video(tmp_path, monkeypatch):
    paths = [write(tmp_path / "a.mp4"), write(tmp_path / "b.mp4")]
    decoded = []
    store = module._store
    resize = module.resize_short_side

    def interrupted(video, *rest):
        decoded.append(video.name)
        if decoded == ["a", "b"]:  # Ctrl-C in the middle of the second
            calls = iter(range(3))

            def stop(frames, size):
                if next(calls) == 2:
                    raise KeyboardInterrupt
                return resize(frames, size)

            monkeypatch.setattr(module, "resize_short_side", stop)
        return store(video, *rest)

    monkeypatch.setattr(module, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    assert len(stored(tmp_path / "cache")) == 1
    monkeypatch.setattr(module, "resize_short_side", resize)
    cache = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    assert decoded == ["a", "b", "b"]
    assert cache.frames == 10


def test_a_damaged_entry_is_decoded_again(tmp_path):
    paths = [write(tmp_path / "a.mp4")]
    first = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
    data = first.files[0].read_bytes()
    for damage in (data[:-1], data[:50], b""):
        first.files[0].write_bytes(damage)
        again = FrameCache.build(paths, tmp_path / "cache", short_side=16, progress=False)
        assert again == first
        assert first.files[0].read_bytes() == data


def test_it_travels_to_workers_without_its_frames(tmp_path):
    cache = FrameCache.build([write(tmp_path / "a.mp4")], tmp_path / "cache", progress=False)
    data = pickle.dumps(cache)
    assert len(data) < 5000
    assert np.array_equal(pickle.loads(data).videos[0], cache.videos[0])


def test_bad_settings(tmp_path):
    path = write(tmp_path / "a.mp4")
    for settings, words in [({"short_side": 0}, "short side"), ({"fps": 0}, "frames per second")]:
        with pytest.raises(InputError, match=words):
            FrameCache.build([path], tmp_path / "cache", progress=False, **settings)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write frames"):
        FrameCache.build([path], tmp_path / "file", progress=False)


def test_a_full_disk_says_so(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "resize_short_side", full)
    with pytest.raises(InputError, match="is full after 0 of 1 videos"):
        FrameCache.build([path], tmp_path / "cache", progress=False)
    assert stored(tmp_path / "cache") == []
