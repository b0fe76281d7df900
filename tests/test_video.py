"""Reading and writing video: every test makes its own small files."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from phone_videos import TICK, UNEVEN, heard, moving_square, shown_at, write_phone_video
from PIL import Image

from corrlib import video as module
from corrlib.errors import InputError
from corrlib.video import VideoWriter, natural_key, open_video, read_video, resize_short_side


def smooth_frame(height: int, width: int, shift: int = 0) -> torch.Tensor:
    """Colours that vary slowly, so that compression hardly changes them."""
    y = torch.arange(height).view(-1, 1) / height
    x = (torch.arange(width) + shift).view(1, -1) / width
    channels = [y + 0 * x, (x + 0 * y) % 1.5 / 1.5, 0.5 + 0 * (x + y)]
    return (torch.stack(channels).clamp(0, 1) * 200 + 20).to(torch.uint8)


def write(path: Path, count: int = 6, size=(48, 64), fps=12) -> Path:
    with VideoWriter(path, fps) as writer:
        for i in range(count):
            writer.write(smooth_frame(*size, shift=i))
    return path


def write_raw(path: Path, frames: list[np.ndarray], pts=None, codec="libx264", **stream_setup):
    """As other programs write: ``frames`` rgb (H, W, 3), free time stamps, an optional rotation."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if "rotation" in stream_setup:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this version of av cannot write a rotation")
            stream.set_display_rotation(**stream_setup["rotation"])
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i if pts is None else pts[i]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def save_frames(folder: Path, frames, suffix=".png", names=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        name = names[i] if names else f"{i:05d}"
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"{name}{suffix}")
    return folder


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- files ---------------------------------------------------------------------------------------


def test_a_written_video_reads_back_the_same(tmp_path):
    path = write(tmp_path / "a.mp4", count=6, fps=Fraction(30000, 1001))
    video = open_video(path)
    assert (video.info.height, video.info.width, video.info.frames) == (48, 64, 6)
    assert video.info.fps == Fraction(30000, 1001)
    assert video.name == "a"
    frames = list(video)
    assert len(frames) == 6
    for i, frame in enumerate(frames):
        assert frame.dtype == torch.uint8 and frame.shape == (3, 48, 64) and frame.is_contiguous()
        assert (frame.float() - smooth_frame(48, 64, i).float()).abs().mean() < 3
    again = list(video)
    assert all(torch.equal(a, b) for a, b in zip(frames, again, strict=True))


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (200, 30, 90), (255, 255, 255)])
def test_colours_survive(tmp_path, colour):
    frame = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(frame)
    assert (read_video(tmp_path / "a.mp4")[0].int() - frame.int()).abs().max() <= 3


def test_it_is_what_browsers_play(tmp_path):
    path = write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # playing starts before all has arrived


def test_odd_sides_are_padded_by_their_last_row_and_column(tmp_path):
    path = write(tmp_path / "a.mp4", size=(47, 63))
    frame = read_video(path, stop=1)[0].int()
    assert frame.shape == (3, 48, 64)
    assert (frame[:, 47] - frame[:, 46]).abs().max() <= 6
    assert (frame[:, :47, :63] - smooth_frame(47, 63).int()).abs().float().mean() < 3


def test_ranges_follow_slices(tmp_path):
    file = write(tmp_path / "a.mp4", count=10)
    folder = save_frames(tmp_path / "f", read_video(file))
    for path in (file, folder):
        whole = read_video(path)
        assert whole.shape == (10, 3, 48, 64)
        for start, stop, step in [(0, None, 3), (2, 7, 2), (9, None, 1), (3, 4, 5), (4, 99, 2)]:
            assert torch.equal(read_video(path, start, stop, step), whole[start:stop:step])
        assert read_video(path, short_side=24).shape == (10, 3, 24, 32)
        with pytest.raises(InputError, match="no frame in the range 10:"):
            read_video(path, start=10)
        for bad in [(-1, None, 1), (0, None, 0), (0, -1, 1)]:
            with pytest.raises(InputError, match="expected start"):
                read_video(path, *bad)


# A quarter with its own colour in each corner: top left red, top right green, bottom left blue.
CORNERS = np.full((32, 48, 3), 128, np.uint8)
CORNERS[:16, :24] = (255, 0, 0)
CORNERS[:16, 24:] = (0, 255, 0)
CORNERS[16:, :24] = (0, 0, 255)


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        ({"degrees": 0}, CORNERS),
        ({"degrees": 90}, np.rot90(CORNERS)),
        ({"degrees": 180}, np.rot90(CORNERS, 2)),
        ({"degrees": 270}, np.rot90(CORNERS, 3)),
        ({"degrees": 0, "hflip": True}, CORNERS[:, ::-1]),
    ],
)
def test_rotation_of_phone_videos(tmp_path, rotation, expected):
    path = write_raw(tmp_path / "phone.mp4", [CORNERS] * 2, rotation=rotation)
    video = open_video(path)
    assert (video.info.height, video.info.width) == expected.shape[:2]
    frame = next(iter(video)).permute(1, 2, 0).int().numpy()
    assert np.abs(frame - expected.astype(int)).mean() < 12


def test_a_variable_frame_rate_loses_no_frame(tmp_path):
    frames = [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(6)]
    path = write_raw(tmp_path / "vfr.mkv", frames, pts=[0, 1, 5, 6, 20, 21])
    video = open_video(path)
    levels = [frame.float().mean().item() for frame in video]
    assert levels == pytest.approx([20 * i for i in range(6)], abs=4)
    assert video.info.frames is None  # matroska does not say
    assert 0 < video.info.fps <= 1000


def test_sound_is_ignored(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        picture = container.add_stream("libx264", rate=10)
        picture.height = picture.width = 32
        picture.pix_fmt = "yuv420p"
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = i
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
    assert len(read_video(path)) == 3


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    with pytest.raises(InputError, match="no video stream"):
        open_video(path)


# -- time and sound ------------------------------------------------------------------------------


def copy(source: Path, target: Path, *, stop_sound=False, frames=None) -> str | None:
    """Write a video again as it is; returns what became of the sound."""
    video = open_video(source)
    with VideoWriter(target, video.info.fps, video.info.tick, source) as writer:
        for index, (second, frame) in enumerate(video.timed()):
            if index == frames:
                break
            writer.write(frame, second)
        if stop_sound:
            writer.stop_sound()
    return writer.sound_note


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_uneven_times_are_kept(tmp_path, name):
    source = write_phone_video(tmp_path / name, moving_square())
    assert copy(source, tmp_path / "out.mp4") is None
    wanted = [round(time * TICK * 1000) for time in UNEVEN]  # matroska counts milliseconds
    assert [round(second * 1000) for second in shown_at(tmp_path / "out.mp4")] == wanted
    if name != "a.mkv":
        assert shown_at(tmp_path / "out.mp4") == [time * TICK for time in UNEVEN]
    info = open_video(tmp_path / "out.mp4").info
    assert info.frames == 6 and info.seconds >= UNEVEN[-1] * TICK


def test_times_increase_whatever_the_file_says(tmp_path, monkeypatch):
    source = write_phone_video(tmp_path / "a.mp4", moving_square())
    video = open_video(source)
    decode = module._decode

    def disordered(*arguments):
        for picture, pts in zip(decode(*arguments), (None, 40, None, 40, -7, 900), strict=True):
            picture.pts = pts
            yield picture

    monkeypatch.setattr(module, "_decode", disordered)
    seconds = [second for second, _ in video.timed()]
    assert seconds[0] == 0 and seconds[1] == 40 * video.info.tick
    assert all(later - earlier >= video.info.tick for earlier, later in pairs(seconds))
    copy(source, tmp_path / "out.mp4")
    assert shown_at(tmp_path / "out.mp4") == seconds


def pairs(values: list) -> list[tuple]:
    return list(zip(values, values[1:], strict=False))


def test_a_folder_has_the_times_of_its_rate(tmp_path):
    save_frames(tmp_path, [smooth_frame(8, 10)] * 3)
    video = open_video(tmp_path)
    assert [second for second, _ in video.timed()] == [0, Fraction(1, 24), Fraction(2, 24)]
    assert video.info.expected_frames == 3


def test_the_number_of_frames_is_estimated_where_it_is_not_stated(tmp_path):
    even = [index * 25 for index in range(12)]
    path = write_phone_video(tmp_path / "a.mkv", moving_square(12), even)
    info = open_video(path).info
    assert info.frames is None and 11 <= info.expected_frames <= 13


@pytest.mark.parametrize(
    ("name", "codec", "note"),
    [
        ("a.mp4", "aac", "sound copied (aac)"),
        ("a.mkv", "libmp3lame", "sound copied (mp3)"),
        ("a.mov", "pcm_s16le", "sound encoded as AAC (was pcm_s16le)"),
        ("a.ts", "aac", "sound copied (aac)"),
    ],
)
def test_sound_is_taken_along(tmp_path, name, codec, note):
    source = write_phone_video(tmp_path / name, moving_square(), sound=codec)
    assert copy(source, tmp_path / "out.mp4") == note
    (before, tone), (after, kept) = heard(source), heard(tmp_path / "out.mp4")
    gap = shown_at(source)[0] - shown_at(tmp_path / "out.mp4")[0]
    assert before - after == pytest.approx(gap, abs=0.07)  # an AAC encoder starts 1024 early
    assert abs(len(kept) - len(tone)) <= 2048
    assert np.abs(kept).max() > 0.1


def test_sound_can_end_with_the_last_frame(tmp_path):
    source = write_phone_video(tmp_path / "a.mp4", moving_square(), sound="aac")
    copy(source, tmp_path / "out.mp4", stop_sound=True, frames=3)
    assert shown_at(tmp_path / "out.mp4") == [time * TICK for time in UNEVEN[:3]]
    _, kept = heard(tmp_path / "out.mp4")
    assert 0.05 < len(kept) / 16000 < 0.4  # three frames last 0.068 s and one at the mean rate


def test_what_does_not_start_at_zero_does_in_the_copy(tmp_path):
    start = Fraction(2)
    source = write_phone_video(tmp_path / "a.ts", moving_square(), sound="aac", start=start)
    assert shown_at(source)[0] > 1.5
    copy(source, tmp_path / "out.mp4")
    assert shown_at(tmp_path / "out.mp4")[0] < 0.2
    assert heard(tmp_path / "out.mp4")[0] < 0.2


def test_damaged_sound_does_not_stop_the_video(tmp_path, monkeypatch):
    source = write_phone_video(tmp_path / "a.mov", moving_square(), sound="pcm_s16le")

    def broken(sound, stream):
        raise av.error.InvalidDataError(1, "damaged\nsound")
        yield

    monkeypatch.setattr("corrlib.sound.Sound._encoded", broken)
    note = copy(source, tmp_path / "out.mp4")
    assert note.startswith("sound left out (") and "\n" not in note
    assert len(read_video(tmp_path / "out.mp4")) == 6


def test_frames_must_come_in_order(tmp_path):
    with (
        pytest.raises(InputError, match="not after the frame before"),
        VideoWriter(tmp_path / "a.mp4", 24, TICK) as writer,
    ):
        writer.write(smooth_frame(32, 32), Fraction(1))
        writer.write(smooth_frame(32, 32), Fraction(1, 2))
    assert leftovers(tmp_path) == []


def test_no_decoded_picture_is_kept(tmp_path):
    """Pictures go when they are read, not when Python next looks for cycles."""
    source = write_phone_video(tmp_path / "a.mp4", moving_square(30), range(30), rotation=90)
    video = open_video(source)
    gc.collect()
    gc.disable()
    try:
        for index, _ in enumerate(video.timed()):
            if index == 20:
                kept = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
                break
    finally:
        gc.enable()
    assert kept <= 3


# -- damage --------------------------------------------------------------------------------------


def noisy_video(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    with VideoWriter(path, 24) as writer:
        for frame in noise:
            writer.write(torch.from_numpy(frame).permute(2, 0, 1))
    return path.read_bytes()


def test_the_frames_before_a_break_come_and_the_error_counts_them(tmp_path):
    path = tmp_path / "a.mp4"
    data = bytearray(noisy_video(path))
    middle = len(data) // 2
    data[middle : middle + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)
    frames = []
    with pytest.raises(InputError, match="broken at frame") as caught:
        for frame in open_video(path):
            frames.append(frame)
    assert 5 < len(frames) < 30
    assert f"broken at frame {len(frames)}:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_video_that_is_cut_off_does_not_end_quietly(tmp_path):
    path = tmp_path / "a.mp4"
    data = noisy_video(path)
    path.write_bytes(data[: len(data) // 2])
    frames = 0
    with pytest.raises(InputError, match="broken at frame"):
        for _ in open_video(path):
            frames += 1
    assert frames > 5


def test_text_named_as_a_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("this is not a video\n" * 100)
    with pytest.raises(InputError, match="cannot be read as a video") as caught:
        open_video(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.mp4", "missing"])
def test_missing_path(tmp_path, name):
    with pytest.raises(InputError, match="found nothing at"):
        open_video(tmp_path / name)


def test_empty_file(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as a video"):
        open_video(tmp_path / "a.mp4")


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    file = write(tmp_path / "a.mp4")
    folder = save_frames(tmp_path / "f", [smooth_frame(48, 64)])
    monkeypatch.setattr(module, "MAX_FRAME_PIXELS", 1000)
    for path in (file, folder):
        with pytest.raises(InputError, match="64x48"):
            open_video(path)


def test_reading_more_than_fits_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr(module, "MAX_CLIP_BYTES", 3 * 48 * 64 * 4)
    with pytest.raises(InputError, match="stream open_video"):
        read_video(path)
    assert len(read_video(path, stop=4)) == 4


# -- folders -------------------------------------------------------------------------------------


def test_a_folder_comes_in_natural_order(tmp_path):
    frames = [torch.full((3, 8, 10), 10 * i, dtype=torch.uint8) for i in range(12)]
    folder = save_frames(tmp_path / "walk", frames, names=[f"f{i}" for i in range(12)])
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    video = open_video(folder)
    assert (video.info.height, video.info.width, video.info.frames) == (8, 10, 12)
    assert video.name == "walk"
    assert torch.equal(read_video(folder), torch.stack(frames))
    assert len(list(video)) == len(list(video)) == 12


def test_grey_and_palette_images_become_rgb(tmp_path):
    grey = np.arange(80, dtype=np.uint8).reshape(8, 10)
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "1.png")
    frames = read_video(tmp_path)
    assert torch.equal(frames[0], torch.from_numpy(grey).expand(3, 8, 10))
    assert torch.equal(frames[1], frames[0])


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match="8-bit"):
        open_video(tmp_path)


def test_a_frame_of_another_size_is_named(tmp_path):
    frames = [smooth_frame(8, 10)] * 3 + [smooth_frame(8, 12)]
    save_frames(tmp_path, frames)
    got = []
    with pytest.raises(InputError, match=r"00003\.png is 12x8, the first frame is 10x8"):
        for frame in open_video(tmp_path):
            got.append(frame)
    assert len(got) == 3


def test_a_broken_image_is_named(tmp_path):
    save_frames(tmp_path, [smooth_frame(40, 50)] * 2, suffix=".jpg")
    data = (tmp_path / "00001.jpg").read_bytes()
    (tmp_path / "00001.jpg").write_bytes(data[: len(data) // 3])
    with pytest.raises(InputError, match=r"00001\.jpg cannot be read"):
        list(open_video(tmp_path))


def test_an_empty_folder_and_a_mask_among_the_frames(tmp_path):
    with pytest.raises(InputError, match="expected a folder of jpg or png frames"):
        open_video(tmp_path)
    save_frames(tmp_path, [smooth_frame(8, 8)] * 3, suffix=".jpg")
    save_frames(tmp_path, [smooth_frame(8, 8)], names=["mask"])
    with pytest.raises(InputError, match="3 jpg and 1 png"):
        open_video(tmp_path)


def test_natural_key():
    names = ["f10", "f2", "f1", "10", "2", "a", "f2b", "F3"]
    assert sorted(names, key=natural_key) == ["2", "10", "F3", "a", "f1", "f2", "f2b", "f10"]


# -- the writer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for i in range(5):
            writer.write(smooth_frame(32, 32, i))
        raise error("stop")
    assert leftovers(tmp_path) == []


def test_an_older_file_survives_a_failure(tmp_path):
    path = write(tmp_path / "a.mp4")
    before = path.read_bytes()
    with pytest.raises(InputError), VideoWriter(path, 10) as writer:
        writer.write(smooth_frame(32, 32))
        writer.write(smooth_frame(32, 34))
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == ["a.mp4"]


def test_no_frame_is_an_error(tmp_path):
    with (
        pytest.raises(InputError, match="no frame was written"),
        VideoWriter(tmp_path / "a.mp4", 10),
    ):
        pass
    assert leftovers(tmp_path) == []


def test_what_the_writer_refuses(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("x")
    for path, fps, words in [
        ("a.avi", 10, "end the name in .mp4"),
        ("folder.mp4", 10, "is a folder"),
        ("a.mp4", 0, "frames per second"),
        ("a.mp4", float("nan"), "frames per second"),
        ("file/a.mp4", 10, "cannot write"),
    ]:
        with pytest.raises(InputError, match=words), VideoWriter(tmp_path / path, fps):
            pass
    for frame in (torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8)):
        with (
            pytest.raises(InputError, match="uint8 frame"),
            VideoWriter(tmp_path / "a.mp4", 10) as writer,
        ):
            writer.write(frame)
    assert leftovers(tmp_path) == ["file", "folder.mp4"]


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "result"), [((60, 80), (30, 40)), ((90, 61), (44, 30))])
def test_resize_short_side(size, result):
    frames = torch.stack([smooth_frame(*size, i) for i in range(2)])
    small = resize_short_side(frames, 30)
    assert small.shape == (2, 3, *result) and small.dtype == torch.uint8
    assert torch.equal(small[1], resize_short_side(frames[1], 30))
    assert (small.float().mean((2, 3)) - frames.float().mean((2, 3))).abs().max() < 2
    assert resize_short_side(small, 30) is small
    with pytest.raises(InputError):
        resize_short_side(frames, 0)


def test_resizing_is_antialiased():
    checker = (torch.arange(64).view(-1, 1) + torch.arange(64)) % 2 * 255
    small = resize_short_side(checker.to(torch.uint8).expand(3, 64, 64), 16)
    assert (small.float() - 127.5).abs().max() < 16
