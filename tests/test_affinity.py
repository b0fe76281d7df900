"""Affinity and transport: against the slow definition, at the borders, in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrlib import affinity_reference
from corrlib.affinity import (
    full_affinity,
    keep_top,
    normalise,
    restricted_affinity,
    transport,
)
from corrlib.affinity_reference import offsets
from corrlib.errors import InputError
from corrlib.geometry import cell_centres


def random_maps(generator, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=generator, dtype=dtype)


def one_hot_cells(h: int, w: int) -> torch.Tensor:
    """``(1, h·w, h, w)``: every cell has a feature of its own, orthogonal to all others."""
    return torch.eye(h * w).view(1, h * w, h, w)


def inside(h: int, w: int, radius: int) -> torch.Tensor:
    """``((2M+1)², h, w)``: whether the offset's cell lies in the image, cell by cell."""
    found = torch.zeros(len(offsets(radius)), h, w, dtype=torch.bool)
    for i, (dy, dx) in enumerate(offsets(radius)):
        for y in range(h):
            for x in range(w):
                found[i, y, x] = 0 <= y + dy < h and 0 <= x + dx < w
    return found


def widened(affinity: torch.Tensor, radius: int) -> torch.Tensor:
    """A restricted affinity of one reference written as a full one ``(B, n, n)``."""
    batch, _, h, w = affinity.shape
    full = affinity.new_zeros(batch, h, w, h, w)
    for i, (dy, dx) in enumerate(offsets(radius)):
        for y in range(max(-dy, 0), min(h - dy, h)):
            for x in range(max(-dx, 0), min(w - dx, w)):
                full[:, y + dy, x + dx, y, x] = affinity[:, i, y, x]
    return full.view(batch, h * w, h * w)


# Against the slow definition

TOLERANCE = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, 1e-9)}


def compare(reference, target, values, radius, temperature, seed, strict):
    """Values and gradients of affinity and transport, fast against slow."""
    results = []
    for module in (None, affinity_reference):
        inputs = [x.detach().clone().requires_grad_() for x in (reference, target, values)]
        if module is None:
            affinity = restricted_affinity(*inputs[:2], radius, temperature)
            copied = transport(inputs[2], affinity)
        else:
            affinity = module.restricted_affinity(*inputs[:2], radius, temperature)
            copied = module.transport(inputs[2], affinity, radius)
        generator = torch.Generator().manual_seed(seed)
        loss = sum(
            (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum()
            for x in (affinity, copied)
        )
        results.append(([affinity, copied], torch.autograd.grad(loss, inputs)))
    for (fast, slow), tolerance in zip(zip(*results, strict=True), strict, strict=True):
        for one, other in zip(fast, slow, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    count=st.integers(0, 3),
    channels=st.integers(1, 6),
    h=st.integers(1, 18),
    w=st.integers(1, 18),
    radius=st.integers(1, 5),
    temperature=st.sampled_from([0.07, 0.5, 1.0, 3.0]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**16),
)
def test_fast_equals_slow(batch, count, channels, h, w, radius, temperature, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    references = (count,) if count else ()  # 0: a reference without its own dimension
    reference = random_maps(generator, batch, *references, channels, h, w, dtype=dtype)
    target = random_maps(generator, batch, channels, h, w, dtype=dtype)
    values = random_maps(generator, batch, *references, 2, h, w, dtype=dtype)
    reference, target = normalise(reference), normalise(target)
    compare(reference, target, values, radius, temperature, seed, TOLERANCE[dtype])


@pytest.mark.parametrize(("h", "w", "radius"), [(5, 6, 9), (1, 13, 4), (11, 1, 12), (9, 17, 8)])
def test_fast_equals_slow_when_the_window_leaves_the_map(h, w, radius, generator):
    reference = random_maps(generator, 2, 2, 3, h, w, dtype=torch.float64)
    target = random_maps(generator, 2, 3, h, w, dtype=torch.float64)
    values = random_maps(generator, 2, 2, 4, h, w, dtype=torch.float64)
    compare(reference, target, values, radius, 1.0, 0, TOLERANCE[torch.float64])


def test_features_as_they_are_may_be_large(generator):
    reference, target = (30 * random_maps(generator, 1, 4, 9, 10) for _ in range(2))
    for affinity in (
        full_affinity(reference, target, 0.05),
        restricted_affinity(reference, target, 3, 0.05),
    ):
        assert affinity.isfinite().all()
        torch.testing.assert_close(affinity.sum(1), torch.ones_like(affinity.sum(1)))


def test_non_contiguous_inputs(generator):
    reference = random_maps(generator, 11, 10, 2, 5).permute(2, 3, 1, 0)
    target = random_maps(generator, 2, 5, 11, 10).transpose(2, 3)
    assert not reference.is_contiguous() and not target.is_contiguous()
    for call in (full_affinity, lambda r, t: restricted_affinity(r, t, 2)):
        torch.testing.assert_close(
            call(reference, target), call(reference.contiguous(), target.contiguous())
        )


def test_inputs_are_left_alone(generator):
    reference, target = random_maps(generator, 1, 3, 6, 7), random_maps(generator, 1, 3, 6, 7)
    copies = reference.clone(), target.clone()
    transport(reference, keep_top(restricted_affinity(reference, target, 2), 3))
    transport(reference, keep_top(full_affinity(reference, target), 3))
    assert torch.equal(reference, copies[0]) and torch.equal(target, copies[1])


def test_derivatives_of_the_whole_chain(generator):
    reference = random_maps(generator, 1, 2, 2, 3, 4, dtype=torch.float64).requires_grad_()
    target = random_maps(generator, 1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    values = random_maps(generator, 1, 2, 1, 3, 4, dtype=torch.float64).requires_grad_()

    def chain(reference, target, values):
        return transport(values, restricted_affinity(reference, target, 1, 0.7))

    assert torch.autograd.gradcheck(chain, (reference, target, values))
    assert torch.autograd.gradgradcheck(chain, (reference, target, values))


# Borders, and zeros that are not borders


@pytest.mark.parametrize(("h", "w", "radius"), [(5, 8, 2), (3, 4, 6), (9, 2, 1)])
def test_outside_is_exactly_0_and_columns_sum_to_1(h, w, radius, generator):
    references = random_maps(generator, 2, 3, 4, h, w)
    target = random_maps(generator, 2, 4, h, w)
    affinity = restricted_affinity(references, target, radius)
    within = inside(h, w, radius).repeat(3, 1, 1).expand(2, -1, -1, -1)
    assert (affinity[~within] == 0).all()
    assert (affinity[within] > 0).all()
    torch.testing.assert_close(affinity.sum(1), torch.ones(2, h, w))
    full = full_affinity(references, target)
    assert full.shape == (2, 3 * h * w, h * w)
    torch.testing.assert_close(full.sum(1), torch.ones(2, h * w))


@pytest.mark.parametrize("module", [None, affinity_reference])
def test_a_true_correlation_of_zero_is_not_outside(module):
    function = (module or affinity_reference).restricted_affinity
    if module is None:
        function = restricted_affinity
    zeros = torch.zeros(1, 3, 5, 6)
    affinity = function(zeros, zeros, 2)
    within = inside(5, 6, 2)
    expected = within / within.sum(0)
    torch.testing.assert_close(affinity[0], expected)


def test_orthogonal_features_keep_their_share(generator):
    """Target features orthogonal to some reference cells: those weigh exp(0), not 0."""
    reference = torch.zeros(1, 2, 4, 4)
    reference[:, 0, :, ::2] = 1
    reference[:, 1, :, 1::2] = 1
    target = torch.zeros(1, 2, 4, 4)
    target[:, 0] = 1
    affinity = restricted_affinity(reference, target, 1)[0, :, 2, 2].view(3, 3)
    e = torch.tensor(1.0).exp()
    column = torch.stack([torch.ones_like(e), e, torch.ones_like(e)]) / (3 * e + 6)
    torch.testing.assert_close(affinity, column.expand(3, 3))


def test_the_border_passes_no_gradient_to_the_padding(generator):
    reference = random_maps(generator, 1, 2, 4, 4).requires_grad_()
    target = random_maps(generator, 1, 2, 4, 4).requires_grad_()
    loss = restricted_affinity(reference, target, 7).square().sum()
    for grad in torch.autograd.grad(loss, (reference, target)):
        assert grad.isfinite().all()


# Full and restricted are one thing


def test_full_within_the_window_renormalised_is_restricted(generator):
    reference, target = random_maps(generator, 2, 3, 7, 5), random_maps(generator, 2, 3, 7, 5)
    restricted = widened(restricted_affinity(reference, target, 2, 0.5), 2)
    full = full_affinity(reference, target, 0.5) * (restricted > 0)
    torch.testing.assert_close(full / full.sum(1, keepdim=True), restricted)


@pytest.mark.parametrize(("h", "w", "radius"), [(5, 7, 6), (6, 3, 5), (4, 4, 9)])
def test_a_radius_that_covers_the_map_is_full(h, w, radius, generator):
    reference, target = random_maps(generator, 2, 3, h, w), random_maps(generator, 2, 3, h, w)
    values = random_maps(generator, 2, 4, h, w)
    full = full_affinity(reference, target, 0.3)
    restricted = restricted_affinity(reference, target, radius, 0.3)
    torch.testing.assert_close(widened(restricted, radius), full)
    torch.testing.assert_close(transport(values, restricted), transport(values, full))


def test_full_affinity_follows_permutations(generator):
    """Shuffling reference cells shuffles rows, shuffling targets shuffles columns."""
    reference, target = random_maps(generator, 1, 3, 4, 5), random_maps(generator, 1, 3, 4, 5)
    rows, columns = torch.randperm(20, generator=generator), torch.randperm(20, generator=generator)

    def shuffled(maps, order):
        return maps.flatten(2)[:, :, order].view_as(maps)

    affinity = full_affinity(shuffled(reference, rows), shuffled(target, columns))
    expected = full_affinity(reference, target)[:, rows][:, :, columns]
    torch.testing.assert_close(affinity, expected)
    copied = transport(shuffled(reference, rows), full_affinity(shuffled(reference, rows), target))
    torch.testing.assert_close(copied, transport(reference, full_affinity(reference, target)))


def test_references_are_outermost(generator):
    references = random_maps(generator, 1, 2, 3, 5, 4)
    target = random_maps(generator, 1, 3, 5, 4)
    for affinity in (full_affinity(references, target), restricted_affinity(references, target, 2)):
        first, second = affinity.chunk(2, dim=1)
        alone = affinity.shape[1] // 2
        only = (
            full_affinity(references[:, 0], target)
            if affinity.dim() == 3
            else restricted_affinity(references[:, 0], target, 2)
        )
        assert only.shape[1] == alone
        torch.testing.assert_close(first / first.sum(1, keepdim=True), only)
        swapped = references.flip(1)
        again = (
            full_affinity(swapped, target)
            if affinity.dim() == 3
            else restricted_affinity(swapped, target, 2)
        )
        torch.testing.assert_close(again, torch.cat([second, first], dim=1))


# Motion that is known


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (1, -2), (-3, 0), (2, 3)])
def test_an_integer_shift_is_found_and_moves_labels_exactly(dy, dx, generator):
    """The target at p shows what the reference shows at p + (dy, dx)."""
    h, w, radius = 9, 11, 3
    reference = one_hot_cells(h, w)
    target = torch.roll(reference, (-dy, -dx), dims=(2, 3))
    values = random_maps(generator, 1, 2, h, w)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    known = (y + dy >= 0) & (y + dy < h) & (x + dx >= 0) & (x + dx < w)
    expected = torch.roll(values, (-dy, -dx), dims=(2, 3))[..., known]

    restricted = restricted_affinity(reference, target, radius, temperature=0.01)
    assert (restricted.argmax(1)[0][known] == offsets(radius).index((dy, dx))).all()
    torch.testing.assert_close(transport(values, restricted)[..., known], expected)

    full = full_affinity(reference, target, temperature=0.01)
    at = ((y + dy) * w + x + dx)[known]
    assert torch.equal(full.argmax(1).view(h, w)[known], at)
    torch.testing.assert_close(transport(values, full)[..., known], expected)


@pytest.mark.parametrize(("h", "w"), [(6, 9), (9, 6)])
def test_identity_affinity_moves_nothing(h, w):
    coordinates = cell_centres(h, w, stride=8)[None]
    features = one_hot_cells(h, w)
    for affinity in (
        full_affinity(features, features, 0.01),
        restricted_affinity(features, features, 4, 0.01),
        torch.eye(h * w)[None],
    ):
        torch.testing.assert_close(transport(coordinates, affinity), coordinates)


def test_transport_between_maps_of_two_sizes(generator):
    reference, target = random_maps(generator, 2, 3, 4, 6), random_maps(generator, 2, 3, 5, 3)
    values = random_maps(generator, 2, 2, 4, 6)
    affinity = full_affinity(reference, target)
    assert affinity.shape == (2, 24, 15)
    copied = transport(values, affinity, size=(5, 3))
    expected = torch.einsum("bdi,bij->bdj", values.flatten(2), affinity).view(2, 2, 5, 3)
    torch.testing.assert_close(copied, expected)


def test_transport_is_a_mean_and_linear(generator):
    references, target = random_maps(generator, 2, 3, 4, 6, 5), random_maps(generator, 2, 4, 6, 5)
    labels = torch.rand(2, 3, 4, 6, 5, generator=generator)
    labels = labels / labels.sum(2, keepdim=True)
    for affinity in (full_affinity(references, target), restricted_affinity(references, target, 2)):
        copied = transport(labels, affinity)
        torch.testing.assert_close(copied.sum(1), torch.ones(2, 6, 5))
        torch.testing.assert_close(
            transport(torch.ones_like(labels), affinity), torch.ones(2, 4, 6, 5)
        )
        torch.testing.assert_close(
            transport(2 * labels - 1, affinity), 2 * transport(labels, affinity) - 1
        )


# Temperature and top k


def test_temperature_limits(generator):
    reference, target = random_maps(generator, 1, 5, 6, 7), random_maps(generator, 1, 5, 6, 7)
    for call in (full_affinity, lambda r, t, tau: restricted_affinity(r, t, 2, tau)):
        hot, cold = call(reference, target, 1e6), call(reference, target, 1e-4)
        possible = hot > 0
        torch.testing.assert_close(
            hot, possible / possible.sum(1, keepdim=True).float(), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(cold.max(1).values, torch.ones_like(cold[:, 0]))
        assert torch.equal(cold.argmax(1), call(reference, target, 1.0).argmax(1))


def test_scaling_features_is_dividing_the_temperature(generator):
    reference, target = random_maps(generator, 1, 5, 6, 7), random_maps(generator, 1, 5, 6, 7)
    torch.testing.assert_close(
        full_affinity(3 * reference, target, 3.0), full_affinity(reference, target)
    )
    torch.testing.assert_close(
        restricted_affinity(reference, 2 * target, 2, 1.0),
        restricted_affinity(reference, target, 2, 0.5),
    )


def test_normalise_gives_unit_vectors(generator):
    features = 7 * random_maps(generator, 2, 3, 5, 4, 4)
    torch.testing.assert_close(normalise(features).norm(dim=2), torch.ones(2, 3, 4, 4))
    assert normalise(torch.zeros(1, 5, 2, 2)).isfinite().all()


@pytest.mark.parametrize("k", [1, 3, 10])
def test_keep_top_is_a_softmax_over_the_best_scores(k, generator):
    references = random_maps(generator, 2, 2, 5, 6, 4, dtype=torch.float64)
    target = random_maps(generator, 2, 5, 6, 4, dtype=torch.float64)
    for affinity in (
        full_affinity(references, target, 0.5),
        restricted_affinity(references, target, 2, 0.5),
    ):
        best, index = affinity.log().topk(k, dim=1)
        expected = torch.zeros_like(affinity).scatter(1, index, best.softmax(dim=1))
        kept = keep_top(affinity, k)
        torch.testing.assert_close(kept, expected)
        assert ((kept > 0).sum(1) == k).all()


def test_keep_top_with_fewer_cells_in_reach_than_k(generator):
    features = random_maps(generator, 1, 3, 2, 2)
    affinity = restricted_affinity(features, features, 3)
    kept = keep_top(affinity, 10)  # 49 offsets, 4 of them inside
    torch.testing.assert_close(kept, affinity)
    assert keep_top(affinity, 49) is affinity


# Bad input


@pytest.mark.parametrize("radius", [0, -1])
def test_a_radius_below_1_is_an_error(radius):
    with pytest.raises(InputError, match="radius"):
        restricted_affinity(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), radius)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
def test_a_temperature_of_0_or_less_is_an_error(temperature):
    maps = torch.zeros(1, 2, 4, 4)
    with pytest.raises(InputError, match="temperature"):
        full_affinity(maps, maps, temperature)
    with pytest.raises(InputError, match="temperature"):
        restricted_affinity(maps, maps, 1, temperature)


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ((2, 4, 4), (2, 4, 4)),  # no batch
        ((1, 2, 4, 4), (2, 2, 4, 4)),  # batches differ
        ((1, 2, 4, 4), (1, 3, 4, 4)),  # channels differ
        ((1, 2, 2, 4, 4), (1, 1, 2, 4, 4)),  # several targets
    ],
)
def test_shapes_that_do_not_fit_are_named(reference, target):
    for call in (full_affinity, lambda r, t: restricted_affinity(r, t, 1)):
        with pytest.raises(InputError) as caught:
            call(torch.zeros(reference), torch.zeros(target))
        assert str(reference) in str(caught.value) and "\n" not in str(caught.value)


def test_restricted_affinity_needs_maps_of_one_size():
    with pytest.raises(InputError, match="one size"):
        restricted_affinity(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 5, 4), 1)


@pytest.mark.parametrize(
    ("values", "affinity"),
    [
        ((3, 4, 4), (1, 9, 4, 4)),  # no batch
        ((1, 3, 4, 4), (9, 16)),
        ((1, 3, 4, 4), (2, 9, 4, 4)),  # batches differ
        ((2, 3, 4, 4), (1, 9, 4, 4)),
        ((2, 3, 4, 4), (1, 16, 16)),
        ((1, 3, 4, 4), (1, 8, 4, 4)),  # not a square window
        ((1, 3, 4, 4), (1, 16, 4, 4)),  # an even side
        ((1, 2, 3, 4, 4), (1, 9, 4, 4)),  # two references, affinity of one
        ((1, 3, 4, 5), (1, 9, 4, 4)),  # another size
        ((1, 3, 4, 4), (1, 15, 16)),  # full, wrong number of references
        ((1, 3, 4, 4), (1, 16, 15)),  # full, wrong number of targets
    ],
)
def test_values_that_do_not_fit_the_affinity_are_named(values, affinity):
    with pytest.raises(InputError, match="expected|targets"):
        transport(torch.zeros(values), torch.zeros(affinity))


def test_keeping_no_cell_is_an_error():
    with pytest.raises(InputError, match="at least 1"):
        keep_top(torch.ones(1, 4, 4), 0)
