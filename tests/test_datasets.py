"""DAVIS layouts and training sources, on small made-up folders; real data where it is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corrlib.datasets import davis, video_paths
from corrlib.errors import InputError

H, W = 6, 8


def save_frames(folder: Path, count: int = 3, suffix: str = ".jpg") -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (W, H), (10 * i, 0, 0)).save(folder / f"{i:05d}{suffix}")
    return folder


def save_mask(path: Path, ids, indexed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((H, W), np.uint8)
    for row, value in enumerate(ids):
        mask[row] = value
    image = Image.fromarray(mask)
    if indexed:
        image = image.convert("P")
        image.putpalette([*range(256)] * 3)
        image.putdata(mask.ravel().tolist())
    image.save(path)


def make_davis(root: Path, sequences: dict[str, list], resolution="480p", indexed=True, lists=()):
    """``sequences``: the ids in each sequence's first mask; the later masks have all of them."""
    for name, ids in sequences.items():
        save_frames(root / "JPEGImages" / resolution / name)
        for i in range(3):
            file = root / "Annotations" / resolution / name / f"{i:05d}.png"
            save_mask(file, ids if i == 0 else [*ids, 5][: H - 1] if indexed else ids, indexed)
    for file, text in lists:
        (root / "ImageSets" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / file).write_text(text)
    return root


def test_davis_2016(tmp_path):
    root = make_davis(
        tmp_path, {"b": [255], "a": [255]}, indexed=False, lists=[("2016/val.txt", "b\na\n\n")]
    )
    b, a = davis(root)
    assert (b.name, a.name) == ("b", "a")
    assert a.objects == 1 and a.frames.info.frames == 3 and a.frames.name == "a"
    assert sorted(a.masks) == [0, 1, 2] and a.masks[2].name == "00002.png"
    mask = a.read_mask(0)
    assert mask.dtype == torch.uint8 and mask.shape == (H, W)
    assert mask[0].eq(1).all() and mask[1:].eq(0).all()


def test_davis_2016_as_first_published(tmp_path):
    lines = [
        f"/JPEGImages/480p/{name}/{i:05d}.jpg /Annotations/480p/{name}/{i:05d}.png"
        for name in ("b", "a")
        for i in range(3)
    ]
    root = make_davis(
        tmp_path, {"a": [255], "b": [255]}, indexed=False,
        lists=[("480p/val.txt", "\r\n".join(lines))],
    )  # fmt: skip
    assert [s.name for s in davis(root, year=2016)] == ["b", "a"]
    assert all(s.objects == 1 for s in davis(root))


def test_davis_2017_counts_the_ids_of_the_first_mask(tmp_path):
    root = make_davis(tmp_path, {"a": [1, 3], "b": [1, 255]}, lists=[("2017/val.txt", "a\nb\n")])
    a, b = davis(root)
    assert a.objects == 3  # id 2 is not there at first, and counts as the official evaluation does
    assert b.objects == 1  # 255 is void, and the 5 of later frames was not there to be followed
    assert a.read_mask(0).unique().tolist() == [0, 1, 3]


def test_2017_goes_before_2016_where_it_has_the_split(tmp_path):
    lists = [("2016/val.txt", "a"), ("2017/val.txt", "a\nb"), ("2016/train.txt", "b")]
    root = make_davis(tmp_path, {"a": [1, 2], "b": [3]}, lists=lists)
    assert [s.objects for s in davis(root)] == [2, 3]
    one = davis(root, year=2016)
    assert [s.objects for s in one] == [1]
    assert one[0].read_mask(0).unique().tolist() == [0, 1]  # all objects are one in 2016
    assert [(s.name, s.objects) for s in davis(root, "train")] == [("b", 1)]
    with pytest.raises(InputError, match="no split 'train' of 2017"):
        davis(root, "train", year=2017)


@pytest.mark.parametrize("resolution", ["Full-Resolution", "1080p", "."])
def test_other_resolutions(tmp_path, resolution):
    lists = [("2017/val.txt", "a")]
    root = make_davis(tmp_path, {"a": [1]}, resolution=resolution, lists=lists)
    assert davis(root)[0].masks[0].parent.name == "a"


def test_all_needs_no_list(tmp_path):
    root = make_davis(tmp_path, {"b": [1, 2], "a": [1]}, resolution=".")
    assert [(s.name, s.objects) for s in davis(root, "all")] == [("a", 1), ("b", 2)]
    with pytest.raises(InputError, match="no split 'val' .* found nothing; split 'all'"):
        davis(root)


def test_only_the_first_mask_is_needed(tmp_path):
    root = make_davis(tmp_path, {"a": [1]}, lists=[("2017/test-dev.txt", "a")])
    for file in list((root / "Annotations/480p/a").iterdir())[:]:
        if file.stem != "00000":
            file.unlink()
    assert list(davis(root, "test-dev")[0].masks) == [0]
    (root / "Annotations/480p/a/00000.png").rename(root / "Annotations/480p/a/00001.png")
    with pytest.raises(InputError, match="mask of the first frame"):
        davis(root, "test-dev")


def test_chosen_sequences(tmp_path):
    names = [f"s{i}" for i in range(12)]
    lists = [("2017/val.txt", "\n".join(names))]
    root = make_davis(tmp_path, {name: [1] for name in names[:4]}, lists=lists)
    assert [s.name for s in davis(root, sequences=["s3", "s0"])] == ["s3", "s0"]
    with pytest.raises(InputError, match="no sequence 'x' .* s0, s1, .* and 4 more"):
        davis(root, sequences=["s0", "x"])
    with pytest.raises(InputError, match="8 of 12 sequences .* the first is 's4'"):
        davis(root)


def test_what_davis_refuses(tmp_path):
    with pytest.raises(InputError, match="found none at"):
        davis(tmp_path / "nowhere")
    (tmp_path / "DAVIS").mkdir()
    with pytest.raises(InputError, match="expected JPEGImages and Annotations .* found DAVIS"):
        davis(tmp_path)
    root = make_davis(tmp_path / "r", {"a": [1]}, lists=[("2017/val.txt", "a"), ("2017/e.txt", "")])
    with pytest.raises(InputError, match="no split 'vall' .* found 2017/e, 2017/val"):
        davis(root, "vall")
    with pytest.raises(InputError, match="it has none"):
        davis(root, "e")
    with pytest.raises(InputError, match="2016 or 2017, got year 2018"):
        davis(root, year=2018)
    save_mask(root / "Annotations/480p/a/00007.png", [1])
    with pytest.raises(InputError, match=r"00007\.png belongs to no frame"):
        davis(root)
    (root / "Annotations/480p/a/00007.png").unlink()
    save_mask(root / "Annotations/480p/a/00000.png", [])
    with pytest.raises(InputError, match="no object"):
        davis(root)
    (root / "Annotations/480p").rename(root / "Annotations/1080p")
    with pytest.raises(InputError, match="Annotations/480p"):
        davis(root)


def test_davis_at_hand(shared_data):
    sequences = davis(shared_data / "DAVIS-2016")
    assert len(sequences) == 20 and sequences[0].name == "blackswan"
    assert sum(s.frames.info.frames for s in sequences) == 1376
    assert all(s.objects == 1 and len(s.masks) == s.frames.info.frames for s in sequences)
    assert sequences[0].read_mask(0).unique().tolist() == [0, 1]
    (girls,) = davis(shared_data / "DAVIS-2017-schoolgirls")
    assert (girls.objects, girls.frames.info.frames, girls.frames.info.width) == (7, 80, 432)
    train = davis(shared_data / "DAVIS-2016-train-256", split="all")
    assert len(train) == 24 and all(s.objects == 1 for s in train)


# -- training sources ----------------------------------------------------------------------------


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_a_folder_of_videos_is_searched_to_any_depth(tmp_path):
    wanted = [touch(tmp_path / name) for name in ("a2.mp4", "a10.MOV", "deep/er/b.webm")]
    for other in ("notes.txt", "thumb.jpg", ".hidden/c.mp4", ".d.mp4", "deep/one.png"):
        touch(tmp_path / other)
    assert video_paths([tmp_path]) == wanted
    assert video_paths([wanted[1], tmp_path, wanted[1]]) == wanted


def test_frame_folders(tmp_path):
    a, b = save_frames(tmp_path / "x/a"), save_frames(tmp_path / "b", suffix=".png")
    video = touch(tmp_path / "x/c.mkv")
    assert video_paths([tmp_path]) == [b, a, video]
    assert video_paths([a]) == [a]
    assert video_paths([tmp_path / "x"]) == [a, video]


@pytest.mark.parametrize("resolutions", [["."], ["480p"], ["480p", "Full-Resolution"]])
def test_masks_of_an_annotated_data_set_are_no_video(tmp_path, resolutions):
    for resolution in resolutions:
        make_davis(tmp_path / "DAVIS", {"a": [1], "b": [1]}, resolution=resolution)
    images = tmp_path / "DAVIS/JPEGImages" / resolutions[0]
    assert video_paths([tmp_path]) == [images / "a", images / "b"]


def test_shipped_masks_are_no_training_video():
    """Training on data/clips must not see the hand-drawn masks beside the clips."""
    folder = Path(__file__).resolve().parent.parent / "data" / "clips"
    assert {path.name for path in video_paths([folder])} == {"clip.mp4"}


def test_a_list(tmp_path):
    video = touch(tmp_path / "videos/a.mp4")
    frames = save_frames(tmp_path / "frames/b")
    lists = tmp_path / "lists"
    lists.mkdir()
    file = lists / "train.txt"
    file.write_text(f"# mine\n../videos/a.mp4\n\n  {tmp_path / 'frames'}  \n../videos\n")
    assert [path.resolve() for path in video_paths([file])] == [frames, video]
    file.write_text("../videos/a.mp4\ngone.mp4\nlost\n")
    with pytest.raises(InputError, match=r"2 of 3 paths listed in .* the first is .*gone\.mp4"):
        video_paths([file])
    file.write_text("train.txt\n")
    with pytest.raises(InputError, match=r"expected a folder, a video"):
        video_paths([file])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not text"):
        video_paths([file])


def test_nothing_found_says_what_was_looked_for(tmp_path):
    touch(tmp_path / "a.pdf")
    with pytest.raises(InputError, match=r"no video \(\.mp4 .*\.png") as caught:
        video_paths([tmp_path])
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match="no video"):
        video_paths([])
    with pytest.raises(InputError, match=r"got .*a\.pdf"):
        video_paths([tmp_path / "a.pdf"])
    with pytest.raises(InputError, match="gone"):
        video_paths([tmp_path / "gone"])


def test_links_are_followed_once(tmp_path):
    video = touch(tmp_path / "real/a.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path / "real")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set")
    assert [path.resolve() for path in video_paths([tmp_path / "set"])] == [video]


def test_training_sources_at_hand(shared_data):
    assert len(video_paths([shared_data / "DAVIS-2016"])) == 20
    assert len(video_paths([shared_data / "DAVIS-2016-train-256"])) == 24
    clips = video_paths([shared_data / "clips-256"])
    assert all(path.suffix == ".mp4" for path in clips)
