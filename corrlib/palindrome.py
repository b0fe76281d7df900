"""The palindrome walk: go along the clip and back, and be where you were.

The third objective of the course, and the only one that copies no colour. A walker on the cells of
a clip steps from frame to frame with the affinity's probabilities; over frames 0 1 ... k ... 1 0
it should return to its own cell, whichever way it took (Jabri, Owens & Efros 2020, §2). Edge
dropout blocks random ways, so that walkers learn to take others through the same object.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib.affinity import normalise


def transition(
    reference: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
    edge_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Probability of stepping from each target cell to each reference cell.

    The full affinity ``(B, n_ref, n_tar)`` of unit features ``(B, C, h, w)``, of which every edge
    is dropped with probability ``edge_dropout`` before the softmax. Random decisions come from a
    CPU generator.
    """
    scores = reference.flatten(2).transpose(1, 2) @ (target.flatten(2) / temperature)
    if edge_dropout:
        dropped = torch.rand(scores.shape, generator=generator) < edge_dropout
        # A large negative number, not -inf: a target that lost all its edges stays finite.
        scores = scores.masked_fill(dropped.to(scores.device, non_blocking=True), -1e4)
    return scores.softmax(dim=1)


def palindrome_loss(
    features: torch.Tensor,
    temperature: float,
    edge_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """-log of the probability of coming home, mean over cells and over all walks of the clip.

    Args:
        features: ``(B, T, C, h, w)``, T at least 2; normalised here. The walks turn at frame 1,
            2, ... T - 1; what is compared is ``h·w`` cells with ``h·w`` cells, so pool fine maps.
        temperature: τ (0.05-0.07 in the paper).
        edge_dropout: share of edges that are blocked (0.1 in the paper).
    """
    nodes = normalise(features)
    length, cells = nodes.shape[1], nodes.shape[3] * nodes.shape[4]
    home = torch.arange(cells, device=nodes.device).expand(nodes.shape[0], cells)
    loss = features.new_zeros(())
    outward = homeward = None  # to frame 0 from the turning point, and back to it
    for t in range(1, length):
        there = transition(nodes[:, t - 1], nodes[:, t], temperature, edge_dropout, generator)
        back = transition(nodes[:, t], nodes[:, t - 1], temperature, edge_dropout, generator)
        outward = there if outward is None else outward @ there
        homeward = back if homeward is None else back @ homeward
        returned = outward @ homeward  # (B, n, n): frame 0 -> frame t -> frame 0
        loss = loss + F.nll_loss((returned + 1e-8).log(), home)
    return loss / (length - 1)
