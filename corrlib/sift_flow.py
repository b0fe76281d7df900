"""Compact SIFT flow: dense SIFT descriptors, matched with smoothness.

After Liu, Yuen and Torralba, "SIFT Flow" (TPAMI 2011). For target cells p with displacements
w = (u, v) it seeks the minimum of ::

    Σ_p |s_target(p) - s_source(p + w(p))|₁ / 255  +  Σ_p γ (|u| + |v|)
    + Σ_{p,q neighbours} min(α |u(p) - u(q)|, d) + min(α |v(p) - v(q)|, d)

as there: from coarse to fine, with a window of displacements per level, by min-sum belief
propagation whose messages treat u and v one after the other. Compact means: frames are reduced to
a short side of 256 pixels, every level passes few messages, all cells at once, and the parameters
are the ones below. It is not the authors' program and its figures are not theirs.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from corrlib.optical_flow import FlowEstimator

SHORT_SIDE = 256  # pixels at which frames are matched
CELL = 4  # pixels per side of the 4x4 cells of a descriptor
ORIENTATIONS = 8
LEVELS = 4  # the coarsest has cells of 8 pixels
RADIUS = (1, 2, 2, 5)  # displacements tried per axis, from fine to coarse, in the level's cells
ITERATIONS = 8  # of message passing, per level
ALPHA, TRUNCATION, GAMMA = 0.5, 4.0, 0.005  # α, d, γ; displacements in the level's cells
OUTSIDE = 16.0  # the data cost of leaving the frame, about that of a poor match


def sift_flow() -> FlowEstimator:
    """Compact SIFT flow as an estimator; its flow is sub-pixel only through resizing."""

    def describe(frame: torch.Tensor):
        size = tuple(frame.shape[1:])
        scale = min(1.0, SHORT_SIDE / min(size))
        height, width = (max(1, round(side * scale)) for side in size)
        rgb = frame.permute(1, 2, 0).contiguous().numpy()
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if (height, width) != size:
            grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        return pyramid(dense_sift(torch.from_numpy(grey))), size

    def between(target, source) -> torch.Tensor:
        (levels, size), (before, _) = target, source
        flow = match(levels, before)
        if tuple(flow.shape[1:]) == size:
            return flow
        scale = torch.tensor([size[1] / flow.shape[2], size[0] / flow.shape[1]]).view(2, 1, 1)
        return F.interpolate(flow[None], size, mode="bilinear")[0] * scale

    return FlowEstimator("sift-flow", describe, between)


def dense_sift(grey: torch.Tensor) -> torch.Tensor:
    """The SIFT descriptor around every pixel.

    Args:
        grey: ``(H, W)`` uint8.

    Returns:
        ``(H, W, 128)`` uint8: 4x4 cells of :data:`CELL` pixels, 8 orientations each. As published
        (Lowe 2004, §6): length 1, values above 0.2 cut, length 1 again, times 512; no dominant
        orientation is sought. Zeros where nothing changes.
    """
    picture = grey.float()[None, None]
    picture = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    dx = (picture[..., 1:-1, 2:] - picture[..., 1:-1, :-2])[0, 0] / 2
    dy = (picture[..., 2:, 1:-1] - picture[..., :-2, 1:-1])[0, 0] / 2
    magnitude = torch.hypot(dx, dy)
    turns = torch.atan2(dy, dx) * (ORIENTATIONS / (2 * torch.pi))
    lower = turns.floor()
    share = turns - lower
    bins = torch.zeros(ORIENTATIONS, *grey.shape)
    bins.scatter_add_(0, (lower.long() % ORIENTATIONS)[None], (magnitude * (1 - share))[None])
    bins.scatter_add_(0, ((lower.long() + 1) % ORIENTATIONS)[None], (magnitude * share)[None])

    # A pixel's vote is shared out bilinearly among the cells around it: a triangle filter.
    ramp = torch.arange(1.0, CELL + 1)
    triangle = torch.cat([ramp, ramp[:-1].flip(0)]) / CELL
    kernel = triangle.view(1, 1, 1, -1).expand(ORIENTATIONS, 1, 1, -1)
    reach = CELL - 1
    pooled = F.conv2d(bins[None], kernel, padding=(0, reach), groups=ORIENTATIONS)
    pooled = F.conv2d(pooled, kernel.transpose(2, 3), padding=(reach, 0), groups=ORIENTATIONS)

    # Cell centres at -6, -2, 2 and 6 pixels: 1.5 cells to either side.
    margin = 3 * CELL // 2
    height, width = grey.shape
    padded = F.pad(pooled, (margin,) * 4)
    parts = [
        padded[0, :, CELL * i : CELL * i + height, CELL * j : CELL * j + width]
        for i in range(4)
        for j in range(4)
    ]
    descriptor = F.normalize(torch.cat(parts), dim=0)
    descriptor = F.normalize(descriptor.clamp_max(0.2), dim=0)
    return (512 * descriptor).clamp_max(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def pyramid(descriptors: torch.Tensor) -> list[torch.Tensor]:
    """``(H, W, 128)`` uint8 and its 2x2 means, again and again, from fine to coarse."""
    levels = [descriptors]
    for _ in range(LEVELS - 1):
        image = levels[-1].permute(2, 0, 1).float()
        image = F.pad(image, (0, image.shape[2] % 2, 0, image.shape[1] % 2), mode="replicate")
        image = F.avg_pool2d(image, 2).round().to(torch.uint8)
        levels.append(image.permute(1, 2, 0).contiguous())
    return levels


def match(target: list[torch.Tensor], source: list[torch.Tensor]) -> torch.Tensor:
    """The flow ``(2, H, W)`` float32, whole cells of the finest level, from target to source.

    Args:
        target, source: from :func:`pyramid`, of frames of one size.
    """
    centre = torch.zeros(2, *target[-1].shape[:2], dtype=torch.long)
    for level in reversed(range(len(target))):
        height, width = target[level].shape[:2]
        if centre.shape[1:] != (height, width):  # each cell's four heirs start from its best
            centre = 2 * centre.repeat_interleave(2, 1).repeat_interleave(2, 2)
            centre = centre[:, :height, :width].contiguous()
        costs = data_costs(target[level], source[level], centre, RADIUS[level])
        beliefs = belief_propagation(costs, centre, ALPHA, TRUNCATION, ITERATIONS)
        best = beliefs.flatten(0, 1).argmin(dim=0)
        side = 2 * RADIUS[level] + 1
        centre = centre + torch.stack([best % side, best // side]) - RADIUS[level]
    return centre.float()


def data_costs(
    target: torch.Tensor, source: torch.Tensor, centre: torch.Tensor, radius: int
) -> torch.Tensor:
    """What each displacement costs each cell, smoothness aside.

    Args:
        target, source: descriptors ``(h, w, 128)`` uint8.
        centre: ``(2, h, w)`` int64, the (u, v) about which displacements are tried.
        radius: how far from it, per axis.

    Returns:
        ``(2·radius + 1, 2·radius + 1, h, w)`` float32, v first.
    """
    height, width, channels = target.shape
    side = 2 * radius + 1
    costs = np.empty((side, side, height, width), np.float32)
    wanted = target.numpy().reshape(-1, channels)
    offered = source.numpy().reshape(-1, channels)
    row = torch.arange(height)[:, None] + centre[1]
    column = torch.arange(width) + centre[0]
    for i in range(side):
        y = row + (i - radius)
        for j in range(side):
            x = column + (j - radius)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            index = torch.where(inside, y * width + x, 0).flatten().numpy()
            difference = cv2.absdiff(wanted, offered[index])
            total = cv2.reduce(difference, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32F)
            costs[i, j] = total.reshape(height, width) / 255
            costs[i, j][~inside.numpy()] = OUTSIDE
    steps = torch.arange(side) - radius
    length = (centre[0] + steps.view(1, -1, 1, 1)).abs() + (
        centre[1] + steps.view(-1, 1, 1, 1)
    ).abs()
    return torch.from_numpy(costs) + GAMMA * length


def belief_propagation(
    costs: torch.Tensor, centre: torch.Tensor, alpha: float, truncation: float, iterations: int
) -> torch.Tensor:
    """Min-sum loopy belief propagation on the grid of cells.

    Exact on a chain after as many iterations as it has links; an approximation on a grid.

    Args:
        costs: ``(n, n, h, w)``, of the displacements ``centre + (-r..r)`` of each cell, v first.
        centre: ``(2, h, w)`` int64 (u, v).
        alpha, truncation: neighbours pay ``min(alpha · difference, truncation)`` per axis.

    Returns:
        beliefs ``(n, n, h, w)``: smaller is better.
    """
    side = len(costs)
    label = torch.arange(side)
    towards = []  # per direction: cells that send, cells that receive, the price per axis
    every, first, last = slice(None), slice(None, -1), slice(1, None)
    for send, receive in (
        ((..., every, first), (..., every, last)),  # to the right
        ((..., every, last), (..., every, first)),  # to the left
        ((..., first, every), (..., last, every)),  # down
        ((..., last, every), (..., first, every)),  # up
    ):
        shift = (centre[send] - centre[receive]).float()  # (2, ...)
        gap = (label[:, None] - label).view(1, side, side, 1, 1) + shift[:, None, None]
        towards.append((send, receive, (alpha * gap.abs()).clamp_max(truncation)))
    messages = [torch.zeros_like(costs) for _ in towards]
    for _ in range(iterations):
        beliefs = costs + sum(messages)
        fresh = []
        for (send, receive, prices), back in zip(
            towards, (messages[i] for i in (1, 0, 3, 2)), strict=True
        ):
            # What the receiver itself said is left out: it came against this direction.
            told = beliefs[send] - back[send]
            told = _cheapest(told, prices[0], axis=1)
            told = _cheapest(told, prices[1], axis=0)
            message = torch.zeros_like(costs)
            message[receive] = told - told.amin(dim=(0, 1))
            fresh.append(message)
        messages = fresh
    return costs + sum(messages)


def _cheapest(told: torch.Tensor, prices: torch.Tensor, axis: int) -> torch.Tensor:
    """Minimum over one axis' sent labels a of ``told[a] + prices[a, b]``, for every label b."""
    best = None
    for a in range(len(prices)):
        price = prices[a].unsqueeze(1 - axis)  # b on its axis, the other one broadcast
        offer = told.narrow(axis, a, 1) + price
        best = offer if best is None else torch.minimum(best, offer)
    return best
