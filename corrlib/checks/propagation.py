"""Exercises of notebook 11: labels carried one step, and a joint read off its heat map."""

from __future__ import annotations

import torch

from corrlib.affinity import normalise
from corrlib.checks import Check, Mistake
from corrlib.geometry import grid_to_points


def carry(
    target: torch.Tensor,
    references: torch.Tensor,
    labels: torch.Tensor,
    k: int,
    temperature: float,
) -> torch.Tensor:
    """Copy labels to a frame from the k most similar cells of all references together.

    Args:
        target: features ``(C, n)``.
        references: features ``(R, C, n)``.
        labels: of the references, ``(R, L, n)``.
        k: cells that share the weight.
        temperature: τ of the softmax over their similarities.

    Returns:
        ``(L, n)``.
    """
    scores = _cells(references) @ target / temperature  # (R·n, n)
    best, chosen = scores.topk(k, dim=0)  # (k, n)
    return _copy(best.softmax(dim=0), chosen, _cells(labels))


def locate(maps: torch.Tensor, stride: int) -> torch.Tensor:
    """Positions of joints: the mean of the three largest cells, weighted by their values.

    Args:
        maps: a heat map per joint, ``(K, h, w)``, no value below 0.
        stride: pixels per cell.

    Returns:
        ``(K, 2)``, x and y in pixels.
    """
    return _mean_of_cells(maps, 3, lambda grid: grid_to_points(grid, stride))


def _cells(maps: torch.Tensor) -> torch.Tensor:
    """``(R, C, n)`` to ``(R·n, C)``, a row per cell."""
    return maps.transpose(1, 2).flatten(0, 1)


def _copy(weights: torch.Tensor, chosen: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Weights and numbers of cells ``(k, n)``, labels ``(R·n, L)``, to ``(L, n)``."""
    return torch.einsum("kn,knl->ln", weights, cells[chosen])


def _mean_of_cells(maps, count, place, weighted=True):
    width = maps.shape[2]
    values, cells = maps.flatten(1).topk(count, dim=1)  # (K, count)
    weights = values if weighted else torch.ones_like(values)
    weights = weights / weights.sum(dim=1, keepdim=True)
    grid = torch.stack([cells % width, cells // width], dim=2).float()  # (K, count, 2)
    return place((grid * weights[:, :, None]).sum(dim=1))


def _carry_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for references, channels, cells, maps, k in ((3, 5, 8, 2, 4), (2, 4, 11, 3, 3)):
        target = torch.randn(1, channels, cells, 1, generator=generator)
        memory = torch.randn(references, channels, cells, 1, generator=generator)
        labels = torch.rand(references, maps, cells, generator=generator)
        cases.append((normalise(target)[0, ..., 0], normalise(memory)[..., 0], labels, k, 0.2))
    return cases


def _map_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for joints, height, width, stride in ((2, 5, 8, 8), (3, 7, 4, 4)):
        cases.append((torch.rand(joints, height, width, generator=generator), stride))
    return cases


def _per_reference(target, references, labels, k, temperature):
    each = [
        carry(target, reference[None], label[None], k, temperature)
        for reference, label in zip(references, labels, strict=True)
    ]
    return torch.stack(each).mean(dim=0)


def _without_rescaling(target, references, labels, k, temperature):
    shares = (_cells(references) @ target / temperature).softmax(dim=0)
    return _copy(*shares.topk(k, dim=0), _cells(labels))


def _all_cells(target, references, labels, k, temperature):
    return carry(target, references, labels, references.shape[0] * references.shape[2], temperature)


def _multiplied(target, references, labels, k, temperature):
    return carry(target, references, labels, k, 1 / temperature)


def _no_temperature(target, references, labels, k, temperature):
    return carry(target, references, labels, k, 1.0)


def _over_targets(target, references, labels, k, temperature):
    best, chosen = (_cells(references) @ target / temperature).topk(k, dim=0)
    return _copy(best.softmax(dim=1), chosen, _cells(labels))


def _mixed_labels(target, references, labels, k, temperature):
    best, chosen = (_cells(references) @ target / temperature).topk(k, dim=0)
    return _copy(best.softmax(dim=0), chosen, labels.reshape(labels.shape[1], -1).T)


def _mixed_rows(target, references, labels, k, temperature):
    best, chosen = (_cells(references) @ target / temperature).topk(k, dim=0)
    return _copy(best.softmax(dim=0), chosen, labels.reshape(-1, labels.shape[1]))


def _equal_votes(target, references, labels, k, temperature):
    best, chosen = (_cells(references) @ target / temperature).topk(k, dim=0)
    return _copy(torch.full_like(best, 1 / k), chosen, _cells(labels))


def _last_alone(target, references, labels, k, temperature):
    return carry(target, references[-1:], labels[-1:], k, temperature)


def _nearest(target, references, labels, k, temperature):
    return carry(target, references, labels, 1, temperature)


def _rows_first(maps, stride):
    return locate(maps, stride).flip(1)


def _corner_of_cell(maps, stride):
    return _mean_of_cells(maps, 3, lambda grid: grid * stride)


def _half_a_stride(maps, stride):
    return _mean_of_cells(maps, 3, lambda grid: grid * stride + stride / 2)


def _in_cells(maps, stride):
    return _mean_of_cells(maps, 3, lambda grid: grid)


def _maximum(maps, stride):
    return _mean_of_cells(maps, 1, lambda grid: grid_to_points(grid, stride))


def _softmax_of_values(maps, stride):
    values, cells = maps.flatten(1).topk(3, dim=1)
    weights = values.softmax(dim=1)[:, :, None]
    grid = torch.stack([cells % maps.shape[2], cells // maps.shape[2]], dim=2).float()
    return grid_to_points((grid * weights).sum(dim=1), stride)


def _plain_mean(maps, stride):
    return _mean_of_cells(maps, 3, lambda grid: grid_to_points(grid, stride), weighted=False)


def _mean_of_all(maps, stride):
    count = maps.shape[1] * maps.shape[2]
    return _mean_of_cells(maps, count, lambda grid: grid_to_points(grid, stride))


def _by_height(maps, stride):
    return locate(maps.view(maps.shape[0], maps.shape[2], maps.shape[1]), stride)


carry_labels = Check(
    name="carry_labels",
    solution=carry,
    cases=_carry_cases,
    mistakes=(
        Mistake(
            "that takes k cells in every reference and averages; here the cells of all references "
            "compete for the same k places, so flatten them before topk",
            _per_reference,
        ),
        Mistake(
            "the softmax ran over all cells before the top k were taken, so the weights that are "
            "left sum to less than 1: topk first, softmax over those k",
            _without_rescaling,
        ),
        Mistake("all cells share the weight; keep the k most similar only", _all_cells),
        Mistake("the similarities are divided by the temperature, not multiplied", _multiplied),
        Mistake("divide the similarities by the temperature before the softmax", _no_temperature),
        Mistake(
            "the softmax runs over the targets; it belongs over the k chosen cells of each target",
            _over_targets,
        ),
        Mistake(
            "reshape of (R, L, n) mixes maps and frames: bring L to the end first, "
            "labels.transpose(1, 2).flatten(0, 1)",
            _mixed_labels,
        ),
        Mistake(
            "reshape(-1, L) of (R, L, n) mixes maps and cells: bring L to the end first, "
            "labels.transpose(1, 2).flatten(0, 1)",
            _mixed_rows,
        ),
        Mistake(
            "the k cells vote alike; a softmax over their similarities weighs them", _equal_votes
        ),
        Mistake("only the last reference was searched; all R of them compete", _last_alone),
        Mistake("only the single best cell is copied; the best k share the weight", _nearest),
    ),
)

read_joint = Check(
    name="read_joint",
    solution=locate,
    cases=_map_cases,
    tolerance=1e-3,
    mistakes=(
        Mistake("x and y are swapped: points are (x, y), column before row", _rows_first),
        Mistake(
            "that is the corner of the cell; its centre lies (s - 1)/2 pixels further",
            _corner_of_cell,
        ),
        Mistake(
            "half a pixel too far: the s pixels of cell 0 are 0 to s - 1, their middle (s - 1)/2",
            _half_a_stride,
        ),
        Mistake("the position is in cells; pixels are asked for: s·u + (s - 1)/2", _in_cells),
        Mistake("that is the largest cell alone; take the mean of the three largest", _maximum),
        Mistake(
            "the values are the weights as they are, divided by their sum; a softmax makes them "
            "nearly equal",
            _softmax_of_values,
        ),
        Mistake("weight the three cells by their values", _plain_mean),
        Mistake(
            "that is the mean over the whole map, which anything far away pulls at; take the three "
            "largest cells",
            _mean_of_all,
        ),
        Mistake(
            "cell number i of a row-major map is in row i // w and column i % w; w is the last "
            "size of the map",
            _by_height,
        ),
    ),
)
