"""``corrlib evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrlib.cli.options import (
    adapt_option,
    command,
    davis_options,
    features,
    group,
    method,
    method_options,
    names,
    percent,
    propagation_config,
    settings,
    track_option,
    write_json,
)
from corrlib.errors import InputError


def add(commands) -> None:
    data_sets = group(commands, "evaluate", "propagate and score")
    evaluate = command(
        data_sets,
        "davis",
        _davis,
        "propagate the first masks of DAVIS and score J and F",
        "corrlib evaluate davis --root DAVIS --baseline colour-patch",
    )
    davis_options(evaluate)
    evaluate.add_argument("--masks-out", type=Path, metavar="DIR", help="write indexed PNGs")
    evaluate.add_argument(
        "--resume", action="store_true", help="score sequences already in --masks-out from there"
    )
    method_options(evaluate)
    track_option(evaluate)
    adapt_option(evaluate, "each sequence")

    evaluate = command(
        data_sets,
        "jhmdb",
        _jhmdb,
        "propagate the first joints of JHMDB and score PCK",
        "corrlib evaluate jhmdb --root JHMDB --weights corrflow --preset crw",
    )
    evaluate.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of JHMDB")
    evaluate.add_argument("--split", type=int, default=1, choices=(1, 2, 3), help="(default: 1)")
    _clip_options(evaluate, "320x320")

    evaluate = command(
        data_sets,
        "vip",
        _vip,
        "propagate the first human parts of VIP and score the mean IoU",
        "corrlib evaluate vip --root VIP_Fine --weights corrflow --preset crw",
    )
    evaluate.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of VIP")
    evaluate.add_argument("--split", default="val", help="of lists (default: val)")
    _clip_options(evaluate, "560x560")

    evaluate = command(
        data_sets,
        "points",
        _points,
        "track points and score the TAP-Vid measures",
        "corrlib evaluate points --weights corrflow",
    )
    evaluate.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of SLEAP projects (.slp) and their videos (default: made-up clips, and the "
        "shipped ones)",
    )
    evaluate.add_argument("--sequences", type=names, metavar="A,B", help="only these clips")
    evaluate.add_argument("--frames", type=int, metavar="N", help="of each clip at most")
    method_options(evaluate)


def _clip_options(parser: argparse.ArgumentParser, size: str) -> None:
    parser.add_argument("--sequences", type=names, metavar="A,B", help="only these clips")
    parser.add_argument(
        "--masks-out", type=Path, metavar="DIR", help="write what was found on each clip, as JSON"
    )
    parser.add_argument(
        "--resume", action="store_true", help="take clips already in --masks-out from there"
    )
    method_options(parser, size=f"as published, {size}")


@contextmanager
def _sharing() -> Iterator[None]:
    """What is within may connect several processes, which part after it."""
    import torch.distributed

    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@_sharing()
def _davis(options: argparse.Namespace) -> int:
    from corrlib.datasets import davis
    from corrlib.evaluation import evaluate

    config = propagation_config(options)
    sequences = davis(options.root, options.split, options.year, options.sequences)
    adapting = options.adapt is not None
    propagated = _adapting(options, config) if adapting else method(options, config)[0]
    print(f"{'sequence':22}     J     F   J&F  s/frame")

    def show(name: str, figure: dict) -> None:
        print(f"{name:22} {percent(figure)} {_pace(figure)}", flush=True)

    figure = evaluate(sequences, propagated, options.masks_out, options.resume, show)
    if figure is None:  # of several processes the first has it
        return 0
    print(f"{f'mean of {len(sequences)}':22} {percent(figure)}")
    write_json(options.json, figure | {"settings": settings(options, config)})
    return 0


def _adapting(options: argparse.Namespace, config):
    """A method that begins anew with the weights on each sequence, and learns from its frames."""
    from corrlib import sharding

    if sharding.world_size() > 1:  # they would train one model together
        raise InputError("--adapt goes with a single process; start it without torchrun")

    def carry(video, mask):
        of_this = argparse.Namespace(**vars(options) | {"video": video.path})
        return method(of_this, config)[0](video, mask)

    return carry


@_sharing()
def _jhmdb(options: argparse.Namespace) -> int:
    from corrlib.jhmdb import SIZE, evaluate_jhmdb

    heads = ("PCK_instance", "PCK_max")
    print(f"{'clip':40} inst@.1 inst@.2  max@.1  max@.2  s/frame")

    def show(name: str, figure: dict) -> None:
        values = (figure[head][alpha] for head in heads for alpha in ("0.1", "0.2"))
        columns = " ".join(f"{_share(value):>7}" for value in values)
        print(f"{name:40} {columns} {_pace(figure)}", flush=True)

    return _evaluate_clips(options, evaluate_jhmdb, SIZE, "clip", show)


@_sharing()
def _vip(options: argparse.Namespace) -> int:
    from corrlib.parts import SIZE, evaluate_vip

    print(f"{'video':40} mean IoU  s/frame")

    def show(name: str, figure: dict) -> None:
        print(f"{name:40} {_share(figure['mean_iou']):>8} {_pace(figure)}", flush=True)

    return _evaluate_clips(options, evaluate_vip, SIZE, "video", show)


@_sharing()
def _points(options: argparse.Namespace) -> int:
    from corrlib.device import choose_device
    from corrlib.tapvid import evaluate_points

    config = propagation_config(options)
    heads = ("delta_avg", "average_jaccard", "occlusion_accuracy")
    extractor = features(options)
    clips = _point_clips(options.root, options.sequences)
    print(f"{'clip':40}   delta      AJ      OA  s/frame")

    def show(name: str, figure: dict) -> None:
        columns = " ".join(f"{_share(figure[one]):>7}" for one in heads)
        print(f"{name:40} {columns} {_pace(figure)}", flush=True)

    figure = evaluate_points(
        clips,
        extractor,
        config,
        device=choose_device(options.device),
        limit=options.frames,
        on_clip=show,
    )
    if figure is None:
        return 0
    figure["sequences"] = figure.pop("clips")
    seconds = [one["seconds_per_frame"] for one in figure["sequences"].values()]
    figure["seconds_per_frame"] = sum(seconds) / len(seconds)
    show(f"mean of {len(seconds)}", figure)
    write_json(options.json, figure | {"settings": settings(options, config)})
    return 0


def _point_clips(root: Path | None, names: list[str] | None) -> list:
    from corrlib.point_data import shipped_points, sleap_points, synthetic_points

    if root is None:  # making a clip up takes a while, so only those that are asked for
        seeds = {f"synthetic-{seed}": seed for seed in range(4)}
        wanted = [seed for name, seed in seeds.items() if names is None or name in names]
        clips = [*synthetic_points(wanted), *shipped_points()]
        known = [*seeds, *(clip.name for clip in clips[len(wanted) :])]
    else:
        files = sorted(root.glob("*.slp"))
        if not files:
            raise InputError(f"expected a folder with SLEAP projects (*.slp), found none in {root}")
        clips = [sleap_points(file) for file in files]
        known = [clip.name for clip in clips]
    for name in names or []:
        if name not in known:
            raise InputError(f"expected clips among {', '.join(known)}, got {name!r}")
    return [clip for clip in clips if names is None or clip.name in names]


def _evaluate_clips(options: argparse.Namespace, evaluate, size, kind: str, show) -> int:
    """Evaluations that follow labels of their own kind on frames of a published size."""
    from corrlib.device import choose_device

    config = propagation_config(options)
    figure = evaluate(
        options.root,
        features(options),
        config,
        device=choose_device(options.device),
        split=options.split,
        size=size if options.size is None else None,
        out=options.masks_out,
        resume=options.resume,
        **{f"{kind}s": options.sequences, f"on_{kind}": show},
    )
    if figure is None:
        return 0
    figure["sequences"] = figure.pop(f"{kind}s")
    show(f"mean of {len(figure['sequences'])}", figure)
    figure["settings"] |= settings(options, config)
    write_json(options.json, figure)
    return 0


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _pace(figure: dict) -> str:
    seconds = figure["seconds_per_frame"]
    return "from files" if seconds is None else f"{seconds:8.3f}"
