"""The tour: train on this machine, on unlabelled video, and carry a mask through a real clip.

Everything is done by the library's ordinary parts, in the order in which the course teaches them.
"""

from __future__ import annotations

import base64
import html
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from corrlib import attention_page, baselines, views
from corrlib.clips import Clip, shipped_clip, shipped_clips
from corrlib.corrflow import CorrFlow
from corrlib.device import choose_device, choose_precision
from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.frames import FrameCache
from corrlib.masks import overlay, read_mask
from corrlib.metrics import score_sequence, summarise
from corrlib.propagation import FeatureExtractor, PropagationConfig, Propagator, propagate_mask
from corrlib.recipes import PROFILES
from corrlib.training import Record, Trainer
from corrlib.video import VideoWriter, read_video
from corrlib.weights import load_weights

CLIP = "box"
ATTENTION_CELL = (24, 17)  # column and row of a feature cell on the box, at ATTENTION_FRAME
ATTENTION_FRAME = 27
BASELINES = ("identity", "colour-patch")


class Trained(NamedTuple):
    """One model of the tour."""

    seed: int
    model: CorrFlow
    history: list[Record]
    seconds: float
    steps: int


def tour(
    out: str | Path,
    *,
    seeds: int = 3,
    minutes: float = 2.5,
    device: str = "auto",
    precision: str = "auto",
    report: Callable[[str], None] = lambda text: None,
) -> dict:
    """Train, propagate, score and show.

    Leaves in ``out``: ``comparison.mp4`` (and ``.webp``), ``attention.png``, ``loss.png``,
    ``masks.png``, ``metrics.json``, ``seeds.json`` and ``report.html``, which holds all of them and
    opens offline; and each model's run in ``runs/seed-N``.

    Args:
        out: folder; what an earlier tour left there is replaced.
        seeds: models to train, from seeds 0, 1, ...; the first is the one that is shown.
        minutes: training time of all of them together.
        report: is told what is going on, a line at a time.

    Returns:
        The content of ``metrics.json``: the figures of ``identity``, ``colour-patch`` and
        ``ours``, the last as the mean over seeds.
    """
    if seeds < 1:
        raise InputError(f"expected at least 1 seed, got {seeds}")
    started = time.monotonic()
    out = Path(out)
    clip = shipped_clip(CLIP)
    report(f"[1/5] reading the shipped clips into {out / 'frames'}")
    names = [shipped.name for shipped in shipped_clips()]
    cache = FrameCache.build(
        [shipped.path for shipped in shipped_clips()], out / "frames", progress=False
    )
    report(f"      {len(names)} clips ({', '.join(names)}), {cache.frames} frames, no labels")

    report(f"[2/5] training on them from {seeds} seed(s), {60 * minutes / seeds:.0f} s each")
    trained = []
    for seed in range(seeds):
        trained.append(_train(seed, cache, out, minutes / seeds, device, precision))
        history = trained[-1].history
        first, last = history[0].losses["total"], history[-1].losses["total"]
        report(
            f"      seed {seed}: {trained[-1].steps} steps in {trained[-1].seconds:.0f} s, "
            f"loss {first:.2f} -> {last:.2f}"
        )

    report(f"[3/5] carrying the first mask through {clip.frames} frames of the clip '{clip.name}'")
    chosen = choose_device(device)
    frames = read_video(clip.path)
    ours = [
        baselines.trained(one.model.to(chosen), choose_precision(precision, chosen))
        for one in trained
    ]
    masks = {name: list(found) for name, found in _propagate(frames, clip, ours, chosen)}

    report(f"[4/5] scoring {len(clip.masks) - 1} hand-drawn masks")
    figures = {name: _score(clip, found) for name, found in masks.items()}
    per_seed = [figures[f"seed {one.seed}"] for one in trained]
    metrics = {name: figures[name] for name in BASELINES} | {"ours": _mean(per_seed)}
    for name, figure in metrics.items():
        report(
            f"      {name:13} J {100 * figure['J']['mean']:5.1f}   "
            f"F {100 * figure['F']['mean']:5.1f}   J&F {100 * figure['J&F']:5.1f}"
        )
    _write_json(out / "metrics.json", metrics)
    _write_json(
        out / "seeds.json",
        {f"seed {one.seed}": figures[f"seed {one.seed}"] for one in trained},
    )

    report("[5/5] drawing the video, the figures and the report")
    shown = {
        "input": None,
        "identity": masks["identity"],
        "colour patches": masks["colour-patch"],
        "ours": masks[f"seed {trained[0].seed}"],
    }
    _write_video(out / "comparison.mp4", clip, frames, shown)
    _draw(out, clip, frames, shown, trained, ours[0], chosen)
    explorer = _explorer(frames[0], frames[ATTENTION_FRAME], ours[0], chosen)
    page = _page(out, clip, cache, trained, figures, metrics, explorer, time.monotonic() - started)
    with atomic_path(out / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    report(f"done in {time.monotonic() - started:.0f} s: open {out / 'report.html'}")
    return metrics


def _train(
    seed: int, cache: FrameCache, out: Path, minutes: float, device: str, precision: str
) -> Trained:
    folder = out / "runs" / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    config = replace(PROFILES["laptop"], seed=seed)
    trainer = Trainer(config, cache, folder, minutes=minutes, device=device, precision=precision)
    if not trainer.run():
        raise KeyboardInterrupt
    progress = trainer.progress
    model = load_weights(trainer.weights)
    return Trained(seed, model, progress.history, progress.seconds, progress.step)


def _propagate(
    frames: torch.Tensor, clip: Clip, ours: list[FeatureExtractor], device: torch.device
) -> Iterator[tuple[str, Iterator[torch.Tensor]]]:
    first = read_mask(clip.masks[0])
    config = PropagationConfig()
    yield "identity", baselines.identity(frames, first)
    extractors = {
        "colour-patch": baselines.colour_patch(),
        "untrained": baselines.random_features(device=device),
        **{f"seed {seed}": extractor for seed, extractor in enumerate(ours)},
    }
    for name, extractor in extractors.items():
        yield name, propagate_mask(frames, first, extractor, config, device)


def _score(clip: Clip, masks: list[torch.Tensor]) -> dict:
    """The figure of the frames that have a hand-drawn mask."""
    truths = [read_mask(path) for path in clip.masks.values()]
    score = score_sequence([masks[index] for index in clip.masks], truths, score_last=True)
    figure = summarise({clip.name: score})
    del figure["sequences"][clip.name]["objects"]
    return figure


def _mean(figures: list[dict]) -> dict:
    """The mean over seeds of every number, and the J&F of each seed."""

    def mean(values: list) -> object:
        if isinstance(values[0], dict):
            return {key: mean([value[key] for value in values]) for key in values[0]}
        return statistics.fmean(values)

    return mean(figures) | {"J&F per seed": [figure["J&F"] for figure in figures]}


# -- pictures --------------------------------------------------------------------------------------


def _write_video(
    path: Path, clip: Clip, frames: torch.Tensor, shown: dict[str, list[torch.Tensor] | None]
) -> None:
    """The clip once per method, side by side, each under its title; as a video, and as a small
    animated picture for pages that cannot play one."""
    small = []
    with VideoWriter(path, clip.fps) as writer:
        for index, frame in enumerate(frames):
            panels = [
                _titled(frame if masks is None else overlay(views.grey(frame), masks[index]), title)
                for title, masks in shown.items()
            ]
            picture = torch.cat(panels, dim=2)
            writer.write(picture)
            small.append(Image.fromarray(picture.permute(1, 2, 0).numpy()).reduce(2))
    with atomic_path(path.with_suffix(".webp")) as temporary:
        small[0].save(
            temporary,
            save_all=True,
            append_images=small[1:],
            duration=round(1000 / clip.fps),
            loop=0,
            quality=50,
            method=4,
        )


def _titled(frame: torch.Tensor, title: str, band: int = 40) -> torch.Tensor:
    picture = Image.new("RGB", (frame.shape[2], frame.shape[1] + band))
    picture.paste(Image.fromarray(frame.permute(1, 2, 0).numpy()), (0, band))
    font = ImageFont.load_default(size=26)
    place = (frame.shape[2] / 2, band / 2)
    ImageDraw.Draw(picture).text(place, title, font=font, anchor="mm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _draw(
    out: Path,
    clip: Clip,
    frames: torch.Tensor,
    shown: dict[str, list[torch.Tensor] | None],
    trained: list[Trained],
    extractor: FeatureExtractor,
    device: torch.device,
) -> None:
    losses = {
        f"seed {one.seed}": (
            [record.step for record in one.history],
            [record.losses["total"] for record in one.history],
        )
        for one in trained
    }
    _write_figure(out / "loss.png", views.curves(losses, "training step", "loss"))
    indices = list(clip.masks)[1:]
    indices = [indices[place] for place in views.spread(len(indices), 3)]
    drawn = {"drawn by hand": {index: read_mask(clip.masks[index]) for index in indices}}
    found = {title: dict(enumerate(masks)) for title, masks in shown.items() if masks}
    _write_figure(out / "masks.png", views.mask_comparison(frames, drawn | found, indices))

    reference, target = frames[0], frames[ATTENTION_FRAME]
    config = PropagationConfig()
    panels = {}
    for title, features in {"colour patches": baselines.colour_patch(), "ours": extractor}.items():
        encoder = Propagator(features, config, device)
        panels[title] = views.attention_map(
            encoder.encode(reference)[None].cpu(),
            encoder.encode(target)[None].cpu(),
            ATTENTION_CELL,
            config.temperature,
            config.radius,
        )
    figure = views.attention(
        reference, target, panels, ATTENTION_CELL, extractor.stride, config.radius
    )
    _write_figure(out / "attention.png", figure)


def _explorer(
    reference: torch.Tensor, target: torch.Tensor, extractor: FeatureExtractor, device: torch.device
) -> str:
    """The same cell, and all others, with the trained features in the report itself."""
    *features, stride = attention_page.encode_pair(reference, target, extractor, device)
    u, v = (int(place * extractor.stride / stride) for place in ATTENTION_CELL)
    return attention_page.explorer(
        reference,
        target,
        *features,
        stride,
        cell=(u, v),
        radius=round(PropagationConfig.radius * extractor.stride / stride),
        target_alt=f"Target, frame {ATTENTION_FRAME}: a hand holds a printed box over a cloth.",
        still="<p>Scripts are off: the picture below shows one cell.</p>",
    )


def _write_figure(path: Path, figure) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(views.png(figure))


def _write_json(path: Path, content: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


# -- the page --------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 17px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
video, img { width: 100%; height: auto; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } .small { max-width: 40rem; } figcaption, small { opacity: .8; }
.ours { font-weight: 600; }
"""


def _page(
    out: Path,
    clip: Clip,
    cache: FrameCache,
    trained: list[Trained],
    figures: dict[str, dict],
    metrics: dict[str, dict],
    explorer: str,
    seconds: float,
) -> str:
    def data(name: str, kind: str) -> str:
        return f"data:{kind};base64,{base64.b64encode((out / name).read_bytes()).decode()}"

    def row(title: str, figure: dict, style: str = "") -> str:
        numbers = (figure["J"]["mean"], figure["F"]["mean"], figure["J&F"])
        cells = "".join(f"<td>{100 * number:.1f}</td>" for number in numbers)
        return f"<tr class='{style}'><td>{title}</td>{cells}</tr>"

    ours = metrics["ours"]["J&F"]
    margin = {name: 100 * (ours - metrics[name]["J&F"]) for name in BASELINES}
    worst = min(metrics["ours"]["J&F per seed"])
    better = [name for name in BASELINES if worst > metrics[name]["J&F"]]
    verdict = (
        f"Every seed beats {' and '.join(better)}."
        if better
        else "Not every seed beats the baselines here."
    )
    rows = [
        row("identity: the first mask, unmoved", figures["identity"]),
        row("colour patches: match the picture itself", figures["colour-patch"]),
        row("our network before any training", figures["untrained"]),
        *(row(f"ours, seed {one.seed}", figures[f"seed {one.seed}"]) for one in trained),
        row("ours, mean over seeds", metrics["ours"], "ours"),
    ]
    steps = ", ".join(str(one.steps) for one in trained)
    spent = sum(one.seconds for one in trained)
    versions = f"PyTorch {torch.__version__}, {torch.get_num_threads()} CPU thread(s)"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tour: video correspondence without labels</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>A mask carried through a video, by a model that saw no label</h1>
<p>Just now, on this machine, a small network watched {cache.frames} frames of {len(cache.names)}
short clips for {spent / len(trained):.0f} seconds ({len(trained)} times over, from different random
seeds), and learned one thing: to copy the colours of one frame into another. To do that it had to
find out <em>which pixel became which</em>. Below, the mask drawn on the first frame is copied along
the clip by what it found.</p>
<figure><video controls loop muted autoplay playsinline src="{data("comparison.mp4", "video/mp4")}"
aria-label="The clip four times: input, the first mask unmoved, colour patches, and our model, whose
mask follows the object."></video>
<figcaption>The clip &ldquo;{html.escape(clip.title)}&rdquo;. {html.escape(clip.attribution)}
</figcaption></figure>
<h2>Scores</h2>
<p>Against {len(clip.masks) - 1} later masks drawn by hand. J is the overlap with the true mask, F
the agreement of outlines, both in percent.</p>
<table><tr><th>method</th><th>J</th><th>F</th><th>J&amp;F</th></tr>{"".join(rows)}</table>
<p>The mean is {margin["identity"]:+.1f} points J&amp;F against identity and
{margin["colour-patch"]:+.1f} against colour patches. {verdict} All but identity go through the same
inference, so the difference between them is what the features know.</p>
<figure><img src="{data("masks.png", "image/png")}" alt="Masks on three frames: drawn by hand,
identity, colour patches and ours."><figcaption>Three of the scored frames.</figcaption></figure>
<h2>Where does a pixel look?</h2>
<p>Choose a cell of frame {ATTENTION_FRAME}. It looks for itself in frame 0, with the features that
were just trained: in the whole frame, only nearby, or only at the best cells. This page computes
it.</p>
{explorer}
<figure><img src="{data("attention.png", "image/png")}" alt="A cell of frame {ATTENTION_FRAME} and
the places in frame 0 that explain it, by colour patches and by the trained features."><figcaption>
One cell, at the finer grid that carried the mask: colour patches beside ours. It looks inside the
dashed square; bright is a strong affinity, the cross is the strongest.</figcaption></figure>
<h2>Learning</h2>
<figure class="small"><img src="{data("loss.png", "image/png")}" alt="The training loss over the
steps, a line for each seed."><figcaption>Each point is a mean over {Trainer.LOG_EVERY} steps or
fewer, each with other clips, some harder than others: lines of so short a training are jagged.
</figcaption></figure>
<h2>How to read this</h2>
<ul><li>The models were trained on the same clips they are shown on, on frames only: the masks are
used for the first frame and for scoring. That is how one would treat a video of one's own, and it
is not a test on unseen video; <code>corrlib evaluate davis</code> is.</li>
<li>One clip and {len(clip.masks) - 1} masks say that the idea works, not how well. Where an
object's colours differ from all around it, colour patches are hard to beat.</li>
<li>{steps} steps; {html.escape(versions)}; {seconds:.0f} s in all. Repeat it with
<code>corrlib tour --seeds {len(trained)}</code>.</li></ul>
<p>Next: <code>make lab</code>, and notebook 01 asks why a network should not see all colours.</p>
</body></html>
"""
