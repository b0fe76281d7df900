"""VIP: its layout, mean IoU from one confusion matrix, and label maps carried through clips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from commands import watched_patches
from PIL import Image

from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.jhmdb import jhmdb
from corrlib.masks import write_mask
from corrlib.parts import (
    SIZE,
    VIP_CLASSES,
    confusion_matrix,
    evaluate_vip,
    mean_iou,
    propagate_parts,
    read_parts,
    vip,
)
from corrlib.propagation import PropagationConfig
from corrlib.synthetic import synthetic_clip

CONFIG = PropagationConfig(references=1, radius=3, topk=5)
IDS = torch.tensor([0, 4, 13, 19], dtype=torch.uint8)


def write_video(root, name, frames, labels):
    """Frames (T, 3, H, W) as jpg and labels, frame index -> (H, W), as grey png."""
    (root / "Images" / name).mkdir(parents=True)
    (root / "Annotations/Category_ids" / name).mkdir(parents=True)
    for index, frame in enumerate(frames):
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        image.save(root / "Images" / name / f"{25 * index + 1:012d}.jpg", quality=95)
    for index, label in labels.items():
        path = root / "Annotations/Category_ids" / name / f"{25 * index + 1:012d}.png"
        Image.fromarray(label.numpy()).save(path)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "VIP_Fine"
    for number, name in enumerate(("videos1", "videos2")):
        clip = synthetic_clip(4, 64, 96, objects=3, seed=number, speed=1.5)
        labels = IDS[clip.masks.long()]
        write_video(folder, name, clip.frames, dict(enumerate(labels)))
    return folder


def test_there_are_twenty_classes():
    assert len(VIP_CLASSES) == len(set(VIP_CLASSES)) == 20
    assert VIP_CLASSES[0] == "background" and VIP_CLASSES[13] == "face"


def test_mean_iou_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 20]], dtype=torch.uint8)
    found = torch.tensor([[0, 1, 1, 1], [2, 3, 2, 0]], dtype=torch.uint8)
    confusion = confusion_matrix(found, truth)
    assert confusion.shape == (20, 20) and confusion.sum() == 6
    assert confusion[0, 1] == 1 and confusion[2, 3] == 1 and confusion[1, 1] == 2
    figure = mean_iou(confusion)
    iou = [figure["classes"][VIP_CLASSES[number]] for number in range(20)]
    assert iou[:4] == [0.5, 2 / 3, 0.5, 0.0] and iou[4:] == [None] * 16
    assert figure["mean_iou"] == pytest.approx((0.5 + 2 / 3 + 0.5 + 0) / 4)
    assert figure["pixel_accuracy"] == 4 / 6


def test_pixels_are_pooled_before_classes_are_averaged():
    first = confusion_matrix(torch.tensor([[0, 0]]), torch.tensor([[0, 1]]))
    second = confusion_matrix(torch.tensor([[1, 1, 1]]), torch.tensor([[1, 1, 1]]))
    assert mean_iou(first)["mean_iou"] == 0.25 and mean_iou(second)["mean_iou"] == 1.0
    assert mean_iou(first + second)["mean_iou"] == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_the_confusion_matrix_is_that_of_a_plain_loop(generator):
    truth = torch.randint(0, 24, (9, 11), generator=generator, dtype=torch.uint8)
    found = torch.randint(0, 20, (9, 11), generator=generator, dtype=torch.uint8)
    expected = np.zeros((20, 20), dtype=np.int64)
    for t, f in zip(truth.flatten().tolist(), found.flatten().tolist(), strict=True):
        if t < 20:
            expected[t, f] += 1
    assert np.array_equal(confusion_matrix(found, truth), expected)


def test_labels_that_cannot_be_compared():
    truth = torch.zeros(3, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"labels of \(3, 4\)"):
        confusion_matrix(truth[:2], truth)
    with pytest.raises(InputError, match="labels 0..19, got 20"):
        confusion_matrix(truth + 20, truth)
    assert confusion_matrix(truth, truth + 255).sum() == 0
    assert mean_iou(np.zeros((20, 20), dtype=np.int64))["mean_iou"] is None


def test_labels_are_read_as_they_stand(tmp_path):
    labels = torch.tensor([[0, 3, 19], [0, 255, 255]], dtype=torch.uint8)
    write_mask(tmp_path / "indexed.png", labels)
    Image.fromarray(labels.numpy()).save(tmp_path / "grey.png")
    void = torch.tensor([[0, 255]], dtype=torch.uint8)
    Image.fromarray(void.numpy()).save(tmp_path / "void.png")
    assert torch.equal(read_parts(tmp_path / "indexed.png"), labels)
    assert torch.equal(read_parts(tmp_path / "grey.png"), labels)
    assert torch.equal(read_parts(tmp_path / "void.png"), void)
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        read_parts(tmp_path / "broken.png")


def test_videos_lists_and_names(root):
    videos = vip(root)
    assert [video.name for video in videos] == ["videos1", "videos2"]
    assert list(videos[0].labels) == [0, 1, 2, 3]
    assert [video.name for video in vip(root.parent)] == ["videos1", "videos2"]
    (root / "lists").mkdir()
    (root / "lists" / "val_videos.txt").write_text("Images/videos2\n\n")
    assert [video.name for video in vip(root)] == ["videos2"]
    assert [video.name for video in vip(root, videos=["videos1"])] == ["videos1"]
    with pytest.raises(InputError, match="no split 'test'"):
        vip(root, "test")


def test_unusable_folders(root, tmp_path):
    with pytest.raises(InputError, match="Images is missing"):
        vip(tmp_path / "nothing")
    with pytest.raises(InputError, match="1 of 1 videos lack .* 'videos9'"):
        vip(root, videos=["videos9"])
    with pytest.raises(InputError, match="found none"):
        vip(root, videos=[])
    folder = root / "Annotations/Category_ids/videos1"
    (folder / "000000000001.png").rename(folder / "000000000002.png")
    with pytest.raises(InputError, match="belong to no frame"):
        vip(root)
    (folder / "000000000002.png").unlink()
    with pytest.raises(InputError, match="labels of the first frame"):
        vip(root)
    folder = root / "Annotations/Category_ids/videos2"
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(folder / "000000000001.png")
    with pytest.raises(InputError, match="labels of 64x96 .* got 10x10"):
        evaluate_vip(root, colour_patch(), CONFIG, videos=["videos2"], size=None)


def test_labels_stay_in_a_static_video_and_void_becomes_background(generator):
    frame = synthetic_clip(1, 64, 96, seed=0).frames
    labels = torch.zeros(64, 96, dtype=torch.uint8)
    labels[16:48, 24:56], labels[16:32, 64:80], labels[48:64, 64:80] = 7, 19, 255
    found = list(propagate_parts(frame.expand(3, -1, -1, -1), labels, colour_patch(),
                                 PropagationConfig(radius=3, topk=1), size=None))  # fmt: skip
    assert torch.equal(found[0], torch.where(labels == 255, 0, labels))
    for later in found[1:]:
        assert later.dtype == torch.uint8 and later.shape == labels.shape
        assert set(later.unique().tolist()) == {0, 7, 19}
        assert (later[labels != 255] == labels[labels != 255]).float().mean() > 0.98


def test_nobody_on_the_first_frame():
    frames = torch.zeros(3, 3, 16, 24, dtype=torch.uint8)
    labels = torch.full((16, 24), 255, dtype=torch.uint8)
    found = list(propagate_parts(frames, labels, colour_patch()))
    assert len(found) == 3 and not any(later.any() for later in found)


def test_frames_are_squeezed_and_labels_come_back_whole(root):
    assert SIZE == (560, 560)
    extractor, sizes = watched_patches()
    figure = evaluate_vip(root, extractor, CONFIG, size=(80, 80), videos=["videos1"])
    assert sizes == {(80, 80)} and figure["mean_iou"] > 0.5


def test_the_figure_is_that_of_propagating_and_counting(root):
    figure = evaluate_vip(root, colour_patch(), CONFIG, size=None)
    total = np.zeros((20, 20), dtype=np.int64)
    for video in vip(root):
        first = read_parts(video.labels[0])
        found = propagate_parts(video.frames, first, colour_patch(), CONFIG, size=None)
        for index, labels in enumerate(found):
            total += confusion_matrix(labels, read_parts(video.labels[index]))
    assert total.sum() == 2 * 4 * 64 * 96  # the first frame counts
    expected = mean_iou(total)
    assert {key: figure[key] for key in expected} == expected
    assert 0.6 < figure["mean_iou"] < 1
    assert [n for n, v in figure["classes"].items() if v is not None] == [
        *("background", "upper clothes", "face", "left shoe")
    ]
    assert set(figure["videos"]["videos1"]) == {"mean_iou", "pixel_accuracy", "seconds_per_frame"}
    json.dumps(figure, allow_nan=False)


def test_an_interrupted_evaluation_goes_on(root, tmp_path):
    out = tmp_path / "results"
    whole = evaluate_vip(root, colour_patch(), CONFIG, size=None)

    def stop(name, figure):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_vip(root, colour_patch(), CONFIG, size=None, out=out, on_video=stop)
    assert [file.name for file in out.iterdir()] == ["videos1.json"]
    again = evaluate_vip(root, colour_patch(), CONFIG, size=None, out=out, resume=True)
    assert again["classes"] == whole["classes"]
    with pytest.raises(InputError, match="another size"):
        evaluate_vip(root, colour_patch(), CONFIG, size=(64, 64), out=out, resume=True)
    content = json.loads((out / "videos1.json").read_text())
    content["result"]["confusion"].pop()
    (out / "videos1.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="delete it"):
        evaluate_vip(root, colour_patch(), CONFIG, size=None, out=out, resume=True)


PART_OF_JOINT = (
    *("torso skin", "upper clothes", "face", "upper clothes", "upper clothes", "pants", "pants"),
    *("right arm", "left arm", "right leg", "left leg", "right arm", "left arm"),
    *("right shoe", "left shoe"),
)
"""Of the joints in JHMDB's order. Made up: the clip shows no such labels."""


def test_a_real_clip_in_the_layout(shared_data, tmp_path):
    """Labels derived from JHMDB: each pixel of the person belongs to the joint next to it."""
    clip = jhmdb(shared_data / "JHMDB-one")[0]
    joints, masks, frames = clip.read_joints(), clip.read_masks(), list(clip.frames.clip(0, 7, 2))
    classes = torch.tensor([VIP_CLASSES.index(name) for name in PART_OF_JOINT])
    labels = {}
    for index, t in enumerate(range(0, 7, 2)):
        rows, columns = masks[t].nonzero().T
        nearest = torch.cdist(torch.stack([columns, rows], 1).float(), joints[t]).argmin(1)
        labels[index] = torch.zeros_like(masks[t])
        labels[index][rows, columns] = classes[nearest].to(torch.uint8)
    write_video(tmp_path, "derived", frames, labels)
    figure = evaluate_vip(
        tmp_path, colour_patch(), PropagationConfig(references=1), size=(240, 320)
    )
    assert figure["classes"]["background"] > 0.9
    seen = {name for name, value in figure["classes"].items() if value is not None}
    assert seen == {"background", *PART_OF_JOINT}
    assert 1 / len(seen) < figure["mean_iou"] < 1
