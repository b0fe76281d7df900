"""Colour auto-encoder: codes of colour that can be copied and turned back into Lab.

What is copied through an affinity has to be as coarse as the features, but a mean colour of 8x8
pixels keeps no edges. The codes of an auto-encoder do, so the copy can be compared with the target
pixel by pixel. It is trained first, to reconstruct single images, and fixed from then on (Li et
al. 2019, §3.1 and released code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from corrlib.colour import lab_to_rgb, rgb_to_lab
from corrlib.errors import InputError

LIGHTNESS_SCALE = 50.0
AB_SCALE = 128.0
AB_WEIGHT = 10.0


@dataclass(frozen=True)
class AutoencoderConfig:
    """What the method is made of. The default is the published size.

    Attributes:
        width: channels at full resolution; codes have four times as many.
    """

    width: int = 64

    @classmethod
    def of(cls, fields: dict) -> AutoencoderConfig:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**fields)


class AutoencoderLosses(NamedTuple):
    """Scalars of one batch; ``total`` is what is minimised.

    Attributes:
        total: :func:`lab_l1`, mean over the frames.
        lightness, a, b: mean absolute errors in Lab units.
    """

    total: torch.Tensor
    lightness: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor


def scaled_lab(frames: torch.Tensor) -> torch.Tensor:
    """sRGB ``(..., 3, H, W)`` in [0, 1] to Lab within [-1, 1]: L/50 - 1, a/128, b/128."""
    lightness, a, b = rgb_to_lab(frames).unbind(-3)
    return torch.stack([lightness / LIGHTNESS_SCALE - 1, a / AB_SCALE, b / AB_SCALE], dim=-3)


def scaled_lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Lab as :func:`scaled_lab` makes it, ``(..., 3, H, W)``, to sRGB in [0, 1]."""
    lightness, a, b = lab.unbind(-3)
    return lab_to_rgb(
        torch.stack([(lightness + 1) * LIGHTNESS_SCALE, a * AB_SCALE, b * AB_SCALE], dim=-3)
    )


def lab_l1(estimate: torch.Tensor, lab: torch.Tensor) -> torch.Tensor:
    """L1 on L, plus 10 times that on a and on b: the authors' colour loss.

    Args:
        estimate, lab: scaled Lab ``(B, 3, H, W)``.

    Returns:
        ``(B,)``: means over each image.
    """
    return _weighted(_channel_errors(estimate, lab))


class ColourAutoencoder(nn.Module):
    """Lab images to codes at 1/8 of their size, and back; ``loss`` is the method.

    The encoder is VGG-like, two 3x3 convolutions at full size, two at a half, one at a quarter,
    each followed by pooling, and a 1x1 convolution; the decoder mirrors it with nearest upsampling
    and ends in tanh. Pooling takes means, so that training can start from them.

    Always in float32: near 1 the steps of bf16 are half a unit of a and b, and a network that was
    trained around them has a colour cast in any other precision.
    """

    Config, Losses = AutoencoderConfig, AutoencoderLosses
    stride = 8

    def __init__(self, config: AutoencoderConfig, generator: torch.Generator):
        super().__init__()
        if config.width < 4:
            raise InputError(f"expected a width of at least 4 channels, got {config.width}")
        self.config = config
        full, half, quarter = config.width, 2 * config.width, 4 * config.width
        self.channels = quarter
        self.encoder = nn.Sequential(
            *_layer(3, full),
            *_layer(full, full),
            nn.AvgPool2d(2),
            *_layer(full, half),
            *_layer(half, half),
            nn.AvgPool2d(2),
            *_layer(half, quarter),
            nn.AvgPool2d(2),
            nn.Conv2d(quarter, quarter, kernel_size=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(quarter, quarter, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            *_layer(quarter, half),
            nn.Upsample(scale_factor=2),
            *_layer(half, half),
            *_layer(half, full),
            nn.Upsample(scale_factor=2),
            *_layer(full, full),
            *_layer(full, 3)[:-1],
            nn.Tanh(),
        )
        _initialise([m for m in self.modules() if isinstance(m, nn.Conv2d)], generator)

    def prepare(self, frames: torch.Tensor, generator: torch.Generator) -> None:
        """Nothing has to be learnt from the data before training."""

    def encode(self, lab: torch.Tensor) -> torch.Tensor:
        """Scaled Lab ``(B, 3, H, W)``, sides multiples of 8, to codes ``(B, 4·width, h, w)``."""
        if lab.dim() != 4 or lab.shape[1] != 3 or lab.shape[2] % 8 or lab.shape[3] % 8:
            raise InputError(
                f"expected Lab images (B, 3, H, W) with sides that are multiples of 8, "
                f"got shape {tuple(lab.shape)}"
            )
        return self.encoder(lab)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes ``(B, 4·width, h, w)`` to scaled Lab ``(B, 3, 8·h, 8·w)``."""
        if codes.dim() != 4 or codes.shape[1] != self.channels:
            raise InputError(
                f"expected codes (B, {self.channels}, h, w), got shape {tuple(codes.shape)}"
            )
        return self.decoder(codes)

    def features(
        self, frames: torch.Tensor, precision: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Frames ``(B, 3, H, W)`` in [0, 1] to codes: what matching by colour alone would match."""
        return self.encode(scaled_lab(frames))

    def loss(
        self,
        clips: torch.Tensor,
        generator: torch.Generator | None = None,
        precision: torch.dtype = torch.float32,
        share: float = 0.0,
    ) -> AutoencoderLosses:
        """Reconstruct every frame of the clips ``(B, T, 3, H, W)`` in [0, 1] by itself.

        ``generator``, ``precision`` and ``share`` are there for methods that have a use for them.
        """
        lab = scaled_lab(clips.flatten(0, 1))
        errors = _channel_errors(self.decode(self.encode(lab)), lab)
        lightness, a, b = errors.mean(dim=0)
        return AutoencoderLosses(
            _weighted(errors).mean(), lightness * LIGHTNESS_SCALE, a * AB_SCALE, b * AB_SCALE
        )


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)


@torch.no_grad()
def _initialise(convolutions: list[nn.Conv2d], generator: torch.Generator) -> None:
    """Random weights, but three channels that pass 1 + Lab on to the end, where 1 is taken off.

    1 + Lab is never negative and pooling takes means, so training starts from 8x8 blocks of their
    mean colour in place of noise.
    """
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(convolution.bias)
    first, *_, last = convolutions
    last.weight.zero_()
    for convolution in convolutions:
        centre = convolution.kernel_size[0] // 2
        convolution.weight[:3] = 0
        convolution.weight[:3, :3, centre, centre] = torch.eye(3)
    first.bias[:3] = 1
    last.bias[:] = -1


def _channel_errors(estimate: torch.Tensor, lab: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of each channel, ``(B, 3)``."""
    if estimate.shape != lab.shape or lab.dim() != 4 or lab.shape[1] != 3:
        raise InputError(
            f"expected two Lab images (B, 3, H, W) of one shape, got {tuple(estimate.shape)} and "
            f"{tuple(lab.shape)}"
        )
    return (estimate - lab).abs().mean(dim=(2, 3))


def _weighted(errors: torch.Tensor) -> torch.Tensor:
    return errors[:, 0] + AB_WEIGHT * (errors[:, 1] + errors[:, 2])
