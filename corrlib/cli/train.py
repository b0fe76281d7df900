"""``corrlib train``."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from corrlib.cli.options import command, device_options, group, write_json
from corrlib.errors import InputError

if TYPE_CHECKING:
    from corrlib.joint import JointConfig

INTERRUPTED = 130


class Method(NamedTuple):
    """A method on the command line; help is shown without importing what trains it."""

    help: str
    minutes: int
    profiles: tuple[str, ...]
    without: tuple[str, ...] = ()


METHODS = {
    "corrflow": Method(
        "train CorrFlow on unlabelled video: copy colours along clips",
        15,
        ("published", "laptop", "gpu", "fast", "colorization"),
        ("dropout", "restricted", "sampling", "cycle"),
    ),
    "crw": Method(
        "train by palindrome walks: go along the clip and back, be where you were",
        15,
        ("laptop", "gpu", "fast"),
    ),
    "colour-autoencoder": Method(
        "train codes of colour, which the joint-task model copies: reconstruct single frames",
        10,
        ("laptop", "gpu", "fast"),
    ),
    "joint": Method(
        "train the joint-task model: find a patch in the next frame, then match within it",
        15,
        ("published", "laptop", "gpu", "fast"),
        ("localisation", "concentration", "orthogonal", "autoencoder"),
    ),
}


def add(commands) -> None:
    methods = group(commands, "train", "train a model")
    for name, method in METHODS.items():
        parser = command(
            methods,
            name,
            partial(_train, name),
            method.help,
            f"corrlib train {name} --data videos/ --out runs/mine --profile laptop "
            f"--minutes {method.minutes}",
        )
        _options(parser, method.profiles)
        parser.set_defaults(without=[], autoencoder=None)
        if method.without:
            parser.add_argument(
                "--without",
                choices=method.without,
                action="append",
                help="leave a part of the method out (may be given more than once)",
            )
        if name == "joint":
            parser.add_argument(
                "--autoencoder",
                metavar="W",
                help="codes of colour: weights of a colour auto-encoder, a file or released ones "
                "by name (default: colour-autoencoder)",
            )


def _options(parser: argparse.ArgumentParser, profiles: tuple[str, ...]) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="videos, folders of videos, folders of frame folders, or lists of these (.txt)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--profile", choices=profiles, default="laptop")
    parser.add_argument(
        "--minutes", type=float, help="train this long instead of a number of steps"
    )
    parser.add_argument("--steps", type=int, help="train this many steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--from",
        dest="start",
        metavar="W",
        help="begin with these weights, a file or released ones by name, and their model",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="decoded frames (default: RUN/frames)"
    )
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=60, help="between checkpoints (default: 60)"
    )
    device_options(parser)


def _train(method: str, options: argparse.Namespace) -> int:
    from dataclasses import replace

    from corrlib import data_parallel, sharding
    from corrlib.datasets import video_paths
    from corrlib.frames import FrameCache
    from corrlib.recipes import ABLATIONS, RECIPES
    from corrlib.training import Trainer
    from corrlib.weights import load_weights, method_name

    config = replace(RECIPES[method][options.profile], seed=options.seed)
    if options.autoencoder is not None:
        config = replace(config, model=_with_autoencoder(config.model, options.autoencoder))
    for part in options.without:
        config = replace(config, model=ABLATIONS[method][part](config.model))
    start = None
    if options.start is not None:
        start = load_weights(options.start)
        if method_name(start.config) != method or options.without or options.autoencoder:
            raise InputError(
                f"--from continues weights of {method} as they were made, without --without or "
                f"--autoencoder; {options.start} holds {method_name(start.config)}"
            )
        config = replace(config, model=start.config)
    if options.steps is not None:
        config = replace(config, steps=options.steps)
    first = sharding.rank() == 0
    with data_parallel.first_before_others():
        cache = FrameCache.build(
            video_paths(options.data),
            options.cache or options.out / "frames",
            config.clips.size,
            config.clips.fps,
            progress=first,
            min_frames=config.clips.length,
        )
    for name, reason in cache.skipped if first else ():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    print(
        f"training data: {len(cache.names)} videos, {cache.frames} frames"
        + (f"; {len(cache.skipped)} videos skipped" if cache.skipped else ""),
        flush=True,
    )
    trainer = Trainer(
        config,
        cache,
        options.out,
        minutes=options.minutes,
        device=options.device,
        precision=options.precision,
        resume=options.resume,
        start=start,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    finished = trainer.run()
    write_json(options.json, trainer.description() | {"finished": finished})
    if not finished:
        if not first:
            return INTERRUPTED
        print(f"stopped at step {trainer.progress.step}; continue with --resume", file=sys.stderr)
        return INTERRUPTED
    print(f"{trainer.progress.step} steps in {trainer.progress.seconds:.0f} s: {trainer.weights}")
    return 0


def _with_autoencoder(model: JointConfig, source: str) -> JointConfig:
    from dataclasses import replace

    from corrlib.colour_autoencoder import AutoencoderConfig
    from corrlib.weights import load_weights, method_name

    config = load_weights(source).config
    if not isinstance(config, AutoencoderConfig):
        raise InputError(
            f"expected weights of a colour-autoencoder, {source} holds {method_name(config)}"
        )
    return replace(model, autoencoder=config, autoencoder_weights=str(source))
