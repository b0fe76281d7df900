"""Exercises of notebook 06: labels that come home, the palindrome walk, who gets gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib import palindrome
from corrlib.checks import Check, Mistake

# -- the round trip --


def returned(labels: torch.Tensor, outward: torch.Tensor, homeward: torch.Tensor) -> torch.Tensor:
    """Labels of frame 0 after a walk to the last frame and back.

    Args:
        labels: ``(B, K, n)``.
        outward: ``(S, B, n, n)``; number t copies frame t to frame t + 1, its columns sum to 1.
        homeward: ``(S, B, n, n)``; number t copies frame t + 1 to frame t.

    Returns:
        ``(B, K, n)``.
    """
    for affinity in (*outward, *homeward.flip(0)):
        labels = labels @ affinity
    return labels


def _labels(generator: torch.Generator, batch: int, words: int, cells: int) -> torch.Tensor:
    return (3 * torch.randn(batch, words, cells, generator=generator)).softmax(dim=1)


def _affinities(generator: torch.Generator, steps: int, batch: int, cells: int) -> torch.Tensor:
    scores = 3 * torch.randn(steps, batch, cells, cells, generator=generator)
    return scores.softmax(dim=2)


def _trip_cases(generator: torch.Generator) -> list[tuple]:
    return [
        (
            _labels(generator, batch, words, cells),
            _affinities(generator, steps, batch, cells),
            _affinities(generator, steps, batch, cells),
        )
        for steps, batch, words, cells in ((2, 2, 3, 8), (3, 1, 4, 7))
    ]


def _decided(labels):
    return torch.zeros_like(labels).scatter_(1, labels.argmax(dim=1, keepdim=True), 1.0)


def _hard(labels, outward, homeward):
    for affinity in (*outward, *homeward.flip(0)):
        labels = _decided(labels @ affinity)
    return labels


def _soft_end(labels, outward, homeward):
    for affinity in outward:
        labels = _decided(labels @ affinity)
    return returned(labels, outward[:0], homeward)


def _from_the_left(labels, outward, homeward):
    return returned(labels, outward.transpose(2, 3), homeward.transpose(2, 3))


come_home = Check(
    name="come_home",
    solution=returned,
    cases=_trip_cases,
    mistakes=(
        Mistake(
            "the way home is walked in the wrong order: the last step out is the first one home, "
            "so homeward[t] with t falling to 0",
            lambda labels, outward, homeward: returned(labels, outward, homeward.flip(0)),
        ),
        Mistake(
            "the way home uses the transposed affinities of the way out; their columns do not sum "
            "to 1. homeward holds affinities of their own, each with its own softmax",
            lambda labels, outward, homeward: returned(labels, outward, outward.transpose(2, 3)),
        ),
        Mistake(
            "home again by the affinities of the way out, which point away from home",
            lambda labels, outward, homeward: returned(labels, outward, outward),
        ),
        Mistake(
            "the labels have not come home: that is only the way out",
            lambda labels, outward, homeward: returned(labels, outward, homeward[:0]),
        ),
        Mistake(
            "that walk turns at frame 1; this one goes to the last frame before it turns",
            lambda labels, outward, homeward: returned(labels, outward[:1], homeward[:1]),
        ),
        Mistake(
            "rows and columns are exchanged: columns are targets and sum to 1, so labels @ A",
            _from_the_left,
        ),
        Mistake(
            "an argmax after every step: the walk must stay soft, or no gradient gets through",
            _hard,
        ),
        Mistake(
            "an argmax on the way: the walk must stay soft, or the steps out get no gradient",
            _soft_end,
        ),
    ),
)


# -- the palindrome walk --


def palindrome_value(nodes: torch.Tensor, temperature: float) -> torch.Tensor:
    """-log of the probability of coming home from the last frame, mean over clips and cells.

    Args:
        nodes: unit features of every cell, ``(B, T, C, n)``.
        temperature: τ.

    Returns:
        A scalar.
    """
    return _loss_of(_return_matrix(nodes, temperature))


def _step(reference: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """The affinity ``(B, n, n)`` of nodes ``(B, C, n)``."""
    return palindrome.transition(reference[..., None], target[..., None], temperature)


def _return_matrix(nodes: torch.Tensor, temperature: float, step=_step) -> torch.Tensor:
    """Frame 0 -> last frame -> frame 0, ``(B, n, n)``; every column sums to 1."""
    frames = nodes.unbind(dim=1)
    route = [*frames, *frames[-2::-1]]  # 0 1 ... k ... 1 0
    product = torch.eye(nodes.shape[3]).expand(nodes.shape[0], -1, -1)
    for here, there in zip(route, route[1:], strict=False):
        product = product @ step(here, there, temperature)
    return product


def _diagonal(product: torch.Tensor) -> torch.Tensor:
    return product.diagonal(dim1=1, dim2=2)


def _loss_of(product: torch.Tensor) -> torch.Tensor:
    return -(_diagonal(product) + 1e-8).log().mean()


def _walk_cases(generator: torch.Generator) -> list[tuple]:
    """Frames that resemble one another, so that some walkers come home."""
    cases = []
    for batch, frames, channels, cells in ((2, 3, 6, 8), (1, 4, 5, 7)):
        nodes = torch.randn(batch, 1, channels, cells, generator=generator)
        nodes = nodes + 0.7 * torch.randn(batch, frames, channels, cells, generator=generator)
        cases.append((F.normalize(nodes, dim=2), 0.2))
    return cases


def _log_of_mean(nodes, temperature):
    return -(_diagonal(_return_matrix(nodes, temperature)).mean() + 1e-8).log()


def _transposed_home(nodes, temperature):
    frames = nodes.unbind(dim=1)
    out = [_step(a, b, temperature) for a, b in zip(frames, frames[1:], strict=False)]
    product = torch.eye(nodes.shape[3]).expand(nodes.shape[0], -1, -1)
    for affinity in (*out, *[affinity.transpose(1, 2) for affinity in out[::-1]]):
        product = product @ affinity
    return _loss_of(product)


def _wrong_way_home(nodes, temperature):
    frames = nodes.unbind(dim=1)
    product = torch.eye(nodes.shape[3]).expand(nodes.shape[0], -1, -1)
    for a, b in zip(frames, frames[1:], strict=False):
        product = product @ _step(a, b, temperature)
    for a, b in zip(frames, frames[1:], strict=False):  # 0 1 first, which is the last step home
        product = product @ _step(b, a, temperature)
    return _loss_of(product)


def _one_way(nodes, temperature):
    frames = nodes.unbind(dim=1)
    product = torch.eye(nodes.shape[3]).expand(nodes.shape[0], -1, -1)
    for a, b in zip(frames, frames[1:], strict=False):
        product = product @ _step(a, b, temperature)
    return _loss_of(product)


def _first_turn(nodes, temperature):
    return palindrome_value(nodes[:, :2], temperature)


def _stands_at_the_turn(nodes, temperature):
    frames = nodes.unbind(dim=1)
    route = [*frames, *frames[::-1]]  # the last frame twice
    product = torch.eye(nodes.shape[3]).expand(nodes.shape[0], -1, -1)
    for here, there in zip(route, route[1:], strict=False):
        product = product @ _step(here, there, temperature)
    return _loss_of(product)


def _turned_product(nodes, temperature):
    frames = nodes.unbind(dim=1)
    route = [*frames, *frames[-2::-1]]
    product = torch.eye(nodes.shape[3]).expand(nodes.shape[0], -1, -1)
    for here, there in zip(route, route[1:], strict=False):
        product = _step(here, there, temperature) @ product
    return _loss_of(product)


def _summed(nodes, temperature):
    return palindrome_value(nodes, temperature) * nodes.shape[0] * nodes.shape[3]


def _multiplied(nodes, temperature):
    return palindrome_value(nodes, 1 / temperature)


def _no_temperature(nodes, temperature):
    return palindrome_value(nodes, 1.0)


def _all_entries(nodes, temperature):
    return -(_return_matrix(nodes, temperature) + 1e-8).log().mean()


def _probability(nodes, temperature):
    return _diagonal(_return_matrix(nodes, temperature)).mean()


def _without_the_sign(nodes, temperature):
    return -palindrome_value(nodes, temperature)


walk_loss = Check(
    name="walk_loss",
    solution=palindrome_value,
    cases=_walk_cases,
    mistakes=(
        Mistake(
            "the mean is taken before the log, so a lost walker costs next to nothing: first -log "
            "of each cell's probability, then the mean",
            _log_of_mean,
        ),
        Mistake(
            "the way home uses the transposed affinities of the way out; their columns do not sum "
            "to 1. Compute each step home with a softmax of its own",
            _transposed_home,
        ),
        Mistake(
            "the way home is walked in the wrong order: the frames are 0 1 ... k ... 1 0",
            _wrong_way_home,
        ),
        Mistake("the walk does not come home: after the last frame, go back to 0", _one_way),
        Mistake("the walk turns at frame 1; go to the last frame", _first_turn),
        Mistake(
            "the last frame is visited twice, and a step from it to itself blurs: the frames are "
            "0 1 ... k ... 1 0",
            _stands_at_the_turn,
        ),
        Mistake(
            "the steps are multiplied in the wrong order: each new one stands at the right, as in "
            "labels @ A01 @ A12",
            _turned_product,
        ),
        Mistake("that is the sum over cells and clips; take the mean", _summed),
        Mistake("the similarities are divided by the temperature, not multiplied", _multiplied),
        Mistake("divide the similarities by the temperature before the softmax", _no_temperature),
        Mistake("all entries are in the mean; only the diagonal says who came home", _all_entries),
        Mistake("that is the mean probability; the loss is -log of it, cell by cell", _probability),
        Mistake(
            "the sign is missing: the loss is -log p, which is never negative", _without_the_sign
        ),
    ),
)


# -- gradients --


def gradient_norms(nodes: torch.Tensor, temperature: float) -> torch.Tensor:
    """How strongly the loss of the walk pulls at each frame's features.

    Args:
        nodes: unit features of every cell, ``(B, T, C, n)``.
        temperature: τ.

    Returns:
        ``(T,)``: the norm of the loss's gradient with respect to each frame's nodes.
    """
    return _norms(_gradient(nodes, temperature, _step))


def _gradient(nodes, temperature, step):
    nodes = nodes.detach().clone().requires_grad_()
    loss = _loss_of(_return_matrix(nodes, temperature, step))
    return torch.autograd.grad(loss, nodes)[0]


def _norms(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.transpose(0, 1).flatten(1).norm(dim=1)


def _only(kept):
    """The norms if only the steps of a kind pass gradient: ``kept(number, count)``."""

    def norms(nodes, temperature):
        count = 2 * (nodes.shape[1] - 1)
        numbers = iter(range(count))

        def step(reference, target, temperature):
            affinity = _step(reference, target, temperature)
            return affinity if kept(next(numbers), count) else affinity.detach()

        return _norms(_gradient(nodes, temperature, step))

    return norms


gradient_at_frames = Check(
    name="gradient_at_frames",
    solution=gradient_norms,
    cases=_walk_cases,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "the way out passes no gradient: it was detached, or made under no_grad",
            _only(lambda number, count: number >= count // 2),
        ),
        Mistake(
            "the way home passes no gradient: it was detached, or made under no_grad",
            _only(lambda number, count: number < count // 2),
        ),
        Mistake(
            "only the last step passes gradient: the labels were detached between the steps",
            _only(lambda number, count: number == count - 1),
        ),
        Mistake(
            "those are squared norms: take the root",
            lambda nodes, temperature: gradient_norms(nodes, temperature).square(),
        ),
        Mistake(
            "those are means of a norm for each clip; one norm goes over clips, channels and cells",
            lambda nodes, temperature: (
                _gradient(nodes, temperature, _step).flatten(2).norm(dim=2).mean(dim=0)
            ),
        ),
        Mistake(
            "those are sums of absolute values; the norm squares, adds up and takes the root",
            lambda nodes, temperature: _gradient(nodes, temperature, _step).abs().sum((0, 2, 3)),
        ),
        Mistake(
            "those are mean absolute values; the norm is the root of the sum of squares",
            lambda nodes, temperature: _gradient(nodes, temperature, _step).abs().mean((0, 2, 3)),
        ),
        Mistake(
            "those are the norms of the features themselves; differentiate the loss",
            lambda nodes, temperature: _norms(nodes),
        ),
    ),
)
