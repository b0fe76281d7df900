"""``corrlib propagate``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from corrlib.cli.options import (
    adapt_option,
    command,
    features,
    method,
    method_options,
    propagation_config,
    settings,
    track_option,
    write_json,
)
from corrlib.errors import InputError

if TYPE_CHECKING:
    import torch

INTERRUPTED = 130


def add(commands) -> None:
    propagate = command(
        commands,
        "propagate",
        _propagate,
        "carry a mask, points or keypoints of the first frame through a video",
        "corrlib propagate cat.mp4 --mask first.png --out out.mp4",
    )
    propagate.add_argument("video", type=Path, metavar="VIDEO", help="a file or a frame folder")
    labels = propagate.add_mutually_exclusive_group(required=True)
    labels.add_argument(
        "--mask",
        type=Path,
        metavar="PNG",
        help="objects on the first frame: indexed, or one flat colour each on black",
    )
    labels.add_argument(
        "--points", type=Path, metavar="JSON", help='on the first frame: {"points": [[x, y], ...]}'
    )
    labels.add_argument(
        "--keypoints",
        type=Path,
        metavar="JSON",
        help='on the first frame: {"joints": [{"name": "hand", "x": 1, "y": 2}, ...], '
        '"edges": [["hand", "elbow"], ...]}',
    )
    propagate.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="MP4",
        help="the video with the labels drawn over it; Ctrl-C leaves the frames so far",
    )
    propagate.add_argument(
        "--later",
        action="append",
        default=[],
        metavar="FRAME=PNG",
        help="with --mask: objects that appear on a later frame, the first being 0 (repeatable)",
    )
    propagate.add_argument(
        "--masks-out", type=Path, metavar="DIR", help="with --mask: also write indexed PNGs"
    )
    propagate.add_argument(
        "--tracks-out", type=Path, metavar="JSON", help="else: also write the positions"
    )
    method_options(propagate)
    track_option(propagate, "with --mask: ")
    adapt_option(propagate, "this video")


def _propagate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from corrlib.interruption import interruption
    from corrlib.own_video import check_outputs
    from corrlib.video import open_video

    if options.masks_out and not options.mask:
        raise InputError("--masks-out goes with --mask; points and keypoints have --tracks-out")
    if options.tracks_out and options.mask:
        raise InputError("--tracks-out goes with --points or --keypoints; masks have --masks-out")
    if options.later and not options.mask:
        raise InputError("--later goes with --mask")
    if options.track and not options.mask:
        raise InputError("--track goes with --mask; points and joints are followed one by one")
    if options.track and options.later:
        raise InputError("--track follows the objects of the first frame; leave out --later")
    config = propagation_config(options)
    video = open_video(options.video)
    check_outputs(video, (options.out, options.masks_out, options.tracks_out, options.json))
    prepare = _mask if options.mask else _keypoints if options.keypoints else _points
    label = prepare(options, config, video)
    with (
        interruption() as stopped,
        tqdm(total=video.info.expected_frames, unit="frame", desc="propagating") as bar,
    ):
        outcome = label(on_frame=bar.update, stop=stopped)
    files = [str(path) for path in (options.out, options.masks_out, options.tracks_out) if path]
    print(f"{outcome.frames} frames in {outcome.seconds:.0f} s: {', '.join(files)}")
    if outcome.sound:
        print(outcome.sound)
    figures = {
        "frames": outcome.frames,
        "finished": outcome.finished,
        "seconds_per_frame": outcome.seconds / outcome.frames,
        "sound": outcome.sound,
        "settings": settings(options, config),
    }
    write_json(options.json, figures)
    if not outcome.finished:
        of = video.info.expected_frames
        print(
            f"corrlib: interrupted; {options.out} has the first {outcome.frames} frames"
            + (f" of {of}" if of else ""),
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def _mask(options: argparse.Namespace, config, video):
    from corrlib.masks import check_mask, read_mask
    from corrlib.own_video import carry_mask
    from corrlib.tracked import held

    mask = read_mask(options.mask)
    objects = check_mask(mask, video.info.height, video.info.width)
    propagated, extractor = method(options, config)
    later = dict(_later(given) for given in options.later)
    if later:
        if extractor is None:
            raise InputError(f"--later goes with features, not with {options.baseline}")
        objects = max(objects, *(int(mask.max()) for mask in later.values()))
        propagated = partial(propagated, later=later)
    if extractor is not None:
        needs = held(mask, extractor, config) if options.track else config
        _state(f"{objects} object(s)", objects, extractor, needs, video)
    return partial(
        carry_mask, video, lambda frames: propagated(frames, mask), options.out, options.masks_out
    )


def _later(given: str) -> tuple[int, torch.Tensor]:
    """``FRAME=PNG`` to the frame's number and its mask."""
    from corrlib.masks import read_mask

    number, equals, file = given.partition("=")
    if not equals or not number.isdecimal():
        raise InputError(f"expected --later FRAME=PNG, as in 12=cat.png, got {given}")
    return int(number), read_mask(file)


def _keypoints(options: argparse.Namespace, config, video):
    from corrlib.device import choose_device
    from corrlib.keypoint_files import read_keypoints
    from corrlib.keypoints import propagate_keypoints
    from corrlib.own_video import carry_keypoints

    skeleton, points = read_keypoints(options.keypoints, (video.info.height, video.info.width))
    extractor = features(options)
    _state(f"{len(points)} joint(s)", len(points), extractor, config, video)

    carry = partial(
        propagate_keypoints,
        points=points,
        extractor=extractor,
        config=config,
        device=choose_device(options.device),
    )
    return partial(carry_keypoints, video, carry, skeleton, options.out, options.tracks_out)


def _points(options: argparse.Namespace, config, video):
    from corrlib.device import choose_device
    from corrlib.own_video import carry_points
    from corrlib.point_files import read_points
    from corrlib.tracks import track_points

    points = read_points(options.points, video.info.height, video.info.width)
    extractor = features(options)
    _state(f"{len(points)} point(s)", 1, extractor, replace(config, references=0), video)
    carry = partial(
        track_points,
        points=points,
        extractor=extractor,
        config=config,
        device=choose_device(options.device),
    )
    return partial(carry_points, video, carry, options.out, options.tracks_out)


def _state(what: str, labels: int, extractor, config, video) -> None:
    from corrlib.propagation import memory_estimate

    size = (video.info.height, video.info.width)
    needed = memory_estimate(size, labels, extractor, config)
    print(
        f"{size[1]}x{size[0]}, {what}: propagation needs about {needed / 2**20:.0f} MB, however "
        "long the video"
    )
