"""The palindrome walk as a method to train: contrastive random walks on patches of video.

    frames -> overlapping patches -> encoder Φ -> mean, projection -> palindrome walk -> loss

A separate objective beside CorrFlow, for the same encoders and the same propagation (Jabri, Owens &
Efros 2020, §2 and released code). Patches are cut out and encoded one by one, each with a crop of
its own. Were they read from a feature map of the whole frame, their cells could tell where they are
by the distance to its borders, and a walker that knows its place comes home without looking at
anything (lesson 06). The map of the whole frame is what propagation reads afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from corrlib.affinity import normalise
from corrlib.bottleneck import Bottleneck
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.localisation import crop
from corrlib.palindrome import palindrome_loss


@dataclass(frozen=True)
class CRWConfig:
    """What the method is made of. The defaults are the paper's, but for the jitter of colours.

    Attributes:
        encoder: a name in :data:`corrlib.encoders.ENCODERS`.
        temperature: τ of the walk.
        edge_dropout: share of the edges that are blocked.
        patch: pixels, the side of the patches that are the nodes of the walk.
        spacing: pixels from one patch to the next.
        area: least and largest share of a patch that is seen, stretched to its size again.
        aspect: least and largest width to height of what is seen.
        projection: channels of a node; the projection is for training only.
        dropout, jitter: of the colours that clips are seen with (:mod:`corrlib.bottleneck`).
    """

    encoder: str = "resnet18-stride8"
    temperature: float = 0.07
    edge_dropout: float = 0.1
    patch: int = 64
    spacing: int = 32
    area: tuple[float, float] = (0.7, 0.9)
    aspect: tuple[float, float] = (0.7, 1.3)
    projection: int = 128
    dropout: float = 0.0
    jitter: float = 0.5

    @classmethod
    def of(cls, fields: dict) -> CRWConfig:
        """From what ``dataclasses.asdict`` made of one."""
        pairs = {name: tuple(fields[name]) for name in ("area", "aspect")}
        return cls(**fields | pairs)


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
        self.projection = nn.Linear(self.encoder.channels, config.projection)
        nn.init.normal_(
            self.projection.weight, std=self.encoder.channels**-0.5, generator=generator
        )
        nn.init.zeros_(self.projection.bias)

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

    def nodes(
        self,
        frames: torch.Tensor,
        generator: torch.Generator | None = None,
        precision: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Frames ``(B, T, 3, H, W)`` in [0, 1] to the nodes of their patches, ``(B, T, D, h, w)``.

        Each patch is encoded by itself, in training a random crop of it.
        """
        patches = cut_patches(frames, self.config.patch, self.config.spacing)
        grid = patches.shape[:4]  # clips, frames, rows, columns
        patches = patches.flatten(0, 3)
        if self.training:
            boxes = random_boxes(grid, self.config, generator).flatten(0, 3)
            boxes = boxes.to(patches, non_blocking=True)
            patches = crop(patches, boxes, patches.shape[2:])
        pooled = self.encoder.encode(patches, precision).mean(dim=(2, 3))
        return self.projection(pooled).unflatten(0, grid).permute(0, 1, 4, 2, 3)

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
        _, length, _, height, width = clips.shape
        patch, spacing = self.config.patch, self.config.spacing
        if (
            length < 2
            or min(height, width) < patch
            or height == width == patch
            or (height - patch) % spacing
            or (width - patch) % spacing
        ):
            raise InputError(
                f"expected clips of at least 2 frames with sides of {patch} and a multiple of "
                f"{spacing} pixels, more than one patch, got {length} frame(s) of {height}x{width}"
            )
        nodes = self.nodes(self.bottleneck(clips, generator), generator, precision)
        config = self.config
        return WalkLosses(
            palindrome_loss(nodes, config.temperature, config.edge_dropout, generator)
        )


def cut_patches(frames: torch.Tensor, size: int, spacing: int) -> torch.Tensor:
    """Overlapping patches ``(B, T, h, w, 3, size, size)`` of frames ``(B, T, 3, H, W)``."""
    patches = frames.unfold(3, size, spacing).unfold(4, size, spacing)
    return patches.permute(0, 1, 3, 4, 2, 5, 6)


def random_boxes(
    shape: tuple[int, ...], config: CRWConfig, generator: torch.Generator | None
) -> torch.Tensor:
    """Boxes ``(*shape, 4)`` within patches, x0, y0, x1, y1 in pixels, of random size and place."""
    draws = torch.rand(*shape, 4, generator=generator)
    (least, most), (narrow, wide) = config.area, config.aspect
    area = least + (most - least) * draws[..., 0]
    aspect = narrow + (wide - narrow) * draws[..., 1]
    sides = torch.stack([area * aspect, area / aspect], dim=-1).sqrt().clamp(max=1)
    corner = draws[..., 2:] * (1 - sides)
    return config.patch * torch.cat([corner, corner + sides], dim=-1) - 0.5
