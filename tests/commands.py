"""What the tests of the command line, and of what it calls, share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from corrlib.baselines import colour_patch
from corrlib.cli import main
from corrlib.masks import write_mask
from corrlib.propagation import FeatureExtractor
from corrlib.synthetic import synthetic_clip
from corrlib.video import VideoWriter

H, W, T = 64, 80, 5
FAST = ("--device", "cpu", "--precision", "fp32", "--radius", "3", "--baseline", "colour-patch")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line of an error, after checking that it is one."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("corrlib: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


def make_box(root: Path) -> Path:
    """A folder with a video, its first mask, and a DAVIS-2016 tree of it."""
    clip = synthetic_clip(frames=T, height=H, width=W, objects=1, seed=3)
    with VideoWriter(root / "video.mp4", 12) as writer:
        for frame in clip.frames:
            writer.write(frame)
    davis = root / "davis"
    for name in ("one", "two"):
        images = davis / "JPEGImages" / "480p" / name
        images.mkdir(parents=True)
        for index in range(T):
            picture = Image.fromarray(clip.frames[index].permute(1, 2, 0).numpy())
            picture.save(images / f"{index:05d}.jpg", quality=95)
            annotation = davis / "Annotations" / "480p" / name / f"{index:05d}.png"
            write_mask(annotation, clip.masks[index])
    lists = davis / "ImageSets" / "2016"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("one\ntwo\n")
    write_mask(root / "mask.png", clip.masks[0])
    return root


def watched_patches() -> tuple[FeatureExtractor, set[tuple[int, int]]]:
    """Colour patches, and the sizes of the frames that they were asked for."""
    patch, sizes = colour_patch(), set()

    def extract(frames):
        sizes.add(tuple(frames.shape[-2:]))
        return patch.extract(frames)

    return replace(patch, extract=extract), sizes
