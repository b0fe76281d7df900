"""Human parts on VIP (Zhou et al., "Adaptive Temporal Encoding Network", ACM Multimedia 2018).

The layout of its ``VIP_Fine``, in which one frame of every 25 is kept, with labels::

    Images/<video>/*.jpg
    Annotations/Category_ids/<video>/*.png     one of 20 classes per pixel, the same file names
    lists/val_videos.txt                       names of videos, one a line

The labels of a video's first frame are propagated. Mean IoU is taken from one confusion matrix of
all pixels of all frames of all videos, as the released evaluation of UVC does: the first frame,
though given, is counted; a pixel whose true label is none of the 20 (255) is not; a class
that neither truth nor prediction shows anywhere is left out of the mean. Papers encode frames
squeezed to 560x560 pixels and put labels back to the frame's own size by the nearest pixel; UVC
matches with the first frame and one preceding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from corrlib import sharding
from corrlib.errors import InputError
from corrlib.masks import read_mask
from corrlib.propagation import FeatureExtractor, PropagationConfig, propagate_mask
from corrlib.protocol import Results, Size, fixed, resized, resized_mask, settings_of
from corrlib.video import Video, frame_files, open_video

VIP_CLASSES = (
    *("background", "hat", "hair", "sunglasses", "upper clothes", "dress", "coat", "socks"),
    *("pants", "gloves", "scarf", "skirt", "torso skin", "face", "right arm", "left arm"),
    *("right leg", "left leg", "right shoe", "left shoe"),
)
"""Names of the labels 0..19."""

SIZE: Size = (560, 560)


@dataclass(frozen=True)
class PartsVideo:
    """One video; ``labels`` maps the index of a frame to its label file, 0 always has one."""

    name: str
    frames: Video
    labels: dict[int, Path]


def vip(
    root: str | Path, split: str = "val", videos: Iterable[str] | None = None
) -> list[PartsVideo]:
    """The videos of a VIP folder, in the order of the split's list or of ``videos``.

    ``root`` is ``VIP_Fine`` or the folder it lies in. Without ``lists`` every labelled video is
    taken, in order of their names; videos that are named are taken whatever the list says.

    Raises:
        InputError: no such folder, split, video or labels of a first frame; labels without frame.
    """
    root = Path(root)
    root = root / "VIP_Fine" if (root / "VIP_Fine").is_dir() else root
    images, labels = root / "Images", root / "Annotations" / "Category_ids"
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(
                f"expected Images and Annotations/Category_ids in the VIP folder {root}, "
                f"{folder.name} is missing"
            )
    names = list(videos) if videos is not None else _split_list(root, split, labels)
    if not names:
        raise InputError(f"expected labelled videos in {root}, found none")
    missing = [n for n in names if not (images / n).is_dir() or not (labels / n).is_dir()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} videos lack frames or labels in {root}, the first is "
            f"{missing[0]!r}; fetch the rest, or name the videos to use"
        )
    return [_video(images / name, labels / name) for name in names]


def _split_list(root: Path, split: str, labels: Path) -> list[str]:
    lists = root / "lists"
    if not lists.is_dir():
        return sorted(entry.name for entry in labels.iterdir() if entry.is_dir())
    file = lists / f"{split}_videos.txt"
    if not file.is_file():
        raise InputError(f"no split {split!r} in {root}: expected a list {file}")
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a list of videos, {file} cannot be read as text") from error
    return list(dict.fromkeys(Path(line).name for line in lines))


def _video(images: Path, labels: Path) -> PartsVideo:
    index = {file.stem: i for i, file in enumerate(frame_files(images))}
    files = [file for file in frame_files(labels) if file.suffix.lower() == ".png"]
    lost = [file for file in files if file.stem not in index]
    if lost:
        raise InputError(f"the labels {lost[0]} belong to no frame in {images}")
    found = {index[file.stem]: file for file in files}
    if 0 not in found:
        raise InputError(f"expected labels of the first frame of {images} in {labels}")
    return PartsVideo(images.name, open_video(images), found)


def read_parts(path: str | Path) -> torch.Tensor:
    """Labels of one frame as they stand in a PNG, ``(H, W)`` uint8; 20 and above are no class.

    Raises:
        InputError: as :func:`corrlib.masks.read_mask`.
    """
    labels = read_mask(path)
    with Image.open(path) as image:
        if image.mode == "L":  # where a mask of 0 and 255 means 0 and 1, labels do not
            return torch.from_numpy(np.array(image))
    return labels


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Pixels of each true class (rows) by predicted class (columns): int64 ``(20, 20)``.

    Pixels whose true label is 20 or above are left out.

    Raises:
        InputError: sizes that differ; a predicted label that is no class.
    """
    classes = len(VIP_CLASSES)
    if prediction.shape != truth.shape:
        raise InputError(
            f"expected labels of {tuple(truth.shape)} as the truth has, got "
            f"{tuple(prediction.shape)}"
        )
    counted = truth < classes
    predicted = prediction[counted].long()
    if predicted.numel() and predicted.max() >= classes:
        raise InputError(f"expected labels 0..{classes - 1}, got {int(predicted.max())}")
    pairs = truth[counted].long() * classes + predicted
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).numpy()


def mean_iou(confusion: np.ndarray) -> dict:
    """The figure of a confusion matrix ``(20, 20)``, fractions ready for JSON.

    ``{"mean_iou", "pixel_accuracy", "classes": {name: IoU}}``; ``None`` for a class that appears
    nowhere, which the mean leaves out, and for all three where nothing was counted.
    """
    correct = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - correct
    iou = [float(c / u) if u else None for c, u in zip(correct, union, strict=True)]
    seen = [value for value in iou if value is not None]
    total = confusion.sum()
    return {
        "mean_iou": sum(seen) / len(seen) if seen else None,
        "pixel_accuracy": float(correct.sum() / total) if total else None,
        "classes": dict(zip(VIP_CLASSES, iou, strict=True)),
    }


def propagate_parts(
    frames: Iterable[torch.Tensor],
    labels: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
    size: Size | None = SIZE,
) -> Iterator[torch.Tensor]:
    """Yield the labels of every frame; the first are those given.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        labels: ``(H, W)`` uint8 of the first frame. A label that is no class counts as background
            here.
        size: (H, W) at which frames are encoded; ``None`` leaves it to ``config``.

    Yields:
        ``(H, W)`` uint8 on the CPU.
    """
    whole = tuple(labels.shape)
    encoded, config = fixed(config or PropagationConfig(), whole, size)
    known = torch.where(labels < len(VIP_CLASSES), labels, 0)
    given = resized_mask(known, encoded)
    frames = resized(frames, encoded)
    carried = (
        propagate_mask(frames, given, extractor, config, device)
        if given.any()
        else (given for _ in frames)  # nobody on the first frame, so nobody on any
    )
    for index, mask in enumerate(carried):
        yield known if index == 0 else resized_mask(mask, whole)


def evaluate_vip(
    root: str | Path,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    videos: Iterable[str] | None = None,
    split: str = "val",
    size: Size | None = SIZE,
    out: str | Path | None = None,
    resume: bool = False,
    on_video: Callable[[str, dict], None] | None = None,
) -> dict | None:
    """Propagate the labels of each video's first frame and score all frames with labels.

    Args:
        root, videos, split: see :func:`vip`.
        extractor, config: what to match and how.
        size: (H, W) at which frames are encoded, 560x560 as published; ``None`` leaves it to
            ``config``.
        out: write ``out/<video>.json`` (its confusion matrix) as each video is done.
        resume: read the videos that are there instead of propagating again.
        on_video: called with the name and figure of each video as
            :func:`corrlib.sharding.shared` yields it.

    Returns:
        The figure of :func:`mean_iou` over all videos, with ``"seconds_per_frame"`` (the mean
        over videos of decoding and propagation), ``"settings"``, and ``"videos"``: each one's
        ``mean_iou``, ``pixel_accuracy`` and ``seconds_per_frame``. ``None`` on ranks above 0 of
        several processes.
    """
    config = config or PropagationConfig()
    settings = settings_of(extractor, config, size=size)
    results = Results(out, resume, settings)

    def work(video: PartsVideo) -> dict:
        result = results.read(video.name, _parsed)
        if result is None:
            result = _evaluate_one(video, extractor, config, device, size)
            results.write(video.name, result | {"confusion": result["confusion"].tolist()})
        return result

    total = np.zeros((len(VIP_CLASSES),) * 2, dtype=np.int64)
    figures: dict[str, dict] = {}
    found = vip(root, split, videos)
    for video, result in sharding.shared(found, lambda video: video.frames.info.frames, work):
        confusion = result["confusion"]
        total += confusion
        figure = mean_iou(confusion) | {"seconds_per_frame": result["seconds_per_frame"]}
        figures[video.name] = {key: figure[key] for key in figure if key != "classes"}
        if on_video:
            on_video(video.name, figures[video.name])
    if sharding.rank() > 0:
        return None
    seconds = [figure["seconds_per_frame"] for figure in figures.values()]
    return mean_iou(total) | {
        "seconds_per_frame": sum(seconds) / len(seconds),
        "videos": figures,
        "settings": settings,
    }


def _evaluate_one(
    video: PartsVideo,
    extractor: FeatureExtractor,
    config: PropagationConfig,
    device: torch.device | str,
    size: Size | None,
) -> dict:
    confusion = np.zeros((len(VIP_CLASSES),) * 2, dtype=np.int64)
    first = read_parts(video.labels[0])
    if tuple(first.shape) != (video.frames.info.height, video.frames.info.width):
        raise InputError(
            f"expected labels of {video.frames.info.height}x{video.frames.info.width} as the "
            f"frames have, got {first.shape[0]}x{first.shape[1]} in {video.labels[0]}"
        )
    predictions = propagate_parts(video.frames, first, extractor, config, device, size)
    spent, count = 0.0, 0
    while True:
        started = time.perf_counter()
        prediction = next(predictions, None)
        spent += time.perf_counter() - started
        if prediction is None:
            break
        if count in video.labels:
            truth = first if count == 0 else read_parts(video.labels[count])
            confusion += confusion_matrix(prediction, truth)
        count += 1
    return {"confusion": confusion, "seconds_per_frame": spent / max(count, 1)}


def _parsed(content: dict) -> dict:
    """A result that was written earlier."""
    confusion = np.array(content["confusion"], dtype=np.int64)
    if confusion.shape != (len(VIP_CLASSES),) * 2:
        raise ValueError(f"a confusion matrix of shape {confusion.shape}")
    return {
        "confusion": confusion,
        "seconds_per_frame": float(content["seconds_per_frame"]),
    }
