"""Recorded figures beside published ones: the rows of the course's table.

``data/results`` holds ``published.json`` and, in ``davis-2016-val``, what ``corrlib evaluate davis
--json`` wrote for each method. A row that was never run says so; a file that belongs to no row of
the table is a row of its own at the end. ``adaptation.json`` has J before and after training on the
very video.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from corrlib.errors import InputError

RESULTS_FOLDER = Path(__file__).resolve().parent.parent / "data" / "results"
DAVIS_2016 = "davis-2016-val"
DAVIS_2017 = "davis-2017-val"
PUBLISHED_ABLATION = "davis-2017-val, CorrFlow without"
PUBLISHED_ADAPTATION = "davis-2017-val, CorrFlow with additional training"
NOT_RUN = "not run"

INFERENCE = (
    *("references", "first", "first_radius", "long_term", "radius", "topk", "temperature"),
    *("short_side", "per_reference", "rescale", "unit_features", "normalise_labels", "feedback"),
)
"""The settings that must agree if figures are to compare features and nothing else."""


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        key: of the method; its recorded figures are in ``davis-2016-val/<key>.json``.
        method: its name, for people.
        published: its key in the published DAVIS-2017 figures, if it has one.
        data: what ours learnt from.
        arguments: of ``corrlib evaluate davis --root DAVIS``, to run it; ``None`` for a row that is
            only quoted.
        matching: whether masks are carried by matching features under the shared inference. Flow
            has no features to match, and video colorization its own inference.
        supervised: learnt from labels.
        paper: the published figures, percentages, or ``None``.
        figure: ours, as ``corrlib evaluate`` wrote it, fractions, or ``None`` for not run.
    """

    key: str
    method: str
    published: str | None = None
    data: str = "none"
    arguments: str | None = None
    matching: bool = True
    supervised: bool = False
    paper: Mapping | None = field(default=None, repr=False)
    figure: Mapping | None = field(default=None, repr=False)

    @property
    def command(self) -> str | None:
        """What gives our figure: as recorded, with DAVIS for the folder; else as planned."""
        recorded = self.figure and self.figure.get("settings", {}).get("command")
        if recorded:
            return command_line(recorded)
        if self.arguments is None:
            return None
        return f"corrlib evaluate davis --root DAVIS {self.arguments}"

    @property
    def inference(self) -> Mapping[str, object] | None:
        """How its masks were carried, or ``None`` where no features were matched or none run."""
        settings = (self.figure or {}).get("settings") or {}
        if not self.matching or not settings:
            return None
        return {name: settings[name] for name in INFERENCE if name in settings}


ROWS = (
    Row("identity", "identity", "identity", arguments="--baseline identity", matching=False),
    Row(
        *("optical-flow", "optical flow (paper: FlowNet2; here: DIS)", "flownet2"),
        arguments="--baseline dis-flow",
        matching=False,
    ),
    Row(
        *("raft-flow", "optical flow (RAFT)"),
        data="synthetic flow",
        arguments="--baseline raft-flow",
        matching=False,
        supervised=True,
    ),
    Row(
        *("sift-flow", "SIFT flow (here: compact)", "sift-flow"),
        arguments="--baseline sift-flow",
        matching=False,
    ),
    Row("colour-patch", "colour patches", arguments="--baseline colour-patch"),
    Row("random-features", "random features", arguments="--baseline random-features"),
    Row(
        *("video-colorization", "video colorization", "video-colorization"),
        data="the course's videos",
        arguments="--baseline video-colorization",
        matching=False,
    ),
    Row(
        *("grey", "features of video colorization"),
        data="the course's videos",
        arguments="--weights video-colorization",
    ),
    Row("cycletime", "CycleTime (ResNet-50)", "cycletime"),
    Row(
        *("imagenet-features", "ImageNet features (ResNet-18)"),
        data="ImageNet",
        arguments="--baseline imagenet-features",
        supervised=True,
    ),
    Row(
        *("imagenet-efficientnet", "ImageNet features (EfficientNet-Lite0)"),
        data="ImageNet",
        arguments="--baseline imagenet-efficientnet",
        supervised=True,
    ),
    Row(
        *("imagenet-resnet50", "ImageNet features (ResNet-50)", "imagenet-resnet50"),
        data="ImageNet",
        arguments="--baseline imagenet-resnet50",
        supervised=True,
    ),
    Row(
        *("dino", "DINO (ViT-S/8)", "dino"),
        data="ImageNet, no labels",
        arguments="--baseline dino",
    ),
    Row(
        *("corrflow", "CorrFlow (ResNet-18)", "corrflow"),
        data="the course's videos",
        arguments="--weights corrflow",
    ),
    Row(
        *("corrflow-own", "CorrFlow, inference of its paper"),
        data="the course's videos",
        arguments="--weights corrflow --preset corrflow",
        matching=False,
    ),
    Row(
        *("corrflow-21", "CorrFlow, 21 references"),
        data="the course's videos",
        arguments="--weights corrflow --references 20",
        matching=False,
    ),
    Row(
        *("corrflow-crw", "CorrFlow, inference of CRW"),
        data="the course's videos",
        arguments="--weights corrflow --preset crw",
        matching=False,
    ),
    Row(
        *("corrflow-track", "CorrFlow with tracking"),
        data="the course's videos",
        arguments="--weights corrflow --track",
        matching=False,
    ),
    Row(
        *("corrflow-track-21", "CorrFlow with tracking, 21 references"),
        data="the course's videos",
        arguments="--weights corrflow --track --references 20",
        matching=False,
    ),
    Row(
        *("joint", "Joint-task (ResNet-18)", "uvc"),
        data="the course's videos",
        arguments="--weights joint",
    ),
    Row(
        *("joint-track", "Joint-task with tracking", "uvc-tracking"),
        data="the course's videos",
        arguments="--weights joint --track",
        matching=False,
    ),
    Row(
        *("crw", "contrastive walk, CRW (ResNet-18)", "crw"),
        data="the course's videos",
        arguments="--weights crw.safetensors",
    ),
    Row("siammask", "SiamMask", "siammask", supervised=True),
    Row("osvos", "OSVOS", "osvos", supervised=True),
)
"""The table's order: nothing learnt, learnt without labels, learnt with labels."""


def read_published(folder: str | Path = RESULTS_FOLDER) -> dict:
    """The published figures: table -> list of rows, see ``data/results/README.md``.

    Raises:
        InputError: the file is absent or damaged.
    """
    path = Path(folder) / "published.json"
    content = _read_json(path)
    try:
        for table in (DAVIS_2017, DAVIS_2016):
            for row in content[table]:
                if not isinstance(row["method"], str) or not isinstance(row["key"], str):
                    raise TypeError
                figures = [row[name] for name in ("J", "F", "J&F") if row.get(name) is not None]
                if not figures or not all(0 <= figure <= 100 for figure in figures):
                    raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"expected tables of published figures (percentages) in {path}, found something else; "
            "restore the file"
        ) from error
    return content


def read_results(folder: str | Path = RESULTS_FOLDER) -> list[Row]:
    """Every row of the table, in its order, with whatever has been published and recorded.

    Args:
        folder: laid out as ``data/results``.

    Raises:
        InputError: no such folder, or a damaged file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of recorded figures, found none at {folder}")
    published = {row["key"]: row for row in read_published(folder)[DAVIS_2017]}
    recorded = {
        path.stem: _read_figure(path)
        for path in sorted((folder / DAVIS_2016).glob("*.json"))
        if not path.name.startswith(".")
    }
    listed = {row.key for row in ROWS}
    others = [Row(key, key, data="see its README") for key in recorded if key not in listed]
    return [
        replace(row, paper=published.get(row.published), figure=recorded.get(row.key))
        for row in (*ROWS, *others)
    ]


@dataclass(frozen=True)
class Adaptation:
    """What training on the very video did.

    Attributes:
        minutes: of training for each sequence.
        before, after: J of each sequence, fractions.
    """

    minutes: float
    before: Mapping[str, float]
    after: Mapping[str, float]


def read_adaptation(folder: str | Path = RESULTS_FOLDER) -> Adaptation | None:
    """The recorded ``adaptation.json``, or ``None`` where it was not run.

    It holds ``{"minutes": m, "sequences": {name: {"before": J, "after": J}}}``.

    Raises:
        InputError: a damaged file.
    """
    path = Path(folder) / "adaptation.json"
    if not path.exists():
        return None
    content = _read_json(path)
    try:
        minutes = float(content["minutes"])
        before, after = (
            {name: float(pair[when]) for name, pair in content["sequences"].items()}
            for when in ("before", "after")
        )
        if not before or not 0 < minutes < math.inf:
            raise ValueError("no sequences, or minutes that are none")
        if not all(0 <= j <= 1 for j in (*before.values(), *after.values())):
            raise ValueError("J that is no fraction")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"expected minutes, and J before and after of sequences, in {path} (fractions), found "
            f"something else ({error}); write the file again"
        ) from error
    return Adaptation(minutes, before, after)


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: published DAVIS-2017 figures, and ours on DAVIS-2016.

    Figures are percentages. † marks masks that are not carried by the shared inference.
    """
    lines = [
        "| method | paper: DAVIS-**2017** val, J · F | here: DAVIS-**2016** val, J · F | J&F | "
        "data: paper / here | to repeat it |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row.method if row.matching else f"{row.method} †"
        name = f"{name} *(supervised)*" if row.supervised else name
        cells = [name, _paper(row), *_ours(row), _data(row), _how(row)]
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join(lines)


def command_line(arguments: Sequence[str]) -> str:
    """A recorded command without what belongs to one machine: folders, and files it wrote."""
    kept, waiting = [], iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name in ("--json", "--masks-out", "--root"):
            value = value if equals else next(waiting, "")
            if name == "--root":
                kept += [name, "DAVIS"]
        elif argument != "--resume":
            kept.append(_last_part(argument))
    return shlex.join(["corrlib", *kept])


def _last_part(argument: str) -> str:
    """The name of a file whose whole path is given; anything else as it is."""
    for path in (PurePosixPath(argument), PureWindowsPath(argument)):
        if path.is_absolute():
            return path.name
    return argument


def _paper(row: Row) -> str:
    if row.paper is None:
        return "–"
    if row.paper["J"] is None:
        return f"J&F {row.paper['J&F']:.1f}"
    return f"{row.paper['J']:.1f} · {row.paper['F']:.1f}"


def _ours(row: Row) -> list[str]:
    if row.figure is None:
        return ["quoted only" if row.arguments is None else NOT_RUN, "–"]
    j, f, both = row.figure["J"]["mean"], row.figure["F"]["mean"], row.figure["J&F"]
    return [f"{100 * j:.1f} · {100 * f:.1f}", f"{100 * both:.1f}"]


def _data(row: Row) -> str:
    theirs = (row.paper or {}).get("data") or "–"
    ours = "–" if row.arguments is None and row.figure is None else row.data
    return f"{theirs} / {ours}"


def _how(row: Row) -> str:
    return f"`{row.command}`" if row.command else "–"


def _cell(text: str) -> str:
    """Text that ends no cell and no line of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _read_figure(path: Path) -> dict:
    """What ``corrlib evaluate davis --json`` wrote."""
    figure = _read_json(path)
    try:
        for measure in ("J", "F"):
            for name, least in (("mean", 0), ("recall", 0), ("decay", -1)):
                if not least <= float(figure[measure][name]) <= 1:
                    raise ValueError(f"{measure} {name}")
        if not 0 <= float(figure["J&F"]) <= 1:
            raise ValueError("J&F")
        for sequence in figure["sequences"].values():
            for measure in ("J", "F"):
                if not 0 <= float(sequence[measure]["mean"]) <= 1:
                    raise ValueError(f"{measure} of a sequence")
        settings = figure.get("settings", {})
        if not all(isinstance(part, str) for part in settings.get("command", [])):
            raise ValueError("command")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"expected the figures of corrlib evaluate davis --json in {path} (fractions), found "
            f"something else ({error}); write the file again"
        ) from error
    return figure


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"expected a file {path}, found none; restore it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"expected JSON in {path}, it cannot be read; restore the file or write it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object in {path}, found a {type(content).__name__}")
    return content
