"""What the commands share: how one is declared, options in common, how figures are written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from corrlib.errors import InputError
from corrlib.files import atomic_path


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the help."""

    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help")


def command(
    commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Declare a command: what it runs, its one-line summary and an example for its help."""
    added = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
    )
    added.set_defaults(run=run)
    added.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return added


def group(commands, name: str, summary: str):
    """Declare a family of commands; returns what takes its members."""
    added = commands.add_parser(name, help=summary, description=summary)
    return added.add_subparsers(title="what", required=True, metavar="WHAT")


def device_options(parser: argparse.ArgumentParser, precision: bool = True) -> None:
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: auto)")
    if precision:
        parser.add_argument(
            "--precision", default="auto", help="of the encoder: auto, fp32, bf16 or fp16"
        )


def davis_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of DAVIS")
    parser.add_argument("--split", default="val", help="of ImageSets (default: val)")
    parser.add_argument("--year", type=int, choices=(2016, 2017), help="default: what is there")
    parser.add_argument("--sequences", metavar="A,B", help="only these")


def method_options(parser: argparse.ArgumentParser) -> None:
    """What features are matched, and how labels are carried."""
    features = parser.add_mutually_exclusive_group()
    features.add_argument(
        "--weights", default="corrflow", metavar="W", help="a file, or released weights by name"
    )
    features.add_argument("--baseline", metavar="NAME", help="instead of trained weights")
    parser.add_argument(
        "--preset",
        choices=("corrflow", "uvc", "crw"),
        help="carry labels as that paper does; the options below change single settings of it",
    )
    parser.add_argument(
        "--references", type=int, metavar="N", help="latest frames besides the first (default: 4)"
    )
    parser.add_argument("--radius", type=int, metavar="M", help="in feature cells (default: 12)")
    parser.add_argument(
        "--topk", type=int, metavar="K", help="cells that are averaged (default: 10)"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="(default: 0.05)")
    parser.add_argument(
        "--size",
        type=int,
        metavar="S",
        help="short side for the encoder, pixels (default: the video's own up to 480)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random-features")
    device_options(parser)


def propagation_config(options: argparse.Namespace):
    """The :class:`~corrlib.propagation.PropagationConfig` that the options describe."""
    from dataclasses import replace

    from corrlib.device import choose_device, choose_precision
    from corrlib.memory import DTYPES
    from corrlib.presets import PRESETS
    from corrlib.propagation import PropagationConfig

    precision = choose_precision(options.precision, choose_device(options.device))
    given = {
        "references": options.references,
        "radius": options.radius,
        "topk": options.topk,
        "temperature": options.temperature,
        "short_side": options.size,
        "precision": next(name for name, dtype in DTYPES.items() if dtype == precision),
    }
    return replace(
        PRESETS[options.preset] if options.preset else PropagationConfig(),
        **{name: value for name, value in given.items() if value is not None},
    )


def method(options: argparse.Namespace, config):
    """The method that the options name: a function of frames and mask, and its features if any."""
    from functools import partial

    from corrlib import baselines
    from corrlib.device import choose_device
    from corrlib.propagation import propagate_mask

    if options.baseline == "identity":
        return baselines.identity, None
    extractor = features(options)
    device = choose_device(options.device)
    return partial(propagate_mask, extractor=extractor, config=config, device=device), extractor


def features(options: argparse.Namespace):
    """The :class:`~corrlib.propagation.FeatureExtractor` that the options name."""
    from corrlib import baselines
    from corrlib.device import choose_device, choose_precision
    from corrlib.weights import load_weights

    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    if options.baseline is None:
        return baselines.trained(load_weights(options.weights).to(device), precision)
    if options.baseline == "colour-patch":
        return baselines.colour_patch()
    if options.baseline == "random-features":
        return baselines.random_features(options.seed, device)
    if options.baseline == "imagenet-features":
        return baselines.imagenet_features(device)
    raise InputError(f"expected a baseline among , got {options.baseline!r}")


def settings(options: argparse.Namespace, config) -> dict:
    """What a result depends on."""
    from dataclasses import asdict

    return {
        "features": options.baseline or str(options.weights),
        "preset": options.preset,
        **asdict(config),
        "command": options.arguments,
    }


def write_json(path: Path | None, figures: object) -> None:
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")


def say(text: str) -> None:
    print(text, flush=True)


def percent(figure: dict) -> str:
    values = (figure["J"]["mean"], figure["F"]["mean"], figure["J&F"])
    return " ".join(f"{100 * value:5.1f}" for value in values)
