"""The loss: colours copied from the reference must be the target's colours.

Nobody labels anything. If an affinity copies the right colours for the right reason, it has found
where each pixel came from (Vondrick et al. 2018; Lai & Xie 2019, §3.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corrlib.errors import InputError

LAB_SCALE = 50.0  # brings L, a and b to a range of about ±1 or 2


def reduce_labels(labels: torch.Tensor, stride: int) -> torch.Tensor:
    """Average label maps ``(B, K, H, W)`` over ``stride x stride`` cells: ``(B, K, h, w)``.

    One-hot labels become the share of each label within the cell, still summing to 1.
    """
    return F.avg_pool2d(labels, stride)


def colour_loss(copied: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log p(true colour), CorrFlow's reconstruction loss.

    Args:
        copied: label distributions ``(B, K, h, w)`` copied through an affinity.
        labels: true centroid of every pixel, ``(B, H, W)`` int64; the copied distributions are
            upsampled to this size bilinearly.
    """
    if copied.shape[0] != labels.shape[0] or labels.dim() != 3:
        raise InputError(
            f"expected labels (B, H, W) for distributions {tuple(copied.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    probability = F.interpolate(copied, labels.shape[1:], mode="bilinear", align_corners=False)
    return -(probability.gather(1, labels.unsqueeze(1)) + 1e-8).log().mean()


def lab_loss(copied: torch.Tensor, lab: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between copied and true Lab colours, both ``(B, 3, h, w)`` in Lab units.

    Regression keeps fine differences that 16 colour words throw away, lightness first of all
    (MAST, Lai et al. 2020, §3.1 uses a Huber loss on Lab).
    """
    return F.smooth_l1_loss(copied / LAB_SCALE, lab / LAB_SCALE, beta=0.1)
