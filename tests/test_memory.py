"""The reference memory: affinity, top k and transport written out, and its bookkeeping."""

from __future__ import annotations

import pytest
import torch

from corrlib import memory as module
from corrlib.affinity import keep_top, normalise, restricted_affinity, transport
from corrlib.memory import ReferenceMemory
from corrlib.propagation import PropagationConfig
from corrlib.propagation_reference import kept_frames, radius_on, top_affinity


def unit(generator, *shape):
    return normalise(torch.randn(*shape, generator=generator))


def policy(**options) -> PropagationConfig:
    return PropagationConfig(**{"references": 3, "radius": 3, "topk": 8} | options)


def filled(references, labels, config) -> ReferenceMemory:
    """A memory that was given ``(T, C, h, w)`` with labels ``(T, L, h, w)``, in order."""
    memory = ReferenceMemory(tuple(references.shape[1:]), labels.shape[1], config)
    for features, label in zip(references, labels, strict=True):
        memory.add(features, label)
    return memory


def written_out(references, labels, target, radius, topk, temperature):
    affinity = restricted_affinity(references[None], target[None], radius, temperature)
    return transport(labels[None], keep_top(affinity, topk))[0]


def dense(frames, labels, target, config):
    """Labels of frame ``len(frames)``, from the slow reference's affinity."""
    kept = kept_frames(len(frames), config)
    radii = [radius_on(index, config) for index in kept]
    affinity = top_affinity(list(frames[kept]), target, radii, config)
    values = labels[kept].transpose(0, 1).flatten(1)
    return (values @ affinity.flatten(0, 1)).unflatten(1, target.shape[1:])


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
        (2, 4, 40, 31, 5, 10, 2),  # windows that touch no border
    ],
)
def test_match_and_copy_are_affinity_top_k_and_transport(
    count, channels, h, w, radius, topk, labels, generator
):
    references, target = unit(generator, count, channels, h, w), unit(generator, channels, h, w)
    values = torch.rand(count, labels, h, w, generator=generator)
    memory = filled(references, values, policy(references=count, radius=radius, topk=topk))
    weights, indices = memory.match(target)
    assert weights.shape == indices.shape and weights.shape[0] == h * w
    torch.testing.assert_close(weights.sum(1), torch.ones(h * w))
    assert indices.min() >= 0 and indices.max() < count * h * w
    expected = written_out(references, values, target, radius, topk, 0.05)
    torch.testing.assert_close(memory.copy(weights, indices), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory.carry(target), expected, atol=1e-5, rtol=1e-5)


POLICIES = {
    "joint": {},
    "whole first": {"first_radius": None},
    "near first": {"first_radius": 1},
    "whole": {"radius": None},
    "no first": {"first": False},
    "first alone": {"references": 0},
    "long term": {"references": 2, "long_term": 3},
    "long term alone": {"references": 0, "long_term": 2, "first": False},
    "per reference": {"per_reference": True},
    "per reference, whole first": {"per_reference": True, "first_radius": None},
    "shares of all": {"rescale": False},
    "shares of all, whole first": {"rescale": False, "first_radius": None},
    "shares per reference": {"rescale": False, "per_reference": True},
    "all": {"topk": None},
    "all, whole first": {"topk": None, "first_radius": None},
    "all per reference": {"topk": None, "per_reference": True},
    "all per reference, near first": {"topk": None, "per_reference": True, "first_radius": 2},
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("h", "w"), [(11, 9), (17, 26), (3, 5)])
def test_every_policy_is_what_is_written_out(name, h, w, generator):
    config = policy(**POLICIES[name])
    frames, labels = unit(generator, 9, 4, h, w), torch.rand(9, 2, h, w, generator=generator)
    memory = ReferenceMemory((4, h, w), 2, config)
    for number in range(8):
        memory.add(frames[number], labels[number])
        target = frames[number + 1]
        expected = dense(frames[: number + 1], labels[: number + 1], target, config)
        torch.testing.assert_close(memory.carry(target), expected, atol=1e-5, rtol=1e-5)
        if number == 7:
            copied = memory.copy(*memory.match(target))
            torch.testing.assert_close(copied, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["joint", "whole first", "shares per reference", "all"])
def test_a_search_in_small_parts_gives_the_same(name, generator, monkeypatch):
    config = policy(**POLICIES[name])
    frames, labels = unit(generator, 3, 4, 20, 45), torch.rand(3, 2, 20, 45, generator=generator)
    memory = filled(frames[:2], labels[:2], config)
    whole = memory.carry(frames[2])
    sizes = []
    scores = ReferenceMemory._scores

    def noting(self, group, chunk):
        found = scores(self, group, chunk)
        sizes.append(4 * found.numel())
        return found

    monkeypatch.setattr(ReferenceMemory, "_scores", noting)
    for limit in (1, 300_000):
        monkeypatch.setattr(module, "WORKSPACE_BYTES", limit)
        sizes.clear()
        torch.testing.assert_close(memory.carry(frames[2]), whole, atol=1e-6, rtol=1e-6)
        assert len(sizes) > 3
    assert max(sizes) <= limit


def test_matches_are_within_reach(generator):
    references, target = unit(generator, 2, 4, 12, 15), unit(generator, 4, 12, 15)
    config = policy(references=1, radius=2, topk=6, temperature=0.1)
    memory = filled(references, torch.zeros(2, 1, 12, 15), config)
    weights, indices = memory.match(target)
    y, x = indices % (12 * 15) // 15, indices % 15
    here = torch.arange(12 * 15)[:, None]
    far = torch.maximum((y - here // 15).abs(), (x - here % 15).abs())
    assert (far[weights > 0] <= 2).all()


def test_a_smaller_temperature_trusts_the_best_match_more(generator):
    references, target = unit(generator, 1, 4, 9, 9), unit(generator, 4, 9, 9)
    labels = torch.zeros(1, 1, 9, 9)
    best = [
        filled(references, labels, policy(radius=2, topk=5, temperature=temperature))
        .match(target)[0]
        .max(1)
        .values.mean()
        for temperature in (1.0, 0.1, 0.001)
    ]
    assert best[0] < best[1] < best[2] and best[2] > 0.99


@pytest.mark.parametrize("latest", [0, 1, 3])
def test_the_first_and_the_latest_frames_are_kept(latest, generator):
    memory = ReferenceMemory((2, 4, 4), 1, policy(references=latest))
    for number in range(9):
        memory.add(unit(generator, 2, 4, 4), torch.zeros(1, 4, 4))
        kept = {0, *range(max(0, number - latest + 1), number + 1)}
        assert sorted(memory.frames) == sorted(kept)


@pytest.mark.parametrize(("latest", "older"), [(0, 1), (1, 2), (3, 4), (2, 7)])
@pytest.mark.parametrize("first", [True, False])
def test_older_frames_are_kept_spread_evenly(latest, older, first, generator):
    config = policy(references=latest, long_term=older, first=first)
    memory = ReferenceMemory((1, 2, 2), 1, config)
    features, labels = torch.ones(1, 2, 2), torch.zeros(1, 2, 2)
    for number in range(70):
        memory.add(features, labels)
        assert sorted(memory.frames) == kept_frames(number + 1, config)
        assert len(memory.labels) == first + latest + older
    old = [index for index in sorted(memory.frames) if first < index + 1 <= 70 - latest]
    assert len(old) == older
    if older > 2:
        steps = [b - a for a, b in zip(old, old[1:], strict=False)]
        assert max(steps) <= 2 * min(steps)


def test_a_frame_kept_for_its_labels_stays_and_new_maps_are_0_elsewhere(generator):
    config = policy(references=2, radius=2, topk=4)
    frames, labels = unit(generator, 9, 4, 9, 10), torch.rand(9, 3, 9, 10, generator=generator)
    labels[:4, 2] = 0
    memory = ReferenceMemory((4, 9, 10), 2, config)
    for number in range(8):
        maps = labels[number, : 2 if number < 5 else 3]
        memory.add(frames[number], maps)
        if number == 4:
            memory.keep_latest(frames[4], labels[4])
    assert sorted(memory.frames) == [0, 4, 6, 7]
    kept = [0, 4, 6, 7]
    expected = written_out(frames[kept], labels[kept], frames[8], 2, 4, 0.05)
    torch.testing.assert_close(memory.carry(frames[8]), expected, atol=1e-5, rtol=1e-5)


def test_labels_may_be_anything(generator):
    """Coordinates, negative values and huge ones: the copy is their weighted mean."""
    references, target = unit(generator, 2, 4, 9, 10), unit(generator, 4, 9, 10)
    labels = 1e4 * torch.randn(2, 3, 9, 10, generator=generator)
    memory = filled(references, labels, policy(radius=2, topk=4, temperature=0.1))
    expected = written_out(references, labels, target, 2, 4, 0.1)
    copied = memory.copy(*memory.match(target))
    torch.testing.assert_close(copied, expected, atol=0.1, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"per_reference": True}, {"topk": None}])
def test_true_zero_correlations_are_matched(options):
    zeros = torch.zeros(1, 3, 5, 6)
    config = policy(**{"radius": 1, "topk": 9} | options)
    memory = filled(zeros, torch.ones(1, 1, 5, 6), config)
    weights, indices = memory.match(zeros[0])
    # A corner has 4 cells in reach, an inner cell 9; all weigh the same.
    assert (weights[0] > 0).sum() == 4
    assert (weights[7] > 0).sum() == 9
    torch.testing.assert_close(weights[7][weights[7] > 0], torch.full((9,), 1 / 9))
    torch.testing.assert_close(memory.copy(weights, indices), torch.ones(1, 5, 6))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_finds_nearly_the_same(precision, generator):
    frames, target = unit(generator, 3, 32, 20, 22), unit(generator, 32, 20, 22)
    labels = torch.rand(3, 2, 20, 22, generator=generator)
    full, low = (
        filled(frames, labels, policy(precision=name)).carry(target) for name in ("fp32", precision)
    )
    assert low.dtype == torch.float32
    assert 0 < (full - low).abs().mean() < 0.01


def test_what_is_added_later_does_not_change_what_was_given(generator):
    features, labels = unit(generator, 4, 6, 7), torch.rand(2, 6, 7, generator=generator)
    copies = features.clone(), labels.clone()
    memory = ReferenceMemory((4, 6, 7), 2, policy(references=1))
    for _ in range(3):
        memory.add(features, labels)
        memory.match(features)
    assert torch.equal(features, copies[0]) and torch.equal(labels, copies[1])


@pytest.mark.parametrize(
    ("shape", "labels", "options"),
    [
        ((64, 30, 54), 2, {"references": 4, "radius": 6}),
        ((16, 24, 24), 5, {"references": 0}),
        ((8, 9, 13), 1, {"references": 2, "radius": 20}),
        ((256, 15, 27), 3, {"references": 1, "radius": 12, "long_term": 3}),
        ((64, 30, 27), 2, {"references": 2, "radius": 5, "first_radius": None}),
        ((32, 30, 27), 2, {"references": 3, "radius": None, "per_reference": True}),
        ((32, 30, 54), 2, {"references": 4, "radius": 6, "precision": "bf16"}),
    ],
)
def test_the_estimate_is_what_is_held(shape, labels, options, generator):
    config = policy(**options)
    memory = ReferenceMemory(shape, labels, config)
    features = unit(generator, *shape)
    for _ in range(config.references + config.long_term + 2):
        memory.add(features, torch.rand(labels, *shape[1:], generator=generator))
    memory.carry(features)
    tensors = [memory.labels, memory._buffer, *(one.strips for one in memory.references)]
    held = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    estimate = ReferenceMemory.estimate(shape, labels, config)
    assert held <= estimate <= 4 * held + 2**21  # with what comes and goes during a search
