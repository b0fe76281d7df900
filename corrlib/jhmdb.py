"""JHMDB: clips of one person with 15 joints in every frame (Jhuang et al., ICCV 2013).

The layout of the data set::

    Rename_Images/<action>/<clip>/00001.png ...
    joint_positions/<action>/<clip>/joint_positions.mat    pos_img (2, 15, T), (x, y) from 1
    puppet_mask/<action>/<clip>/puppet_mask.mat            part_mask (H, W, T), may be absent
    splits/<action>_test_split1.txt                        "<clip>.avi 2": 2 test, 1 training

Papers report the 268 test clips of split 1. Frames are 320x240 and are encoded at 320x320.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from corrlib import sharding
from corrlib.errors import InputError
from corrlib.keypoints import Skeleton, heat_maps, locate, on_frame, rescale_points, soft
from corrlib.matfile import read_array
from corrlib.metrics import region_similarity
from corrlib.pck import KeypointScore, score_keypoints, summarise
from corrlib.propagation import (
    FeatureExtractor,
    PropagationConfig,
    labels_to_mask,
    mask_to_labels,
    propagate_labels,
)
from corrlib.protocol import Results, Size, fixed, resized, resized_mask, settings_of
from corrlib.video import Video, open_video

JHMDB_SKELETON = Skeleton(
    (
        *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip"),
        *("right elbow", "left elbow", "right knee", "left knee"),
        *("right wrist", "left wrist", "right ankle", "left ankle"),
    ),
    (
        *((0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6)),
        *((3, 7), (4, 8), (5, 9), (6, 10), (7, 11), (8, 12), (9, 13), (10, 14)),
    ),
)
"""The joints in the order of ``pos_img``; left and right are the person's own."""

SIZE: Size = (320, 320)
FAR = 1e5  # pixels: no joint is so far off its frame


@dataclass(frozen=True)
class JHMDBClip:
    """One clip; ``masks`` is ``None`` where the person's mask is not there."""

    name: str
    frames: Video
    joints: Path
    masks: Path | None

    def read_joints(self) -> torch.Tensor:
        """The true joints of all frames, ``(T, 15, 2)`` float32 (x, y), pixels from 0.

        Raises:
            InputError: see :func:`read_joints`; as many frames as the clip has not.
        """
        joints = read_joints(self.joints)
        if len(joints) != self.frames.info.frames:
            raise InputError(
                f"expected joints of {self.frames.info.frames} frames, as {self.frames.path} has, "
                f"got {len(joints)} in {self.joints}"
            )
        return joints

    def read_masks(self) -> torch.Tensor:
        """The person's mask in all frames, ``(T, H, W)`` uint8 of 0 and 1.

        Raises:
            InputError: no mask file; as many frames as the clip has not, or others in size.
        """
        if self.masks is None:
            raise InputError(f"expected a puppet mask of {self.name}, there is none")
        masks, info = read_puppet_mask(self.masks), self.frames.info
        if tuple(masks.shape) != (info.frames, info.height, info.width):
            raise InputError(
                f"expected masks of {info.frames} frames of {info.height}x{info.width}, as "
                f"{self.frames.path} has, got {tuple(masks.shape)} in {self.masks}"
            )
        return masks


def jhmdb(root: str | Path, clips: Iterable[str] | None = None, split: int = 1) -> list[JHMDBClip]:
    """The clips of a JHMDB folder, in order of their names or of ``clips``.

    Takes the test clips of ``split`` where its lists are there (``splits/*_test_split1.txt``, or
    one list ``testlist_split1.txt`` of annotations and frames as CycleTime and UVC have it), else
    every clip with joints. Clips that are named are taken whatever the lists say.

    Raises:
        InputError: no such folder, no clip, a clip that is missing or twice.
    """
    root = Path(root)
    for kind in ("Rename_Images", "joint_positions"):
        if not (root / kind).is_dir():
            raise InputError(
                f"expected Rename_Images and joint_positions in the JHMDB folder {root}, "
                f"{kind} is missing"
            )
    files: dict[str, Path] = {}
    for file in sorted((root / "joint_positions").glob("*/*/joint_positions.mat")):
        if file.parent.name in files:
            raise InputError(f"{root} has two clips {file.parent.name}; keep one of them")
        files[file.parent.name] = file
    names = list(clips) if clips is not None else _split_list(root, split) or sorted(files)
    if not names:
        raise InputError(f"expected clips in {root}, found no joint_positions.mat")
    missing = [name for name in names if name not in files]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} clips have no joints in {root}, the first is "
            f"{missing[0]!r}; fetch the rest, or name the clips to use"
        )
    return [_clip(root, files[name]) for name in names]


def _split_list(root: Path, split: int) -> list[str]:
    """Names of the test clips of a split, none where there is no list."""
    names: set[str] = set()
    for file in sorted((root / "splits").glob(f"*_test_split{split}.txt")):
        lines = (line.split() for line in _lines(file))
        names |= {Path(words[0]).stem for words in lines if words[1:] == ["2"]}
    for file in (root / f"testlist_split{split}.txt", root / f"splits/testlist_split{split}.txt"):
        if not names and file.is_file():
            paths = (Path(word) for line in _lines(file) for word in line.split()[:1])
            names = {path.parent.name if path.suffix == ".mat" else path.name for path in paths}
    return sorted(names)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a list of clips, {file} cannot be read as text") from error


def _clip(root: Path, joints: Path) -> JHMDBClip:
    action, name = joints.parts[-3:-1]
    masks = root / "puppet_mask" / action / name / "puppet_mask.mat"
    frames = open_video(root / "Rename_Images" / action / name)
    return JHMDBClip(name, frames, joints, masks if masks.is_file() else None)


def read_joints(path: str | Path) -> torch.Tensor:
    """``pos_img`` of a ``joint_positions.mat``: ``(T, 15, 2)`` float32 (x, y), pixels from 0.

    The file counts pixels from 1, so its 1 is 0 here. Joints may lie off the frame.

    Raises:
        InputError: see :func:`corrlib.matfile.read_array`; positions that are no pixels.
    """
    joints = read_array(path, "pos_img", (2, len(JHMDB_SKELETON.names), None))
    if not (np.abs(joints) < FAR).all():  # NaN compares false
        raise InputError(f"{path}: expected pos_img to hold pixels, it has NaN or huge numbers")
    return torch.from_numpy(joints.transpose(2, 1, 0).astype(np.float32) - 1)


def read_puppet_mask(path: str | Path) -> torch.Tensor:
    """``part_mask`` of a ``puppet_mask.mat``: ``(T, H, W)`` uint8, 1 where the person is.

    Raises:
        InputError: see :func:`corrlib.matfile.read_array`.
    """
    masks = read_array(path, "part_mask", (None, None, None))
    return torch.from_numpy((masks.transpose(2, 0, 1) > 0).astype(np.uint8))


def evaluate_jhmdb(
    root: str | Path,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    clips: Iterable[str] | None = None,
    split: int = 1,
    size: Size | None = SIZE,
    location: str = "top3",
    out: str | Path | None = None,
    resume: bool = False,
    on_clip: Callable[[str, dict], None] | None = None,
) -> dict | None:
    """Propagate the joints of each clip's first frame, and the person's mask, and score both.

    Args:
        root, clips, split: see :func:`jhmdb`.
        extractor, config: what to match and how; labels are fed back softly whatever it says.
        size: (H, W) at which frames are encoded, 320x320 as published; ``None`` leaves it to
            ``config``.
        location: see :func:`corrlib.keypoints.propagate_keypoints`.
        out: write ``out/<clip>.json`` (joints found, J of the person) as each clip is done.
        resume: read the clips that are there instead of propagating again.
        on_clip: called with the name and figure of each clip as
            :func:`corrlib.sharding.shared` yields it.

    Returns:
        The figure of :func:`corrlib.pck.summarise`, with ``"settings"``. Each clip also has
        ``seconds_per_frame`` (decoding and propagation) and ``person_J``, the mean J of the mask
        over all frames but the first, ``None`` where the data set has none. The whole has the
        mean of both over clips. ``None`` on ranks above 0 of several processes.
    """
    config = config or PropagationConfig()
    settings = settings_of(extractor, config, size=size, location=location)
    results = Results(out, resume, settings)
    names = JHMDB_SKELETON.names

    def work(clip: JHMDBClip) -> tuple[KeypointScore, dict]:
        truth = clip.read_joints()
        result = results.read(clip.name, partial(_parsed, frames=len(truth)))
        if result is None:
            result = _propagate(clip, truth[0], extractor, config, device, size, location)
            results.write(clip.name, result | {"joints": _listed(result["joints"])})
        given = on_frame(truth[0], (clip.frames.info.height, clip.frames.info.width))
        visible = given.expand(len(truth), -1)
        return score_keypoints(result.pop("joints"), truth, visible), result

    scores: dict[str, KeypointScore] = {}
    extras: dict[str, dict] = {}
    found = jhmdb(root, clips, split)
    for clip, (score, extra) in sharding.shared(found, lambda clip: clip.frames.info.frames, work):
        scores[clip.name], extras[clip.name] = score, extra
        if on_clip:
            on_clip(clip.name, summarise({"": score}, names)["clips"][""] | extra)
    if sharding.rank() > 0:
        return None
    figure = summarise(scores, names)
    for name, extra in extras.items():
        figure["clips"][name] |= extra
    for key in ("seconds_per_frame", "person_J"):
        values = [extra[key] for extra in extras.values() if extra[key] is not None]
        figure[key] = sum(values) / len(values) if values else None
    figure["settings"] = settings
    return figure


def _propagate(
    clip: JHMDBClip,
    joints: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig,
    device: torch.device | str,
    size: Size | None,
    location: str,
) -> dict:
    """Joints ``(T, 15, 2)``, J of the person, and the time.

    Heat maps and the person's mask are labels alike, so one propagation carries them together.
    """
    whole = (clip.frames.info.height, clip.frames.info.width)
    encoded, config = fixed(soft(config), whole, size)
    stride, count = extractor.stride, len(joints)
    given = torch.where(on_frame(joints, whole)[:, None], joints, torch.nan)
    given = rescale_points(given, whole, encoded)
    labels = heat_maps(given, encoded, stride, config)
    masks = clip.read_masks() if clip.masks is not None else None
    if masks is not None:
        person = mask_to_labels(resized_mask(masks[0], encoded), stride, config, 2)
        labels = torch.cat([labels, person])
    carried = propagate_labels(resized(clip.frames, encoded), labels, extractor, config, device)
    tracks, similarity = [], []
    spent, started = 0.0, time.perf_counter()
    for index, labels in enumerate(carried):
        found = given if index == 0 else locate(labels[:count], encoded, stride, config, location)
        tracks.append(rescale_points(found, encoded, whole))
        spent += time.perf_counter() - started
        if index > 0 and masks is not None:
            person = labels_to_mask(labels[count:], encoded, stride, config)
            similarity.append(region_similarity(resized_mask(person, whole), masks[index]))
        started = time.perf_counter()
    return {
        "joints": torch.stack(tracks),
        "seconds_per_frame": spent / len(tracks),
        "person_J": float(np.mean(similarity)) if similarity else None,
    }


def _listed(joints: torch.Tensor) -> list:
    """Joints ``(T, K, 2)`` as JSON has them: ``None`` for NaN."""
    return [[None if x != x else [x, y] for x, y in frame] for frame in joints.tolist()]


def _parsed(content: dict, frames: int) -> dict:
    """The other way, for a result that was written earlier."""
    lost = [math.nan, math.nan]
    joints = torch.tensor(
        [[lost if joint is None else joint for joint in frame] for frame in content["joints"]]
    )
    if tuple(joints.shape) != (frames, len(JHMDB_SKELETON.names), 2):
        raise ValueError(f"joints of shape {tuple(joints.shape)}")
    return {
        "joints": joints,
        "seconds_per_frame": float(content["seconds_per_frame"]),
        "person_J": None if content["person_J"] is None else float(content["person_J"]),
    }
