"""The tiled path: equal to its definition in value and in every derivative, within its memory."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from corrlib import tiles
from corrlib.affinity_reference import offsets, shift
from corrlib.tiles import TILE, correlate, gather, splat


def slow_correlate(target, reference, radius):
    scores = [(target * shift(reference, dy, dx)).sum(1) for dy, dx in offsets(radius)]
    return torch.stack(scores, dim=-1)


def slow_gather(scores, values, radius):
    parts = zip(scores.unbind(-1), offsets(radius), strict=True)
    return sum(weight.unsqueeze(1) * shift(values, dy, dx) for weight, (dy, dx) in parts)


def slow_splat(scores, values, radius):
    parts = zip(scores.unbind(-1), offsets(radius), strict=True)
    return sum(shift(weight.unsqueeze(1) * values, -dy, -dx) for weight, (dy, dx) in parts)


SLOW = {correlate: slow_correlate, gather: slow_gather, splat: slow_splat}


def operands(operation, n, c, h, w, radius, generator, dtype=torch.float64):
    maps = torch.randn(n, c, h, w, generator=generator, dtype=dtype)
    if operation is correlate:
        return torch.randn(n, c, h, w, generator=generator, dtype=dtype), maps
    return torch.randn(n, h, w, (2 * radius + 1) ** 2, generator=generator, dtype=dtype), maps


def value_and_gradients(operation, inputs, radius, weight=None):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    result = operation(*inputs, radius)
    weight = torch.ones_like(result) if weight is None else weight
    return result.detach(), *torch.autograd.grad((result * weight).sum(), inputs)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    operation=st.sampled_from([correlate, gather, splat]),
    n=st.integers(1, 3),
    c=st.integers(1, 5),
    h=st.integers(1, 19),
    w=st.integers(1, 19),
    radius=st.integers(0, 6),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_are_those_of_the_definition(operation, n, c, h, w, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = operands(operation, n, c, h, w, radius, generator)
    weight = torch.randn(operation(*inputs, radius).shape, generator=generator).double()
    fast = value_and_gradients(operation, inputs, radius, weight)
    slow = value_and_gradients(SLOW[operation], inputs, radius, weight)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("operation", SLOW)
@pytest.mark.parametrize(("h", "w", "radius"), [(5, 7, 9), (1, 12, 14), (17, 3, 18), (9, 10, 12)])
def test_a_radius_larger_than_the_map(operation, h, w, radius, generator):
    inputs = operands(operation, 2, 3, h, w, radius, generator)
    fast = value_and_gradients(operation, inputs, radius)
    slow = value_and_gradients(SLOW[operation], inputs, radius)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("operation", SLOW)
def test_non_contiguous_and_expanded_inputs(operation, generator):
    left, maps = operands(operation, 3, 4, 11, 13, 2, generator)
    expected = operation(left, maps, 2)
    turned = maps.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    strange = left.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    assert not turned.is_contiguous() and not strange.is_contiguous()
    torch.testing.assert_close(operation(strange, turned, 2), expected)
    one = maps[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(operation(left, one, 2), operation(left, one.contiguous(), 2))
    every = left[..., :1].expand_as(left)
    torch.testing.assert_close(operation(every, maps, 2), operation(every.contiguous(), maps, 2))


@pytest.mark.parametrize("operation", SLOW)
@pytest.mark.parametrize(("h", "w", "radius"), [(3, 4, 1), (2, 3, 3)])
def test_first_and_second_derivatives(operation, h, w, radius, generator):
    left, maps = operands(operation, 1, 2, h, w, radius, generator)
    inputs = (left.requires_grad_(), maps.requires_grad_())
    call = lambda a, b: operation(a, b, radius)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_splat_is_the_transpose_of_gather(generator):
    scores, values = operands(gather, 2, 3, 13, 10, 3, generator)
    others = torch.randn(values.shape, generator=generator).double()
    left = (gather(scores, values, 3) * others).sum()
    right = (values * splat(scores, others, 3)).sum()
    torch.testing.assert_close(left, right)


def test_the_gradient_of_correlate_is_gather_and_splat(generator):
    target, reference = operands(correlate, 2, 3, 9, 12, 2, generator)
    grad = torch.randn(2, 9, 12, 25, generator=generator).double()
    _, of_target, of_reference = value_and_gradients(correlate, (target, reference), 2, grad)
    torch.testing.assert_close(of_target, gather(grad, reference, 2))
    torch.testing.assert_close(of_reference, splat(grad, target, 2))


def test_only_asked_gradients_are_made(generator):
    for operation in SLOW:
        left, maps = operands(operation, 1, 2, 5, 5, 1, generator)
        (grad,) = torch.autograd.grad(operation(left, maps.requires_grad_(), 1).sum(), maps)
        assert grad.shape == maps.shape
        maps = maps.detach()
        (grad,) = torch.autograd.grad(operation(left.requires_grad_(), maps, 1).sum(), left)
        assert grad.shape == left.shape


# Memory

CASES = [(3, 24, 37, 45, 3), (2, 96, 20, 41, 1), (6, 1, 30, 25, 4), (2, 8, 26, 19, 40)]


@pytest.mark.parametrize("operation", SLOW)
@pytest.mark.parametrize(("n", "c", "h", "w", "radius"), CASES)
def test_a_small_workspace_changes_nothing(monkeypatch, operation, n, c, h, w, radius, generator):
    inputs = operands(operation, n, c, h, w, radius, generator)
    expected = operation(*inputs, radius)
    for workspace in (1, 2**18, 2**20):
        monkeypatch.setattr(tiles, "WORKSPACE_BYTES", workspace)
        torch.testing.assert_close(operation(*inputs, radius), expected, atol=1e-12, rtol=1e-12)


def temporary_bytes(function) -> int:
    """The most that ``function`` had allocated at one time, beyond what it returns."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = function()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    assert most > 0, "the profiler saw no allocation"
    return most - result.untyped_storage().nbytes()


def test_the_measurement_sees_temporaries():
    x = torch.ones(1000, 1000)
    assert temporary_bytes(lambda: (x + 1 + 1).sum()) >= 2 * x.nbytes
    assert temporary_bytes(lambda: x + 1) < 1000


@pytest.mark.parametrize("operation", SLOW)
@pytest.mark.parametrize(
    ("workspace", "n", "c", "h", "w", "radius"),
    [
        (2**19, 3, 24, 37, 45, 3),  # several parts
        (2**19, 3, 2, 37, 45, 4),  # scores outweigh windows
        (2**20, 2, 256, 33, 40, 1),  # windows are hardly larger than their tiles
        (2**19, 40, 4, 6, 7, 2),  # many small samples
    ],
)
def test_temporary_memory_stays_within_the_workspace(
    monkeypatch, operation, workspace, n, c, h, w, radius, generator
):
    monkeypatch.setattr(tiles, "WORKSPACE_BYTES", workspace)
    inputs = operands(operation, n, c, h, w, radius, generator, torch.float32)
    assert temporary_bytes(lambda: operation(*inputs, radius)) <= workspace


@pytest.mark.parametrize("operation", SLOW)
def test_below_the_workspace_one_tile_is_the_least(monkeypatch, operation, generator):
    monkeypatch.setattr(tiles, "WORKSPACE_BYTES", 1)
    channels, radius = 16, 5
    inputs = operands(operation, 4, channels, 40, 33, radius, generator, torch.float32)
    window = (TILE + 2 * radius) ** 2
    tile = 4 * (3 * channels * window + TILE**2 * (window + 3 * channels))
    assert temporary_bytes(lambda: operation(*inputs, radius)) <= tile


def test_backward_stays_within_the_workspace_beside_its_results(monkeypatch, generator):
    monkeypatch.setattr(tiles, "WORKSPACE_BYTES", 2**19)
    target, reference = operands(correlate, 2, 16, 40, 41, 3, generator, torch.float32)
    scores = correlate(target.requires_grad_(), reference.requires_grad_(), 3)
    grad = torch.ones_like(scores)
    used = temporary_bytes(lambda: torch.autograd.grad(scores, (target, reference), grad)[0])
    assert used <= 2**19 + target.nbytes  # the second gradient is a result, too
