"""J and F against the published evaluator's way: whole frames, all of a video held as floats."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from corrlib.bench.clip import moving_ellipses
from corrlib.bench.timing import check_rounds, seconds
from corrlib.metrics import SequenceScore, reference_score_sequence, score_sequence

FRAMES, HEIGHT, WIDTH = 12, 480, 854


def bench_metric(rounds: int, report: Callable[[str], None]) -> dict:
    """J and F of every object of made-up 480p masks, two frames late as the prediction.

    One clip has one object, one has four; one frame is empty and one object reaches three borders.

    Returns:
        ``ratios`` (reference time / ours), ``milliseconds`` per frame of each, and ``identical``:
        that every figure is the same to the last bit, which is checked.
    """
    check_rounds(rounds)
    report(f"J and F of {FRAMES - 2} scored frames {WIDTH}x{HEIGHT}, 1 and 4 objects, on the CPU")
    clips = [_masks(objects) for objects in (1, 4)]
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(rounds):
        found: dict[str, list[SequenceScore]] = {"ours": [], "reference": []}
        for predicted, true in clips:
            for name, score in (("ours", score_sequence), ("reference", reference_score_sequence)):
                spent = seconds(lambda: found[name].append(score(predicted, true)))  # noqa: B023
                times[name].append(spent)
        for ours, reference in zip(found["ours"], found["reference"], strict=True):
            if (ours.J != reference.J).any() or (ours.F != reference.F).any():
                raise AssertionError("the figures differ from those of the reference")
    total = {name: statistics.median(map(sum, _pairs(spent))) for name, spent in times.items()}
    frames = len(clips) * (FRAMES - 2)
    result = {
        "ratios": {"reference": total["reference"] / total["ours"]},
        "milliseconds": {name: 1000 * spent / frames for name, spent in total.items()},
        "identical": True,
        "rounds": rounds,
    }
    report(
        f"  {result['ratios']['reference']:.1f}x faster than whole frames as floats, with "
        f"identical figures; {result['milliseconds']['ours']:.1f} ms per frame"
    )
    return result


def _pairs(times: list[float]) -> list[list[float]]:
    """The times of both clips, round by round."""
    return [times[index : index + 2] for index in range(0, len(times), 2)]


def _masks(objects: int) -> tuple[torch.Tensor, torch.Tensor]:
    _, true = moving_ellipses(FRAMES, HEIGHT, WIDTH, objects)
    true[FRAMES // 2] = 0
    true[FRAMES // 3, :, : WIDTH // 8] = objects
    predicted = torch.cat([true[:1], true[:1], true[:-2]])
    return predicted, true
