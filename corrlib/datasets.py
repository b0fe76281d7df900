"""Sources of video: DAVIS for evaluation, any video for training, and made-up clips.

The generator of made-up clips lives in ``corrlib.synthetic``; it is offered here, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from corrlib.errors import InputError
from corrlib.masks import VOID, read_mask
from corrlib.synthetic import SyntheticClip, synthetic_clip
from corrlib.video import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Video,
    frame_files,
    natural_key,
    open_video,
)

__all__ = ["Sequence", "SyntheticClip", "davis", "synthetic_clip", "video_paths"]

# -- DAVIS ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """One annotated video.

    ``masks`` maps the index of a frame to its annotation file; frame 0 always has one.
    ``objects`` is the number of objects to follow, ids 1 to ``objects``. Where ``binary`` is set,
    every id above 0 counts as object 1.
    """

    name: str
    frames: Video
    masks: dict[int, Path]
    objects: int
    binary: bool = False

    def read_mask(self, index: int) -> Tensor:
        """The annotation of frame ``index``: uint8 ids ``(H, W)``, 0 is background."""
        mask = read_mask(self.masks[index])
        return (mask > 0).to(torch.uint8) if self.binary else mask


def davis(
    root: str | Path,
    split: str = "val",
    year: int | None = None,
    sequences: Iterable[str] | None = None,
) -> list[Sequence]:
    """The sequences of a DAVIS folder, in the order of the split's list or of ``sequences``.

    Reads both layouts: ``JPEGImages/<resolution>/<sequence>/*.jpg`` with masks under
    ``Annotations`` alike, and the split in ``ImageSets/2017/<split>.txt`` (names),
    ``ImageSets/2016/<split>.txt`` (names) or ``ImageSets/<resolution>/<split>.txt`` (the pairs of
    paths that DAVIS-2016 came with). The resolution is ``480p``, ``Full-Resolution`` or ``1080p``,
    the first that is there, or no such level. ``split="all"`` takes every annotated sequence and
    needs no list.

    ``year`` None takes 2017 if it has the split, else 2016. In 2016 every pixel above 0 is object
    1. In 2017 the number of objects is the largest id in the first frame's mask, leaving out
    ``VOID``, as the official evaluation counts.

    Raises ``InputError`` for a missing root, split, sequence or first mask, and for a mask that
    belongs to no frame.
    """
    root = Path(root)
    if year not in (None, 2016, 2017):
        raise InputError(f"DAVIS is of 2016 or 2017, got year {year}")
    images = _davis_folder(root, "JPEGImages")
    annotations = _davis_folder(root, "Annotations", images.name)
    names, listed_year = _davis_split(root, split, year, annotations)
    if sequences is not None:
        wanted = list(sequences)
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InputError(
                f"no sequence {unknown[0]!r} in split {split!r} of {root}; it has {_some(names)}"
            )
        names = wanted
    missing = [
        name for name in names if not (images / name).is_dir() or not (annotations / name).is_dir()
    ]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} sequences of split {split!r} lack frames or masks in "
            f"{root}, the first is {missing[0]!r}; fetch the rest, or name the sequences to use"
        )
    return [
        _davis_sequence(images / name, annotations / name, binary=listed_year == 2016)
        for name in names
    ]


def _davis_folder(root: Path, kind: str, resolution: str | None = None) -> Path:
    """``root/kind/480p`` or the like; ``root/kind`` where the sequences lie right in it."""
    if not root.is_dir():
        raise InputError(f"expected a DAVIS folder, found none at {root}")
    folder = root / kind
    if not folder.is_dir():
        raise InputError(
            f"expected JPEGImages and Annotations in the DAVIS folder {root}, "
            f"found {_some(sorted(entry.name for entry in root.iterdir()))}"
        )
    if resolution == "JPEGImages":
        return folder
    for name in (resolution,) if resolution else ("480p", "Full-Resolution", "1080p"):
        if (folder / name).is_dir():
            return folder / name
    if resolution:
        raise InputError(
            f"{root} has frames in JPEGImages/{resolution}, so masks were expected in "
            f"Annotations/{resolution}; there is no such folder"
        )
    return folder


def _davis_split(
    root: Path, split: str, year: int | None, annotations: Path
) -> tuple[list[str], int | None]:
    """The names of the split's sequences and the year whose list they are from."""
    sets = root / "ImageSets"
    folders = {2017: ["2017"], 2016: ["2016", "480p", "1080p"]}
    years = (2017, 2016) if year is None else (year,)
    if split == "all":
        names = sorted(entry.name for entry in annotations.iterdir() if entry.is_dir())
        if not names:
            raise InputError(f"expected folders of masks in {annotations}, found none")
        found = [y for y in years if any((sets / name).is_dir() for name in folders[y])]
        return names, year or (found[0] if found else None)
    for candidate in years:
        for folder in folders[candidate]:
            file = sets / folder / f"{split}.txt"
            if file.is_file():
                names = _davis_list(file)
                if not names:
                    raise InputError(f"expected names of sequences in {file}, it has none")
                return names, candidate
    found = sorted(str(file.relative_to(sets).with_suffix("")) for file in sets.glob("*/*.txt"))
    raise InputError(
        f"no split {split!r}{f' of {year}' if year else ''} in {sets}: found "
        f"{_some(found)}; split 'all' takes every annotated sequence"
    )


def _davis_list(file: Path) -> list[str]:
    """Names one a line, or pairs of paths ``/JPEGImages/480p/name/00000.jpg /Annotations/...``."""
    names: dict[str, None] = {}
    for line in file.read_text().splitlines():
        words = line.split()
        if words:
            path = Path(words[0])
            names[path.parent.name if path.suffix.lower() in IMAGE_SUFFIXES else path.name] = None
    return list(names)


def _davis_sequence(images: Path, annotations: Path, binary: bool) -> Sequence:
    video = open_video(images)
    index = {file.stem: i for i, file in enumerate(frame_files(images))}
    files = [file for file in frame_files(annotations) if file.suffix.lower() == ".png"]
    masks = {index[file.stem]: file for file in files if file.stem in index}
    if len(masks) < len(files):
        lost = next(file for file in files if file.stem not in index)
        raise InputError(f"the mask {lost} belongs to no frame in {images}")
    if 0 not in masks:
        raise InputError(f"expected a mask of the first frame of {images} in {annotations}")
    first = read_mask(masks[0])
    objects = int(first.any()) if binary else int(torch.where(first == VOID, 0, first).max())
    if objects == 0:
        raise InputError(f"{masks[0]} has no object: every pixel is background")
    return Sequence(images.name, video, masks, objects, binary)


# -- training sources ----------------------------------------------------------------------------


def video_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Everything ``open_video`` accepts under ``paths``, once each, in natural order.

    A path is one of

    - a video file, by its suffix (``VIDEO_SUFFIXES``);
    - a folder of frames: two or more jpg or png images right in it, and no video. Indexed PNGs
      are masks, not frames: a folder of them is passed over;
    - any other folder: searched to any depth for those two. Where a folder has ``JPEGImages``,
      only that is searched, for the masks beside it are images too; of its resolutions the first
      of 480p, Full-Resolution and 1080p. Hidden entries are passed over;
    - a ``.txt`` list of such paths, one a line, relative to the list; blank lines and lines that
      begin with ``#`` are passed over.

    Raises ``InputError`` for a path that is missing or of another kind, and when nothing is found.
    """
    paths = [Path(path) for path in paths]
    found: dict[Path, Path] = {}
    for path in paths:
        for video in _sources(path):
            found.setdefault(video.resolve(), video)
    if not found:
        raise InputError(
            f"no video ({' '.join(VIDEO_SUFFIXES)}) and no folder of frames "
            f"({' '.join(IMAGE_SUFFIXES)}) in {_some([str(path) for path in paths])}"
        )
    return sorted(found.values(), key=natural_key)


def _sources(path: Path) -> Iterable[Path]:
    if path.is_file() and path.suffix.lower() == ".txt":
        return _listed(path)
    return _videos(path)


def _listed(file: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"expected a list of paths, {file} is not text") from error
    entries = [file.parent / line for line in lines if line and not line.startswith("#")]
    missing = [entry for entry in entries if not entry.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(entries)} paths listed in {file} are missing, "
            f"the first is {missing[0]}"
        )
    return [video for entry in entries for video in _videos(entry)]


def _videos(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return _search(path, set())
    if not path.exists():
        raise InputError(f"expected a folder of videos or frames, a video or a list, no {path}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return [path]
    raise InputError(
        f"expected a folder, a video ({' '.join(VIDEO_SUFFIXES)}) or a .txt list, got {path}"
    )


def _search(folder: Path, seen: set[Path]) -> list[Path]:
    """Videos and frame folders under ``folder``, links followed, no folder entered twice."""
    if folder.resolve() in seen:
        return []
    seen.add(folder.resolve())
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    videos = [e for e in entries if e.suffix.lower() in VIDEO_SUFFIXES and e.is_file()]
    if not videos and len(images := frame_files(folder)) >= 2:
        return [] if _is_indexed(images[0]) else [folder]
    folders = [entry for entry in entries if entry.is_dir()]
    if folder / "JPEGImages" in folders:
        folders = [_davis_folder(folder, "JPEGImages")]
    for inner in folders:
        videos += _search(inner, seen)
    return videos


def _is_indexed(image: Path) -> bool:
    """Whether a picture's pixels are indices into a palette, as a mask's are."""
    try:
        with Image.open(image) as picture:
            return picture.mode == "P"
    except (OSError, Image.DecompressionBombError):  # opening the video will say what is wrong
        return False


def _some(names: list[str], most: int = 8) -> str:
    if not names:
        return "nothing"
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
