"""``corrlib bench``."""

from __future__ import annotations

import argparse

from corrlib.cli.options import command, device_options, group, say, write_json


def add(commands) -> None:
    benches = group(commands, "bench", "measure speed and memory")
    bench = command(
        benches,
        "affinity",
        _affinity,
        "restricted affinity against dense and unfold formulations",
        "corrlib bench affinity",
    )
    _rounds(bench, 5)
    device_options(bench, precision=False)

    bench = command(
        benches,
        "propagate",
        _propagate,
        "propagation at 480p with 21 references against a straightforward one, stage by stage, and "
        "with tracking",
        "corrlib bench propagate --json propagate.json",
    )
    bench.add_argument(
        "--weights", default="corrflow", metavar="W", help="a file, or released weights by name"
    )
    _rounds(bench, 3)
    device_options(bench, precision=False)

    bench = command(
        benches,
        "train",
        _train,
        "CorrFlow's training against encoding every pair anew, stage by stage",
        "corrlib bench train --profile published --json train.json",
    )
    bench.add_argument(
        "--profile", choices=("published", "laptop", "gpu"), default="laptop", help="what is timed"
    )
    bench.add_argument(
        "--joint", action="store_true", help="the joint-task model, against its encoder alone"
    )
    bench.add_argument("--batch", type=int, help="clips a step (default: the profile's)")
    _rounds(bench, 3)
    device_options(bench)

    bench = command(
        benches,
        "metric",
        _metric,
        "J and F against the published evaluator's way",
        "corrlib bench metric",
    )
    _rounds(bench, 3)


def _rounds(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--rounds",
        type=int,
        default=default,
        metavar="N",
        help=f"interleaved repetitions (default: {default})",
    )


def _affinity(options: argparse.Namespace) -> int:
    from corrlib.bench import bench_affinity
    from corrlib.device import choose_device

    write_json(options.json, bench_affinity(choose_device(options.device), options.rounds, say))
    return 0


def _propagate(options: argparse.Namespace) -> int:
    from functools import partial

    from corrlib.baselines import trained
    from corrlib.bench import bench_propagate
    from corrlib.device import choose_device
    from corrlib.weights import load_weights

    device = choose_device(options.device)
    features = partial(trained, load_weights(options.weights).to(device))
    write_json(options.json, bench_propagate(device, options.rounds, say, features))
    return 0


def _train(options: argparse.Namespace) -> int:
    from corrlib.bench import bench_train, bench_train_joint
    from corrlib.device import choose_device

    bench = bench_train_joint if options.joint else bench_train
    figures = bench(
        choose_device(options.device),
        options.rounds,
        say,
        options.profile,
        options.batch,
        options.precision,
    )
    write_json(options.json, figures)
    return 0


def _metric(options: argparse.Namespace) -> int:
    from corrlib.bench import bench_metric

    write_json(options.json, bench_metric(options.rounds, say))
    return 0
