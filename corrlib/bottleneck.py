"""The information bottleneck g: hide part of the colour, so that features cannot be the colour.

The loss asks to rebuild colours. An encoder that saw all of them could pass them through and match
colour with colour; one that sees a random part has to recognise what it looks at (Lai & Xie 2019,
§3.1). Nothing is hidden at test time.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from corrlib.errors import InputError

NEUTRAL = 0.5  # channels are deviations from mid-grey, so a dropped one is flat grey


class Bottleneck(nn.Module):
    """Jitter, then channel dropout, on clips; the identity when the module is in eval mode.

    Args:
        dropout: probability that a clip loses one or two channels (0.7 in CorrFlow).
        jitter: probability that a clip's colours are jittered (0.1 in CorrFlow).
    """

    def __init__(self, dropout: float = 0.7, jitter: float = 0.1):
        super().__init__()
        for name, p in (("dropout", dropout), ("jitter", jitter)):
            if not 0 <= p <= 1:
                raise InputError(f"expected a {name} probability between 0 and 1, got {p}")
        self.dropout = dropout
        self.jitter = jitter

    def forward(self, clips: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Clips ``(B, T, 3, H, W)`` in [0, 1] to the same shape.

        Rescaled channels may leave [0, 1]. The generator lives on the CPU; random decisions are
        one per clip, so that all its frames are seen through the same hole.
        """
        if not self.training:
            return clips
        return channel_dropout(
            colour_jitter(clips, self.jitter, generator), self.dropout, generator
        )


def channel_dropout(
    clips: torch.Tensor, p: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """With probability ``p`` set one or two (equally likely) of a clip's three channels to grey.

    The k dropped channels are the same in every frame of a clip, and the others' deviations from
    mid-grey are scaled by 3/(3 - k), which keeps the expected input what it was.

    Args:
        clips: ``(B, T, 3, H, W)``, values in [0, 1].
    """
    if clips.dim() != 5 or clips.shape[2] != 3:
        raise InputError(f"expected clips (B, T, 3, H, W), got shape {tuple(clips.shape)}")
    batch = clips.shape[0]
    dropped = torch.randint(1, 3, (batch, 1), generator=generator)
    dropped = dropped * (torch.rand(batch, 1, generator=generator) < p)  # 0, 1 or 2 channels
    rank = torch.rand(batch, 3, generator=generator).argsort(dim=1)  # a random order of channels
    scale = (rank >= dropped) * 3 / (3 - dropped)
    scale = scale.to(clips, non_blocking=True)[:, None, :, None, None]  # (B, 1, 3, 1, 1)
    return NEUTRAL + (clips - NEUTRAL) * scale


def colour_jitter(
    clips: torch.Tensor,
    p: float,
    generator: torch.Generator | None = None,
    strength: float = 0.1,
) -> torch.Tensor:
    """With probability ``p`` change a clip's brightness, contrast, saturation and hue.

    Factors are uniform in ``1 ± strength``; the hue turns by up to ``± strength`` of the half
    circle. All frames of a clip change alike.

    Args:
        clips: ``(B, T, 3, H, W)``, values in [0, 1], and so is the result.
    """
    chosen = torch.rand(clips.shape[0], generator=generator) < p
    draws = torch.empty(clips.shape[0], 4).uniform_(-strength, strength, generator=generator)
    if not chosen.any():
        return clips
    jittered = clips.clone()
    for index in chosen.nonzero().flatten().tolist():
        brightness, contrast, saturation, hue = draws[index].tolist()
        clip = transforms.adjust_brightness(clips[index], 1 + brightness)
        clip = transforms.adjust_contrast(clip, 1 + contrast)
        clip = transforms.adjust_saturation(clip, 1 + saturation)
        jittered[index] = transforms.adjust_hue(clip, hue / 2)
    return jittered
