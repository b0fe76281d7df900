"""The palindrome walk as a method to train: contrastive random walks on cells of a feature map.

    frames -> augmentation -> encoder Φ -> pooled unit features -> palindrome walk -> loss

A separate objective beside CorrFlow, for the same encoders and the same propagation. The paper
walks on 49 patches that are encoded one by one; here the nodes are cells of one feature map, which
is its test-time view and a few times faster, as every frame is encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from corrlib.affinity import normalise
from corrlib.bottleneck import Bottleneck
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.palindrome import palindrome_loss


@dataclass(frozen=True)
class CRWConfig:
    """What the method is made of.

    Attributes:
        encoder: a name in :data:`corrlib.encoders.ENCODERS`.
        temperature: τ of the walk.
        edge_dropout: share of the edges that are blocked.
        nodes: pixels between the nodes of the walk; features are averaged to it.
        dropout, jitter: of the colours that frames are seen with (:mod:`corrlib.bottleneck`).
    """

    encoder: str = "resnet18-stride8-framenorm"
    temperature: float = 0.07
    edge_dropout: float = 0.1
    nodes: int = 16
    dropout: float = 0.0
    jitter: float = 0.5

    @classmethod
    def of(cls, fields: dict) -> CRWConfig:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**fields)


class WalkLosses(NamedTuple):
    """Scalars of one batch; there is only one."""

    total: torch.Tensor


class CRW(nn.Module):
    """The model; ``loss`` is the method."""

    Config, Losses = CRWConfig, WalkLosses

    def __init__(self, config: CRWConfig, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.bottleneck = Bottleneck(config.dropout, config.jitter)
        self.encoder = make_encoder(config.encoder, generator)

    @property
    def stride(self) -> int:
        return self.encoder.stride

    def prepare(self, frames: torch.Tensor, generator: torch.Generator) -> None:
        """Nothing has to be learnt from the data before training."""

    def features(
        self, frames: torch.Tensor, precision: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Frames ``(B, 3, H, W)`` in [0, 1] to float32 unit features ``(B, C, h, w)``."""
        return normalise(self.encoder.encode(frames, precision))

    def loss(
        self,
        clips: torch.Tensor,
        generator: torch.Generator | None = None,
        precision: torch.dtype = torch.float32,
        share: float = 0.0,
    ) -> WalkLosses:
        """Walk along the clips ``(B, T, 3, H, W)`` in [0, 1] and back.

        ``share`` is there for methods that follow a schedule; this one does not.
        """
        batch, length, _, height, width = clips.shape
        nodes = self.config.nodes
        if length < 2 or height % nodes or width % nodes:
            raise InputError(
                f"expected clips of at least 2 frames with sides that are multiples of {nodes}, "
                f"got {length} frame(s) of {height}x{width}"
            )
        seen = self.bottleneck(clips, generator)
        features = self.features(seen.flatten(0, 1), precision)
        pooled = F.avg_pool2d(features, nodes // self.stride).unflatten(0, (batch, length))
        config = self.config
        return WalkLosses(
            palindrome_loss(pooled, config.temperature, config.edge_dropout, generator)
        )
