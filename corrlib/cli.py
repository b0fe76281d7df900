"""The command line: ``corrlib COMMAND``, also ``python -m corrlib COMMAND``.

Commands parse, call the library and print; what they do lives there. Exit status: 0 when a command
did what was asked, 2 for bad input (one line on stderr), 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from corrlib import __version__
from corrlib.errors import InputError
from corrlib.files import atomic_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        options = _parser().parse_args(arguments)
        return options.run(options)
    except InputError as error:
        print(f"corrlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("corrlib: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, say `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


# -- the commands ----------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    from corrlib import doctor

    return 0 if doctor.run(print, options.json) else 1


def _tour(options: argparse.Namespace) -> int:
    from corrlib.tour import tour

    figures = tour(
        options.out,
        seeds=options.seeds,
        minutes=options.minutes,
        device=options.device,
        precision=options.precision,
        report=_say,
    )
    _write_json(options.json, figures)
    return 0


def _train(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from corrlib.datasets import video_paths
    from corrlib.frames import FrameCache
    from corrlib.training import PROFILES, Trainer

    config = replace(PROFILES[options.profile], seed=options.seed)
    if options.steps is not None:
        config = replace(config, steps=options.steps)
    cache = FrameCache.build(
        video_paths(options.data), options.cache or options.out / "frames", config.clips.size
    )
    print(f"training data: {len(cache.names)} videos, {cache.frames} frames")
    for name, reason in cache.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    trainer = Trainer(
        config,
        cache,
        options.out,
        minutes=options.minutes,
        device=options.device,
        precision=options.precision,
        resume=options.resume,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    finished = trainer.run()
    _write_json(options.json, trainer.description() | {"finished": finished})
    if not finished:
        print(f"stopped at step {trainer.progress.step}; continue with --resume", file=sys.stderr)
        return 130
    print(f"{trainer.progress.step} steps in {trainer.progress.seconds:.0f} s: {trainer.weights}")
    return 0


def _propagate(options: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from tqdm import tqdm

    from corrlib.files import atomic_folder
    from corrlib.masks import check_mask, overlay, read_mask, write_mask
    from corrlib.propagation import memory_estimate
    from corrlib.video import VideoWriter, open_video

    config = _propagation_config(options)
    video = open_video(options.video)
    mask = read_mask(options.mask)
    size = (video.info.height, video.info.width)
    objects = check_mask(mask, *size)
    method, extractor = _method(options, config)
    if extractor is not None:
        needed = memory_estimate(size, objects, extractor, config)
        print(
            f"{size[1]}x{size[0]}, {objects} object(s): propagation needs about "
            f"{needed / 2**20:.0f} MB, however long the video"
        )
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(options.out, video.info.fps))
        folder = options.masks_out and stack.enter_context(atomic_folder(options.masks_out))
        kept: list = []  # the frame whose mask comes next; decoding is not repeated

        def frames():
            for frame in video:
                kept.append(frame)
                yield frame

        masks = method(frames(), mask)
        bar = tqdm(masks, total=video.info.frames, unit="frame", desc="propagating")
        for index, found in enumerate(bar):
            writer.write(overlay(kept.pop(0), found))
            if folder:
                write_mask(folder / f"{index:05d}.png", found)
    print(f"{index + 1} frames: {options.out}" + (f", {options.masks_out}" if folder else ""))
    _write_json(options.json, {"frames": index + 1, "settings": _settings(options, config)})
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from corrlib.datasets import davis
    from corrlib.evaluation import evaluate

    config = _propagation_config(options)
    names = options.sequences.split(",") if options.sequences else None
    sequences = davis(options.root, options.split, options.year, names)
    method, _ = _method(options, config)
    print(f"{'sequence':22}     J     F   J&F  s/frame")

    def show(name: str, figure: dict) -> None:
        seconds = figure["seconds_per_frame"]
        pace = "from files" if seconds is None else f"{seconds:8.3f}"
        print(f"{name:22} {_percent(figure)} {pace}", flush=True)

    figure = evaluate(sequences, method, options.masks_out, options.resume, show)
    print(f"{f'mean of {len(sequences)}':22} {_percent(figure)}")
    _write_json(options.json, figure | {"settings": _settings(options, config)})
    return 0


def _score(options: argparse.Namespace) -> int:
    from corrlib.datasets import davis
    from corrlib.metrics import score_folder

    names = options.sequences.split(",") if options.sequences else None
    sequences = davis(options.root, options.split, options.year, names)
    figure = score_folder(
        {sequence.name: list(sequence.masks.values()) for sequence in sequences},
        options.results,
        merge_objects=all(sequence.binary for sequence in sequences),
    )
    print(f"{'sequence':22}     J     F   J&F")
    for name, one in figure["sequences"].items():
        print(f"{name:22} {_percent(one)}")
    print(f"{f'mean of {len(sequences)}':22} {_percent(figure)}")
    _write_json(options.json, figure)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from corrlib.bench import bench_affinity
    from corrlib.device import choose_device

    _write_json(options.json, bench_affinity(choose_device(options.device), options.rounds, print))
    return 0


# -- what they share -------------------------------------------------------------------------------


def _propagation_config(options: argparse.Namespace):
    from corrlib.propagation import PropagationConfig

    return PropagationConfig(
        references=options.references,
        radius=options.radius,
        topk=options.topk,
        temperature=options.temperature,
        short_side=options.size,
    )


def _method(options: argparse.Namespace, config):
    """The method that the options name: a function of frames and mask, and its features if any."""
    from functools import partial

    from corrlib import baselines
    from corrlib.corrflow import load_weights
    from corrlib.device import choose_device, choose_precision
    from corrlib.propagation import propagate_mask

    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    if options.baseline == "identity":
        return baselines.identity, None
    if options.baseline == "colour-patch":
        extractor = baselines.colour_patch()
    elif options.baseline == "random-features":
        extractor = baselines.random_features(options.seed, device)
    elif options.baseline == "imagenet-features":
        extractor = baselines.imagenet_features(device)
    else:
        extractor = baselines.trained(load_weights(options.weights).to(device), precision)
    method = partial(propagate_mask, extractor=extractor, config=config, device=device)
    return method, extractor


def _settings(options: argparse.Namespace, config) -> dict:
    from dataclasses import asdict

    features = options.baseline or str(options.weights)
    return {"features": features, **asdict(config), "command": sys.argv[1:]}


def _percent(figure: dict) -> str:
    values = (figure["J"]["mean"], figure["F"]["mean"], figure["J&F"])
    return " ".join(f"{100 * value:5.1f}" for value in values)


def _write_json(path: Path | None, figures: object) -> None:
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, flush=True)


# -- options ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="corrlib", description="Video correspondence without labels.")
    parser.add_argument("--version", action="version", version=f"corrlib {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, run, summary, example, *, to=commands):
        added = to.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example: {example}",
        )
        added.set_defaults(run=run)
        added.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
        return added

    def group(name, summary):
        added = commands.add_parser(name, help=summary, description=summary)
        return added.add_subparsers(title="what", required=True, metavar="WHAT")

    command("doctor", _doctor, "check that everything the course needs is there", "corrlib doctor")

    tour = command(
        "tour",
        _tour,
        "train on the shipped clips and carry a mask through one of them",
        "corrlib tour --out outputs/tour",
    )
    tour.add_argument("--out", type=Path, default=Path("outputs/tour"), metavar="DIR")
    tour.add_argument("--seeds", type=int, default=3, help="models to train (default: 3)")
    tour.add_argument(
        "--minutes", type=float, default=2.5, help="of training, all seeds together (default: 2.5)"
    )
    _device_options(tour)

    train = command(
        "corrflow",
        _train,
        "train CorrFlow on unlabelled video",
        "corrlib train corrflow --data videos/ --out runs/mine --profile laptop --minutes 15",
        to=group("train", "train a model"),
    )
    train.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="videos, folders of videos, folders of frame folders, or lists of these (.txt)",
    )
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    train.add_argument(
        "--profile", choices=("published", "laptop", "gpu", "fast"), default="laptop"
    )
    train.add_argument("--minutes", type=float, help="train this long instead of a number of steps")
    train.add_argument("--steps", type=int, help="train this many steps")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--resume", action="store_true", help="continue the run in RUN")
    train.add_argument(
        "--cache", type=Path, metavar="DIR", help="decoded frames (default: RUN/frames)"
    )
    train.add_argument(
        "--checkpoint-seconds", type=float, default=60, help="between checkpoints (default: 60)"
    )
    _device_options(train)

    propagate = command(
        "propagate",
        _propagate,
        "carry a mask through a video",
        "corrlib propagate cat.mp4 --mask first.png --out out.mp4",
    )
    propagate.add_argument("video", type=Path, metavar="VIDEO", help="a file or a frame folder")
    propagate.add_argument(
        "--mask", type=Path, required=True, metavar="PNG", help="objects on the first frame"
    )
    propagate.add_argument("--out", type=Path, required=True, metavar="MP4", help="overlay video")
    propagate.add_argument("--masks-out", type=Path, metavar="DIR", help="also write indexed PNGs")
    _method_options(propagate)

    evaluate = command(
        "davis",
        _evaluate,
        "propagate the first masks of DAVIS and score J and F",
        "corrlib evaluate davis --root DAVIS --baseline colour-patch",
        to=group("evaluate", "propagate and score"),
    )
    _davis_options(evaluate)
    evaluate.add_argument("--masks-out", type=Path, metavar="DIR", help="write indexed PNGs")
    evaluate.add_argument(
        "--resume", action="store_true", help="score sequences already in --masks-out from there"
    )
    _method_options(evaluate)

    score = command(
        "davis",
        _score,
        "score masks that any method wrote",
        "corrlib score davis --root DAVIS --results masks/",
        to=group("score", "score results"),
    )
    _davis_options(score)
    score.add_argument("--results", type=Path, required=True, metavar="DIR")

    bench = command(
        "affinity",
        _bench,
        "restricted affinity against dense and unfold formulations",
        "corrlib bench affinity",
        to=group("bench", "measure speed and memory"),
    )
    bench.add_argument("--rounds", type=int, default=5, help="interleaved repetitions (default: 5)")
    _device_options(bench, precision=False)
    return parser


def _device_options(parser: argparse.ArgumentParser, precision: bool = True) -> None:
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: auto)")
    if precision:
        parser.add_argument(
            "--precision", default="auto", help="of the encoder: auto, fp32, bf16 or fp16"
        )


def _davis_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of DAVIS")
    parser.add_argument("--split", default="val", help="of ImageSets (default: val)")
    parser.add_argument("--year", type=int, choices=(2016, 2017), help="default: what is there")
    parser.add_argument("--sequences", metavar="A,B", help="only these")


def _method_options(parser: argparse.ArgumentParser) -> None:
    features = parser.add_mutually_exclusive_group()
    features.add_argument(
        "--weights", default="corrflow", metavar="W", help="a file, or released weights by name"
    )
    features.add_argument(
        "--baseline",
        choices=("identity", "colour-patch", "random-features", "imagenet-features"),
        help="instead of trained weights",
    )
    parser.add_argument(
        "--references", type=int, default=4, metavar="N", help="latest frames besides the first"
    )
    parser.add_argument("--radius", type=int, default=12, metavar="M", help="in feature cells")
    parser.add_argument("--topk", type=int, default=10, metavar="K", help="cells that are averaged")
    parser.add_argument("--temperature", type=float, default=0.05, metavar="T")
    parser.add_argument("--size", type=int, metavar="S", help="short side for the encoder, pixels")
    parser.add_argument("--seed", type=int, default=0, help="of random-features")
    _device_options(parser)
