"""Downloads: data sets and weights, verified by SHA-256, resumed where they broke off.

A file appears under its name only when it is whole and verified; until then it is ``NAME.part``
beside it, from which the next attempt goes on. A folder appears only when all of it is unpacked.
What has no published SHA-256 is not downloaded: :func:`fetch` says where it is to be had and how
it has to lie.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import pooch
import torch

from corrlib.errors import InputError
from corrlib.files import atomic_folder

Report = Callable[[str], None]
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20
MOST_FILES = 1_000_000


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        name: its name here.
        urls: where it is, mirrors after the first.
        sha256: of its content.
        size: bytes.
        licence: of the content.
        source: where the hash is published.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    licence: str
    source: str


@dataclass(frozen=True)
class Archive:
    """A data set in a zip file.

    Attributes:
        file: the zip.
        folder: what it becomes, below the root.
        top: the one folder the zip holds; its content is what is kept.
        marker: a file that is there when the folder is.
        unpacked: bytes that unpacking may take at most.
    """

    file: RemoteFile
    folder: str
    top: str
    marker: str
    unpacked: int


DINO = RemoteFile(
    name="dino-vit-small-8.safetensors",
    urls=(
        "https://huggingface.co/timm/vit_small_patch8_224.dino/resolve/"
        "06cd8ed4b3fcef6305223df082ef8c19bc775704/model.safetensors",
    ),
    sha256="e1b79616ce6d1b8dc3cc0d5952b6d0958356a189122882493e665d28f20654a0",
    size=0,  # not published to the byte
    licence="Apache-2.0 (Caron et al. 2021, converted in timm)",
    source="https://huggingface.co/timm/vit_small_patch8_224.dino",
)

ARCHIVES: dict[str, Archive] = {
    "davis-2017": Archive(
        RemoteFile(
            name="DAVIS-2017-trainval-480p.zip",
            urls=(
                "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip",
                "https://data.vision.ee.ethz.ch/jpont/davis/DAVIS-2017-trainval-480p.zip",
            ),
            sha256="e3d0b5b77c3d031b000a19e0e25e3e2cac65d183755601bc2cf066df1a2aa492",
            size=832_766_765,
            licence="CC BY-NC 4.0, see its README",
            source="TensorFlow Datasets, video/davis/checksums.tsv",
        ),
        folder="DAVIS-2017",
        top="DAVIS",
        marker="ImageSets/2017/val.txt",
        unpacked=2_000_000_000,
    )
}
"""What :func:`fetch` downloads."""

BY_HAND: dict[str, str] = {
    "davis-2016": "https://davischallenge.org/davis2016/code.html and unpack it as DAVIS-2016 with "
    "JPEGImages/480p/SEQUENCE/00000.jpg, Annotations/480p/SEQUENCE/00000.png and "
    "ImageSets/2016/val.txt",
    "jhmdb": "http://jhmdb.is.tue.mpg.de (Rename_Images, joint_positions, splits) and unpack it as "
    "JHMDB with Rename_Images/ACTION/CLIP/00001.png, "
    "joint_positions/ACTION/CLIP/joint_positions.mat and splits/ACTION_test_split1.txt",
    "vip": "https://sysu-hcp.net/lip/overview.php (section 2.3, VIP_Fine) and unpack it as "
    "VIP_Fine with Images/VIDEO/*.jpg, Annotations/Category_ids/VIDEO/*.png and "
    "lists/val_videos.txt",
}
"""What has no published SHA-256: where it is and how it has to lie below the root."""


def fetch(name: str, root: str | Path, report: Report = lambda text: None) -> Path:
    """Download and unpack a data set; what is there already is left alone.

    Args:
        name: one of :data:`ARCHIVES`.
        root: folder to hold the data set's own folder.
        report: told size and licence first, then how far the download is.

    Returns:
        The data set's folder.

    Raises:
        InputError: an unknown name, a data set to be had by hand only, no network, no room on the
            disk, or a download that is not what was published.
    """
    if name in BY_HAND:
        raise InputError(
            f"no SHA-256 of {name} is published, so it is not downloaded unchecked; get it from "
            f"{BY_HAND[name]}"
        )
    if name not in ARCHIVES:
        known = ", ".join([*ARCHIVES, *BY_HAND])
        raise InputError(f"expected a data set among {known}, got {name!r}")
    archive = ARCHIVES[name]
    file, root = archive.file, Path(root)
    folder = root / archive.folder
    if (folder / archive.marker).is_file():
        report(f"{name} is there already: {folder}")
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"expected {folder} to be absent, or to hold {archive.marker}; move it away, or choose "
            "another root"
        )
    report(
        f"{name}: {_megabytes(file.size)} to download, up to {_megabytes(archive.unpacked)} on "
        f"disk; licence: {file.licence}"
    )
    _check_room(root, file.size + archive.unpacked)
    packed = download(file, root, report)
    report(f"unpacking to {folder}")
    unpack(packed, folder, top=archive.top, most=archive.unpacked)
    if not (folder / archive.marker).is_file():
        raise InputError(f"expected {archive.marker} in {file.name}, it has none; report this")
    packed.unlink()
    return folder


def download(file: RemoteFile, folder: str | Path, report: Report = lambda text: None) -> Path:
    """Download a file into a folder, or find it there; verified in any case.

    Raises:
        InputError: no mirror could be reached, or what came is not what was published.
    """
    path = Path(folder) / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and pooch.file_hash(str(path)) != file.sha256:
            raise InputError(
                f"{path} is not the published {file.name} (its SHA-256 differs); remove it"
            )
    except OSError as error:
        raise InputError(f"cannot use the folder {folder}: {one_line(error)}") from error
    failures = []
    for url in file.urls:
        try:
            with _quiet():
                pooch.retrieve(
                    url,
                    known_hash=f"sha256:{file.sha256}",
                    fname=file.name,
                    path=path.parent,
                    downloader=_Resume(path.with_name(f"{file.name}.part"), file, report),
                )
            return path
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = error.reason if type(error) is URLError else error
            failures.append(f"{urlsplit(url).hostname}: {one_line(reason)}")
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {one_line(error)}") from error
        except ValueError as error:  # pooch's word for a hash that differs
            failures.append(f"{urlsplit(url).hostname}: {one_line(error)}")
    raise InputError(
        f"could not download {file.name} ({'; '.join(failures)}); try again later, or put the file "
        f"from {file.urls[0]} at {path}"
    )


class _Resume:
    """A downloader for pooch that keeps what came in a ``.part`` file and goes on from there."""

    def __init__(self, part: Path, file: RemoteFile, report: Report):
        self.part, self.file, self.report = part, file, report

    def __call__(self, url: str, output_file: str | os.PathLike, pooch: Any) -> None:
        done = self.part.stat().st_size if self.part.exists() else 0
        if not (self.file.size and done == self.file.size):
            self._receive(url, done)
        os.replace(self.part, output_file)  # verified by pooch before it gets its name

    def _receive(self, url: str, done: int) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "corrlib"})
        if done:
            request.add_header("Range", f"bytes={done}-")
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if done and error.code == 416:  # no such range: what is here is whole, or wrong
                return
            raise
        with response:
            if done and response.status != 206:  # the server starts anew
                done = 0
            announced = response.headers.get("Content-Length")
            whole = done + int(announced) if announced and announced.isdigit() else 0
            expected = self.file.size or whole
            if whole and whole != expected:
                raise ValueError(f"expected {expected} bytes, {whole} are offered")
            told = 10 * done // expected if expected else 0
            with self.part.open("r+b" if done else "wb") as out:
                out.seek(done)
                while chunk := response.read(CHUNK):
                    done += len(chunk)
                    if expected and done > expected:
                        raise ValueError(f"expected {expected} bytes, more came")
                    out.write(chunk)
                    if expected and 10 * done // expected > told:
                        told = 10 * done // expected
                        self.report(f"{self.file.name}: {10 * told} % of {_megabytes(expected)}")
        if expected and done < expected:
            raise ConnectionError(f"the connection broke off after {done} of {expected} bytes")


def unpack(packed: str | Path, folder: str | Path, *, top: str, most: int) -> None:
    """Unpack a zip's one top folder as ``folder``, which appears when all of it is there.

    Raises:
        InputError: not a zip file, an entry that would leave the folder or is no plain file, or
            more than ``most`` bytes.
    """
    try:
        with zipfile.ZipFile(packed) as source, atomic_folder(folder) as out:
            entries = [(entry, _inner_path(entry, top)) for entry in source.infolist()]
            total = sum(entry.file_size for entry, _ in entries)
            if total > most or len(entries) > MOST_FILES:
                raise InputError(
                    f"expected at most {most} bytes in {packed}, it holds {total} in "
                    f"{len(entries)} files; it is not what it should be"
                )
            for entry, inner in entries:
                target = out.joinpath(*inner.parts)
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as reader, target.open("xb") as writer:
                    shutil.copyfileobj(reader, writer, CHUNK)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"expected a complete zip file, {packed} is not one ({one_line(error)}); remove it and "
            "fetch again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot unpack to {folder}: {one_line(error)}") from error


def _inner_path(entry: zipfile.ZipInfo, top: str) -> PurePosixPath:
    """Where an entry goes below the folder; refuses what would lead out of it."""
    path = PurePosixPath(entry.filename)
    strange = any(part in ("..", "") or set(part) & set("\\:\0") for part in path.parts)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if path.is_absolute() or strange or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"expected plain files in the archive, got {entry.filename!r}")
    if path.parts[:1] != (top,):
        raise InputError(f"expected the archive to hold a folder {top}, got {entry.filename!r}")
    return PurePosixPath(*path.parts[1:])


def torchvision_state(weights: Any, what: str) -> Mapping[str, torch.Tensor]:
    """The state dict behind one of torchvision's weights, downloaded once.

    torchvision checks it against the start of its SHA-256, which the file's name holds.

    Args:
        weights: a member of one of torchvision's weights enumerations.
        what: what to call it in the message.

    Raises:
        InputError: neither in the cache nor to be downloaded.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, HTTPException, OSError, RuntimeError) as error:
        raise InputError(
            f"{what} are neither in torchvision's cache nor to be downloaded ({one_line(error)}); "
            "connect to the network once, or choose another baseline"
        ) from error


def one_line(error: object) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _check_room(root: Path, needed: int) -> None:
    there = next(parent for parent in (root, *root.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"expected {_megabytes(needed)} free on the disk of {root}, got {_megabytes(free)}; "
            "make room, or choose another root"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


class _quiet:
    """Keeps pooch from logging to the terminal."""

    def __enter__(self) -> None:
        self.level = pooch.get_logger().level
        pooch.get_logger().setLevel(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        pooch.get_logger().setLevel(self.level)
