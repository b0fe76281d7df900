"""What the commands share: how one is declared, options in common, how figures are written."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from corrlib.errors import InputError
from corrlib.files import atomic_path

# What corrlib.baselines and corrlib.presets have; importing them takes seconds, help should not.
BASELINE_NAMES = (
    *("identity", "dis-flow", "raft-flow", "sift-flow", "video-colorization", "colour-patch"),
    *("random-features", "imagenet-features", "imagenet-resnet50", "imagenet-efficientnet", "dino"),
)
PRESET_NAMES = ("corrflow", "uvc", "crw")


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
            "--precision",
            default="auto",
            help="of encoder and matching: auto, fp32, bf16 or fp16 (default: auto)",
        )


def davis_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of DAVIS")
    parser.add_argument("--split", default="val", help="of ImageSets (default: val)")
    parser.add_argument("--year", type=int, choices=(2016, 2017), help="default: what is there")
    parser.add_argument("--sequences", type=names, metavar="A,B", help="only these")


def names(text: str) -> list[str]:
    """The type of an option that takes names with commas between them."""
    return text.split(",")


def method_options(
    parser: argparse.ArgumentParser, size: str = "the video's own up to 480"
) -> None:
    """What features are matched, and how labels are carried."""
    features = parser.add_mutually_exclusive_group()
    features.add_argument(
        "--weights", default="corrflow", metavar="W", help="a file, or released weights by name"
    )
    features.add_argument(
        "--baseline", metavar="NAME", help=f"instead of weights: {', '.join(BASELINE_NAMES)}"
    )
    parser.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        help="carry labels as that paper does; the options below change single settings of it",
    )
    parser.add_argument(
        "--references", type=int, metavar="N", help="latest frames besides the first (default: 4)"
    )
    parser.add_argument(
        "--long-term", type=int, metavar="N", help="older frames, spread over the past (default: 0)"
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
        help=f"short side for the encoder, pixels (default: {size})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random-features")
    parser.set_defaults(adapt=None, track=False)
    device_options(parser)


def track_option(parser: argparse.ArgumentParser, which: str = "") -> None:
    """Whether masks are carried with tracking; where it is absent they are not."""
    parser.add_argument(
        "--track",
        action="store_true",
        help=f"{which}find each object's box first and match inside it, faster and finer for "
        "small objects",
    )


def adapt_option(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--adapt",
        type=float,
        metavar="MINUTES",
        help=f"first train the weights on the frames of {what}; Ctrl-C ends that and goes on",
    )


def precision_name(options: argparse.Namespace) -> str:
    """What ``--precision`` comes to on ``--device``: fp32, bf16 or fp16."""
    from corrlib.device import choose_device, choose_precision
    from corrlib.memory import DTYPES

    precision = choose_precision(options.precision, choose_device(options.device))
    return next(name for name, dtype in DTYPES.items() if dtype == precision)


def propagation_config(options: argparse.Namespace):
    """The :class:`~corrlib.propagation.PropagationConfig` that the options describe."""
    from dataclasses import replace

    from corrlib.presets import PRESETS
    from corrlib.propagation import PropagationConfig

    given = {
        "references": options.references,
        "long_term": options.long_term,
        "radius": options.radius,
        "topk": options.topk,
        "temperature": options.temperature,
        "short_side": options.size,
        "precision": precision_name(options),
    }
    return replace(
        PRESETS[options.preset] if options.preset else PropagationConfig(),
        **{name: value for name, value in given.items() if value is not None},
    )


def method(options: argparse.Namespace, config):
    """The method that the options name: a function of frames and mask, and its features if any."""
    from functools import partial

    from corrlib.device import choose_device
    from corrlib.propagation import FeatureExtractor, propagate_mask
    from corrlib.tracked import propagate_tracked

    built = _build(options)
    if not isinstance(built, FeatureExtractor):
        if options.track:
            raise InputError(f"--track goes with features, not with {options.baseline}")
        return built, None
    carry = propagate_tracked if options.track else propagate_mask
    device = choose_device(options.device)
    return partial(carry, extractor=built, config=config, device=device), built


def features(options: argparse.Namespace):
    """The :class:`~corrlib.propagation.FeatureExtractor` that the options name."""
    from corrlib.propagation import FeatureExtractor

    built = _build(options)
    if not isinstance(built, FeatureExtractor):
        raise InputError(
            f"the baseline {options.baseline} carries masks only; take one that has features, "
            "such as colour-patch"
        )
    return built


def _build(options: argparse.Namespace):
    from corrlib.baselines import build_baseline, trained
    from corrlib.device import choose_device, choose_precision
    from corrlib.weights import load_weights

    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    if options.baseline is not None:
        if options.adapt is not None:
            raise InputError("--adapt trains weights; --baseline has none to train")
        return build_baseline(options.baseline, device, precision, options.seed)
    model = load_weights(options.weights)
    if options.adapt is not None:
        from corrlib.adapt import adapt

        model = adapt(
            model,
            options.video,
            options.adapt,
            device=options.device,
            precision=options.precision,
        )
    return trained(model.to(device), precision)


def settings(options: argparse.Namespace, config) -> dict:
    """What a result depends on."""
    from dataclasses import asdict

    return {
        "features": options.baseline or str(options.weights),
        "preset": options.preset,
        "adapt": options.adapt,
        "track": options.track,
        **asdict(config),
        "command": options.arguments,
    }


def write_json(path: Path | None, figures: object) -> None:
    """Write figures where the user asked for them; what is undefined (NaN) is null."""
    if path is not None and first_process():
        with atomic_path(path) as temporary:
            text = json.dumps(_defined(figures), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def check_json(path: Path | None) -> None:
    """Refuse a file that cannot be written before hours are spent on what goes into it."""
    if path is None:
        return
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--json: expected a file that can be written, got {path}; choose another")


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _defined(value):
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(text: str) -> None:
    print(text, flush=True)


def percent(figure: dict) -> str:
    values = (figure["J"]["mean"], figure["F"]["mean"], figure["J&F"])
    return " ".join(f"{100 * value:5.1f}" for value in values)
