"""The reference memory: affinity, top k and transport written out, and its bookkeeping."""

from __future__ import annotations

import pytest
import torch

from corrlib.affinity import keep_top, normalise, restricted_affinity, transport
from corrlib.memory import ReferenceMemory


def unit(generator, *shape):
    return normalise(torch.randn(*shape, generator=generator))


def filled(references, labels, **options) -> ReferenceMemory:
    """A memory that was given ``(R, C, h, w)`` with labels ``(R, L, h, w)``, in order."""
    memory = ReferenceMemory(tuple(references.shape[1:]), labels.shape[1], **options)
    for features, label in zip(references, labels, strict=True):
        memory.add(features, label)
    return memory


def written_out(references, labels, target, radius, topk, temperature):
    affinity = restricted_affinity(references[None], target[None], radius, temperature)
    return transport(labels[None], keep_top(affinity, topk))[0]


@pytest.mark.parametrize(
    ("count", "channels", "h", "w", "radius", "topk", "labels"),
    [
        (1, 8, 8, 8, 1, 1, 2),
        (1, 5, 13, 9, 3, 5, 1),
        (2, 8, 7, 19, 2, 10, 3),
        (4, 3, 17, 10, 6, 10, 2),
        (3, 6, 1, 21, 4, 7, 2),
        (3, 6, 25, 1, 4, 7, 2),
        (2, 4, 9, 12, 30, 10, 2),  # a radius larger than the map
        (2, 4, 3, 4, 5, 100, 2),  # more than all cells of all references
        (1, 4, 10, 11, 1, 9, 2),  # corners have 4 cells in reach
        (5, 4, 9, 9, 2, 3, 12),
    ],
)
def test_match_and_copy_are_affinity_top_k_and_transport(
    count, channels, h, w, radius, topk, labels, generator
):
    references, target = unit(generator, count, channels, h, w), unit(generator, channels, h, w)
    values = torch.rand(count, labels, h, w, generator=generator)
    memory = filled(references, values, latest=count, radius=radius, topk=topk, temperature=0.05)
    weights, indices = memory.match(target)
    assert weights.shape == indices.shape and weights.shape[0] == h * w
    torch.testing.assert_close(weights.sum(1), torch.ones(h * w))
    assert indices.min() >= 0 and indices.max() < count * h * w
    expected = written_out(references, values, target, radius, topk, 0.05)
    torch.testing.assert_close(memory.copy(weights, indices), expected, atol=1e-5, rtol=1e-5)


def test_matches_are_within_reach(generator):
    references, target = unit(generator, 2, 4, 12, 15), unit(generator, 4, 12, 15)
    labels = torch.zeros(2, 1, 12, 15)
    memory = filled(references, labels, latest=1, radius=2, topk=6, temperature=0.1)
    weights, indices = memory.match(target)
    y, x = indices % (12 * 15) // 15, indices % 15
    here = torch.arange(12 * 15)[:, None]
    far = torch.maximum((y - here // 15).abs(), (x - here % 15).abs())
    assert (far[weights > 0] <= 2).all()


def test_a_smaller_temperature_trusts_the_best_match_more(generator):
    references, target = unit(generator, 1, 4, 9, 9), unit(generator, 4, 9, 9)
    labels = torch.zeros(1, 1, 9, 9)
    best = [
        filled(references, labels, latest=0, radius=2, topk=5, temperature=temperature)
        .match(target)[0]
        .max(1)
        .values.mean()
        for temperature in (1.0, 0.1, 0.001)
    ]
    assert best[0] < best[1] < best[2] and best[2] > 0.99


@pytest.mark.parametrize("latest", [0, 1, 3])
def test_the_first_and_the_latest_frames_are_kept(latest, generator):
    frames = unit(generator, 8, 6, 9, 11)
    labels = torch.rand(8, 2, 9, 11, generator=generator)
    target = unit(generator, 6, 9, 11)
    options = {"radius": 3, "topk": 8, "temperature": 0.05}
    memory = ReferenceMemory((6, 9, 11), 2, latest=latest, **options)
    for number in range(1, 9):
        memory.add(frames[number - 1], labels[number - 1])
        kept = [0, *range(max(1, number - latest), number)]
        copied = memory.copy(*memory.match(target))
        expected = written_out(frames[kept], labels[kept], target, 3, 8, 0.05)
        torch.testing.assert_close(copied, expected, atol=1e-5, rtol=1e-5)


def test_labels_may_be_anything(generator):
    """Coordinates, negative values and huge ones: the copy is their weighted mean."""
    references, target = unit(generator, 2, 4, 9, 10), unit(generator, 4, 9, 10)
    labels = 1e4 * torch.randn(2, 3, 9, 10, generator=generator)
    memory = filled(references, labels, latest=1, radius=2, topk=4, temperature=0.1)
    expected = written_out(references, labels, target, 2, 4, 0.1)
    copied = memory.copy(*memory.match(target))
    torch.testing.assert_close(copied, expected, atol=0.1, rtol=1e-5)


def test_true_zero_correlations_are_matched(generator):
    zeros = torch.zeros(1, 3, 5, 6)
    memory = filled(zeros, torch.ones(1, 1, 5, 6), latest=0, radius=1, topk=9, temperature=0.05)
    weights, indices = memory.match(zeros[0])
    # A corner has 4 cells in reach, an inner cell 9; all weigh the same.
    assert (weights[0] > 0).sum() == 4
    torch.testing.assert_close(weights[7], torch.full((9,), 1 / 9))
    torch.testing.assert_close(memory.copy(weights, indices), torch.ones(1, 5, 6))


def test_what_is_added_later_does_not_change_what_was_given(generator):
    features, labels = unit(generator, 4, 6, 7), torch.rand(2, 6, 7, generator=generator)
    copies = features.clone(), labels.clone()
    memory = ReferenceMemory((4, 6, 7), 2, latest=1, radius=2, topk=3, temperature=0.1)
    for _ in range(3):
        memory.add(features, labels)
        memory.match(features)
    assert torch.equal(features, copies[0]) and torch.equal(labels, copies[1])


@pytest.mark.parametrize(
    ("channels", "h", "w", "latest", "radius", "labels"),
    [(64, 30, 54, 4, 6, 2), (16, 24, 24, 0, 3, 5), (8, 9, 13, 2, 20, 1), (256, 15, 27, 1, 12, 3)],
)
def test_the_estimate_is_what_is_held(channels, h, w, latest, radius, labels, generator):
    options = {"latest": latest, "radius": radius}
    memory = ReferenceMemory((channels, h, w), labels, topk=10, temperature=0.05, **options)
    features = unit(generator, channels, h, w)
    for _ in range(latest + 2):
        memory.add(features, torch.rand(labels, h, w, generator=generator))
    memory.match(features)
    tensors = [memory.strips, memory.labels, *memory._outside.values()]
    held = sum(x.untyped_storage().nbytes() for x in tensors)
    window = memory.window_y * memory.window_x
    scores = 4 * (1 + latest) * memory.tiles_x * 64 * window  # of one row of tiles
    estimate = ReferenceMemory.estimate((channels, h, w), labels, **options)
    assert held + scores <= estimate <= 2 * (held + scores)
