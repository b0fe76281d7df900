"""``corrlib ablation``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from corrlib.cli.options import (
    command,
    davis_options,
    device_options,
    names,
    precision_name,
    write_json,
)
from corrlib.errors import InputError


def add(commands) -> None:
    ablation = command(
        commands,
        "ablation",
        _ablation,
        "train with one part changed at a time, over several seeds, and score all alike",
        "corrlib ablation corrflow --data videos/ --root DAVIS --out runs/ablation --steps 200",
    )
    ablation.add_argument("method", choices=("corrflow", "joint"), help="what is trained")
    ablation.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="PATH", help="to learn from"
    )
    davis_options(ablation)
    ablation.add_argument("--out", type=Path, required=True, metavar="DIR", help="records go here")
    ablation.add_argument("--cache", type=Path, metavar="DIR", help="decoded frames (OUT/frames)")
    ablation.add_argument("--rows", type=names, metavar="A,B", help="only these (default: all)")
    ablation.add_argument("--seeds", default="0,1,2", metavar="S,T", help="(default: 0,1,2)")
    ablation.add_argument("--steps", type=int, default=200, help="of each run (default: 200)")
    ablation.add_argument(
        "--size", type=int, default=320, metavar="S", help="short side for scoring (default: 320)"
    )
    ablation.add_argument(
        "--frames", type=int, metavar="N", help="score this many of each sequence (default: all)"
    )
    device_options(ablation)


def _ablation(options: argparse.Namespace) -> int:
    from dataclasses import asdict, replace

    from corrlib.ablation import ROWS, run_row, summarise
    from corrlib.datasets import davis, video_paths
    from corrlib.frames import FrameCache
    from corrlib.propagation import PropagationConfig
    from corrlib.recipes import RECIPES

    recipe = replace(RECIPES[options.method]["laptop"], steps=options.steps)
    known = list(ROWS[options.method])
    rows = options.rows or known
    if unknown := [row for row in rows if row not in known]:
        raise InputError(f"expected rows among {', '.join(known)}, got {unknown[0]!r}")
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError as error:
        raise InputError(f"expected seeds such as 0,1,2, got {options.seeds!r}") from error
    if options.frames is not None and options.frames < 3:
        raise InputError(f"expected at least 3 frames to score, got {options.frames}")
    sequences = davis(options.root, options.split, options.year, options.sequences)
    config = PropagationConfig(short_side=options.size, precision=precision_name(options))
    cache = FrameCache.build(
        video_paths(options.data),
        options.cache or options.out / "frames",
        recipe.clips.size,
        recipe.clips.fps,
        min_frames=recipe.clips.length,
    )
    if shared := sorted({s.name for s in sequences} & {Path(n).stem for n in cache.names}):
        raise InputError(
            f"expected videos to learn from that are not scored, {shared[0]} is in both"
        )
    runs = []
    for seed in seeds:
        for row in rows:
            run = run_row(
                row,
                seed,
                recipe,
                cache,
                sequences,
                options.out,
                config,
                options.frames,
                device=options.device,
                precision=options.precision,
            )
            if run is None:
                print("stopped; the same command continues", file=sys.stderr)
                return 130
            runs.append(run)
            print(
                f"{row:22} seed {seed}: J {100 * run.j:.1f} F {100 * run.f:.1f} "
                f"J&F {100 * run.j_and_f:.1f}",
                flush=True,
            )
    summaries = summarise(sorted(runs, key=lambda run: rows.index(run.row)))
    for one in summaries:
        print(
            f"{one.row:22} J&F {100 * one.mean:.1f} ± {100 * one.spread:.1f} "
            f"({100 * one.gain:+.1f} ± {100 * one.gain_spread:.1f} to full, "
            f"{len(one.seeds)} seeds)"
        )
    write_json(options.json, [asdict(one) for one in summaries])
    return 0
