"""JHMDB: its layout, and an evaluation whose answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from commands import watched_patches
from PIL import Image
from scipy.io import loadmat, savemat

from corrlib.baselines import colour_patch
from corrlib.errors import InputError
from corrlib.jhmdb import (
    JHMDB_SKELETON,
    evaluate_jhmdb,
    jhmdb,
    read_joints,
    read_puppet_mask,
)
from corrlib.keypoints import on_frame, propagate_keypoints
from corrlib.pck import score_keypoints
from corrlib.propagation import PropagationConfig
from corrlib.synthetic import synthetic_clip

CONFIG = PropagationConfig(references=2, radius=3, topk=5)
SIZE = (64, 96)


def write_clip(root, action, name, seed=0, frames=4, masks=True):
    """A made-up clip whose joints are points of its objects; returns them, (T, 15, 2) from 0."""
    clip = synthetic_clip(frames, *SIZE, objects=2, seed=seed, speed=2.0)
    folder = root / "Rename_Images" / action / name
    folder.mkdir(parents=True)
    for index, frame in enumerate(clip.frames, start=1):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"{index:05d}.png")
    rows, columns = clip.masks[0].nonzero().T
    pick = torch.linspace(0, len(rows) - 1, 15).long()
    joints = clip.correspondence[:, :, rows[pick], columns[pick]].transpose(1, 2)
    folder = root / "joint_positions" / action / name
    folder.mkdir(parents=True)
    savemat(folder / "joint_positions.mat", {"pos_img": joints.double().numpy().T + 1})
    if masks:
        folder = root / "puppet_mask" / action / name
        folder.mkdir(parents=True)
        person = (clip.masks > 0).permute(1, 2, 0).numpy().astype(np.float64)
        savemat(folder / "puppet_mask.mat", {"part_mask": person}, do_compression=True)
    return joints


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "JHMDB"
    write_clip(folder, "catch", "one", seed=0)
    write_clip(folder, "catch", "two", seed=1, frames=3, masks=False)
    write_clip(folder, "wave", "three", seed=2)
    return folder


def test_the_skeleton_is_a_tree_with_two_alike_sides():
    names, edges = JHMDB_SKELETON.names, JHMDB_SKELETON.edges
    assert len(names) == len(set(names)) == 15 and len(edges) == 14
    reached = {0}
    for _ in edges:
        reached |= {end for edge in edges if reached & set(edge) for end in edge}
    assert reached == set(range(15))
    bones = {frozenset(names[end] for end in edge) for edge in edges}
    swap = {"left": "right", "right": "left"}
    mirrored = {
        frozenset(" ".join(swap.get(word, word) for word in name.split()) for name in bone)
        for bone in bones
    }
    assert mirrored == bones
    assert frozenset(("right wrist", "right elbow")) in bones


def test_joints_are_counted_from_zero(root, tmp_path):
    joints = write_clip(tmp_path / "other", "catch", "four", seed=3)
    clip = jhmdb(tmp_path / "other")[0]
    assert torch.allclose(clip.read_joints(), joints)
    assert clip.read_joints().dtype == torch.float32
    masks = clip.read_masks()
    assert masks.shape == (4, *SIZE) and masks.dtype == torch.uint8
    assert torch.equal(masks, (synthetic_clip(4, *SIZE, 2, 3, speed=2.0).masks > 0).byte())


def test_clips_splits_and_names(root):
    assert [clip.name for clip in jhmdb(root)] == ["one", "three", "two"]
    assert [clip.name for clip in jhmdb(root, clips=["two", "one"])] == ["two", "one"]
    assert jhmdb(root, ["two"])[0].masks is None
    (root / "splits").mkdir()
    (root / "splits" / "catch_test_split1.txt").write_text("one.avi 1\ntwo.avi 2\n")
    (root / "splits" / "wave_test_split1.txt").write_text("three.avi 2\n")
    (root / "splits" / "catch_test_split2.txt").write_text("one.avi 2\n")
    assert [clip.name for clip in jhmdb(root)] == ["three", "two"]
    assert [clip.name for clip in jhmdb(root, split=2)] == ["one"]
    assert [clip.name for clip in jhmdb(root, split=3)] == ["one", "three", "two"]
    assert [clip.name for clip in jhmdb(root, ["one"])] == ["one"]


def test_the_list_of_cycletime_and_uvc(root):
    lines = [f"/data/joint_positions/catch/{name}/joint_positions.mat /data/Rename_Images/catch/"
             f"{name}" for name in ("two", "one")]  # fmt: skip
    (root / "testlist_split1.txt").write_text("\n".join(lines))
    assert [clip.name for clip in jhmdb(root)] == ["one", "two"]
    lines = [" ".join(reversed(line.split())) for line in lines]
    (root / "testlist_split1.txt").write_text("\n".join(lines))
    assert [clip.name for clip in jhmdb(root)] == ["one", "two"]


def test_unusable_folders(root, tmp_path):
    with pytest.raises(InputError, match="Rename_Images is missing"):
        jhmdb(tmp_path)
    with pytest.raises(InputError, match="1 of 2 clips have no joints .* 'five'"):
        jhmdb(root, ["one", "five"])
    (root / "splits").mkdir()
    (root / "splits" / "wave_test_split1.txt").write_text("six.avi 2\n")
    with pytest.raises(InputError, match="'six'.*fetch the rest"):
        jhmdb(root)
    (root / "splits" / "wave_test_split1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        jhmdb(root)
    (root / "Rename_Images" / "catch" / "one" / "00004.png").unlink()
    with pytest.raises(InputError, match="joints of 3 frames"):
        jhmdb(root, ["one"])[0].read_joints()
    with pytest.raises(InputError, match="masks of 3 frames"):
        jhmdb(root, ["one"])[0].read_masks()
    with pytest.raises(InputError, match="there is none"):
        jhmdb(root, ["two"])[0].read_masks()
    write_clip(root, "run", "one")
    with pytest.raises(InputError, match="two clips one"):
        jhmdb(root)


def test_unusable_joints(tmp_path):
    path = tmp_path / "joint_positions.mat"
    for joints, message in (
        (np.full((2, 15, 3), np.nan), "NaN or huge"),
        (np.full((2, 15, 3), 1e300), "NaN or huge"),
        (np.zeros((15, 2, 3)), r"got \(15, 2, 3\)"),
        (np.full((2, 15, 3), "a"), "real numbers"),
    ):
        savemat(path, {"pos_img": joints})
        with pytest.raises(InputError, match=message):
            read_joints(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        read_joints(path)
    savemat(path, {"pos_world": np.zeros((2, 15, 3))})
    with pytest.raises(InputError, match="it has 'pos_world'"):
        read_joints(path)


def test_the_figure_is_that_of_propagating_and_scoring(root):
    figure = evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, clips=["one"])
    clip = jhmdb(root, ["one"])[0]
    truth = clip.read_joints()
    found = torch.stack(list(propagate_keypoints(clip.frames, truth[0], colour_patch(), CONFIG)))
    score = score_keypoints(found, truth, on_frame(truth[0], SIZE).expand(4, -1))
    assert figure["PCK_max"]["0.2"] == pytest.approx((score.largest <= 0.2).mean())
    assert figure["PCK_instance"]["0.1"] == pytest.approx((score.instance <= 0.1).mean())
    assert set(figure["joints"]) == set(JHMDB_SKELETON.names)
    assert figure["person_J"] == figure["clips"]["one"]["person_J"] > 0.6
    assert figure["seconds_per_frame"] > 0
    assert figure["settings"]["features"] == "colour-patch"


def test_frames_are_squeezed_to_the_size_asked_for(root):
    extractor, sizes = watched_patches()
    square = evaluate_jhmdb(root, extractor, CONFIG, size=(96, 96), clips=["one"])
    assert sizes == {(96, 96)}
    sizes.clear()
    config = PropagationConfig(references=2, radius=3, topk=5, short_side=80)
    evaluate_jhmdb(root, extractor, config, size=None, clips=["one"])
    assert sizes == {(80, 120)}
    assert square["person_J"] > 0.6 and square["PCK_max"]["0.2"] > 0.5


def test_joints_off_the_first_frame_are_not_counted(root):
    file = root / "joint_positions/catch/one/joint_positions.mat"
    joints = loadmat(file)["pos_img"]
    joints[:, 4, 0] = -3, 5
    savemat(file, {"pos_img": joints})
    figure = evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, clips=["one"])
    assert figure["joints"][JHMDB_SKELETON.names[4]]["PCK_max"] == {"0.1": None, "0.2": None}
    assert figure["found"] == 1.0
    json.dumps(figure, allow_nan=False)


def test_an_interrupted_evaluation_goes_on(root, tmp_path):
    out = tmp_path / "results"
    whole = evaluate_jhmdb(root, colour_patch(), CONFIG, size=None)

    def stop(name, figure):
        assert set(figure) >= {"PCK_instance", "PCK_max", "person_J", "seconds_per_frame"}
        if name == "three":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, out=out, on_clip=stop)
    assert sorted(file.name for file in out.iterdir()) == ["one.json", "three.json"]
    with pytest.raises(InputError, match="--resume"):
        evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, out=out)
    before = (out / "one.json").stat().st_mtime_ns
    again = evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, out=out, resume=True)
    assert (out / "one.json").stat().st_mtime_ns == before
    for key in ("PCK_instance", "PCK_max", "joints", "found_only", "person_J"):
        assert again[key] == whole[key]
    with pytest.raises(InputError, match="another location"):
        evaluate_jhmdb(
            root, colour_patch(), CONFIG, size=None, out=out, resume=True, location="maximum"
        )
    for damage in ("{", "[]", '{"settings": {}}', '{"settings": 3, "result": 4}'):
        (out / "two.json").write_text(damage)
        with pytest.raises(InputError, match="two.json.*delete it"):
            evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, out=out, resume=True)
    content = json.loads((out / "one.json").read_text())
    content["result"]["joints"].pop()
    (out / "one.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="one.json.*delete it"):
        evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, out=out, resume=True)
    with pytest.raises(InputError, match="in which folder"):
        evaluate_jhmdb(root, colour_patch(), CONFIG, resume=True)


def test_lost_joints_are_kept_in_a_result(root, tmp_path):
    out = tmp_path / "results"
    evaluate_jhmdb(root, colour_patch(), CONFIG, size=None, out=out, clips=["one"])
    content = json.loads((out / "one.json").read_text())
    content["result"]["joints"][2][5] = None
    (out / "one.json").write_text(json.dumps(content))
    figure = evaluate_jhmdb(
        root, colour_patch(), CONFIG, size=None, out=out, resume=True, clips=["one"]
    )
    assert figure["found"] == 44 / 45


def test_the_real_clip(shared_data):
    clip = jhmdb(shared_data / "JHMDB-one")[0]
    joints, masks = clip.read_joints(), clip.read_masks()
    assert joints.shape == (40, 15, 2) and masks.shape == (40, 240, 320)
    name = "pos_img"
    assert np.array_equal(joints.double().numpy().T, np.float32(loadmat(clip.joints)[name] - 1))
    assert torch.equal(masks.permute(1, 2, 0), torch.from_numpy(loadmat(clip.masks)["part_mask"]))
    assert torch.equal(masks, read_puppet_mask(clip.masks))
    # Most joints lie on the person; those of thin limbs may miss it.
    x, y = joints[0].round().long().T
    assert masks[0][y, x].float().mean() >= 0.6
    face, neck, ankle = (JHMDB_SKELETON.names.index(n) for n in ("face", "neck", "left ankle"))
    assert joints[0, face, 1] < joints[0, neck, 1] < joints[0, ankle, 1]


def test_nothing_moving_scores_what_standing_still_scores(shared_data):
    """PCK of the first joints for all frames, worked out from the file alone."""
    clip = jhmdb(shared_data / "JHMDB-one")[0]
    truth = clip.read_joints()
    score = score_keypoints(truth[:1].expand(40, -1, -1), truth)
    raw = loadmat(clip.joints)["pos_img"]
    hits = 0
    for t in range(1, 40):
        (left, top), (right, bottom) = raw[:, :, t].min(axis=1), raw[:, :, t].max(axis=1)
        length = 0.2 * 0.6 * math.hypot(right - left, bottom - top)
        hits += (np.linalg.norm(raw[:, :, 0] - raw[:, :, t], axis=0) <= length).sum()
    assert (score.instance <= 0.2).sum() == hits
