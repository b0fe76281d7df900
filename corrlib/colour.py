"""Colour: sRGB and Lab, and the 16 colour words that a pixel is described with.

CorrFlow does not rebuild colours as numbers but as a choice among 16 centroids of the Lab ``ab``
plane, found by k-means (Lai & Xie 2019, §3.1; Vondrick et al. 2018): a pixel that may be one of
two colours is then two likely words, not one muddy mean.
"""

from __future__ import annotations

import torch
from torch import nn

from corrlib.errors import InputError

# IEC 61966-2-1 primaries to CIE XYZ, and the D65 white point of the 2° observer.
_XYZ_FROM_RGB = torch.tensor(
    [
        [0.4123908, 0.3575843, 0.1804808],
        [0.2126390, 0.7151687, 0.0721923],
        [0.0193308, 0.1191948, 0.9505322],
    ],
    dtype=torch.float64,
)
_WHITE = _XYZ_FROM_RGB.sum(dim=1)
_DELTA = 6 / 29


def rgb_to_lab(images: torch.Tensor) -> torch.Tensor:
    """sRGB ``(..., 3, H, W)`` in [0, 1] to CIE Lab: L in [0, 100], a and b about [-128, 127]."""
    _check_channels(images, 3)
    rgb = images.clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).pow(2.4))
    matrix = (_XYZ_FROM_RGB / _WHITE[:, None]).to(images, non_blocking=True)
    x, y, z = _mix(matrix, linear).unbind(-3)
    x, y, z = (
        torch.where(
            value > _DELTA**3,
            value.clamp_min(_DELTA**3).pow(1 / 3),
            value / (3 * _DELTA**2) + 4 / 29,
        )
        for value in (x, y, z)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_to_rgb(images: torch.Tensor) -> torch.Tensor:
    """CIE Lab ``(..., 3, H, W)`` to sRGB in [0, 1]; colours a screen cannot show are clipped."""
    _check_channels(images, 3)
    lightness, a, b = images.unbind(-3)
    y = (lightness + 16) / 116
    xyz = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    xyz = torch.where(xyz > _DELTA, xyz.pow(3), 3 * _DELTA**2 * (xyz - 4 / 29))
    matrix = torch.linalg.inv(_XYZ_FROM_RGB / _WHITE[:, None]).to(images, non_blocking=True)
    linear = _mix(matrix, xyz).clamp(0, 1)
    rgb = torch.where(
        linear <= 0.0031308,
        12.92 * linear,
        1.055 * linear.clamp_min(0.0031308).pow(1 / 2.4) - 0.055,
    )
    return rgb.clamp(0, 1)


class ColourQuantiser(nn.Module):
    """Describe each pixel's ``ab`` by the nearest of K centroids.

    Args:
        centroids: ``(K, 2)`` in Lab units; zeros until fitted or loaded.
    """

    def __init__(self, centroids: torch.Tensor | None = None, count: int = 16):
        super().__init__()
        self.register_buffer("centroids", torch.zeros(count, 2) if centroids is None else centroids)

    @classmethod
    def fit(
        cls, colours: torch.Tensor, generator: torch.Generator, count: int = 16, steps: int = 30
    ) -> ColourQuantiser:
        """Find the centroids of ``ab`` values ``(N, 2)`` by k-means, seeded as k-means++.

        Centroids come back sorted by hue, so that a class number means about the same in every
        run. Fewer distinct colours than centroids is an :class:`InputError`.
        """
        if colours.dim() != 2 or colours.shape[1] != 2:
            raise InputError(f"expected ab colours (N, 2), got shape {tuple(colours.shape)}")
        centroids = colours[torch.randint(len(colours), (1,), generator=generator)]
        while len(centroids) < count:
            far = torch.cdist(colours, centroids).min(dim=1).values.square()
            if not far.any():
                raise InputError(
                    f"expected at least {count} distinct colours, found {len(centroids)}: "
                    "the video has hardly any colour"
                )
            chosen = torch.multinomial(far, 1, generator=generator)
            centroids = torch.cat([centroids, colours[chosen]])
        for _ in range(steps):
            member = torch.cdist(colours, centroids).argmin(dim=1)
            size = torch.bincount(member, minlength=count)
            total = torch.zeros_like(centroids).index_add_(0, member, colours)
            mean = total / size.clamp_min(1)[:, None]
            centroids = torch.where(size[:, None] > 0, mean, centroids)
        return cls(centroids[torch.atan2(centroids[:, 1], centroids[:, 0]).argsort()])

    @classmethod
    def of_frames(cls, frames: torch.Tensor, generator: torch.Generator) -> ColourQuantiser:
        """Fit the colours of 256 pixels, the same ones, of each of the frames ``(N, 3, H, W)``."""
        ab = rgb_to_lab(frames).flatten(2)[:, 1:]  # (N, 2, H·W)
        chosen = torch.randint(ab.shape[2], (256,), generator=generator)
        return cls.fit(ab[:, :, chosen].transpose(1, 2).reshape(-1, 2), generator)

    def forward(self, lab: torch.Tensor) -> torch.Tensor:
        """Lab images ``(B, 3, H, W)`` to the index of the nearest centroid, ``(B, H, W)`` int64."""
        _check_channels(lab, 3)
        a, b = lab[..., 1, :, :], lab[..., 2, :, :]
        # |x - c|² without |x|², which is the same for every centroid.
        centroids = self.centroids.to(lab)
        distance = torch.stack(
            [ca * ca / 2 + cb * cb / 2 - a * ca - b * cb for ca, cb in centroids]
        )
        return distance.argmin(dim=0)

    def one_hot(self, labels: torch.Tensor) -> torch.Tensor:
        """Indices ``(B, H, W)`` to one-hot maps ``(B, K, H, W)`` float32."""
        hot = torch.zeros(
            labels.shape[0], len(self.centroids), *labels.shape[1:], device=labels.device
        )
        return hot.scatter_(1, labels.unsqueeze(1), 1.0)

    def colours(self, probability: torch.Tensor) -> torch.Tensor:
        """The mean ``ab`` of label distributions ``(B, K, H, W)``: ``(B, 2, H, W)``."""
        return torch.einsum("bkhw,kc->bchw", probability, self.centroids.to(probability))


def _mix(matrix: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Multiply the channel dimension of ``(..., 3, H, W)`` by a 3x3 matrix.

    Written out: a matrix product with an inner size of 3 would be slower, and inexact in TF32.
    """
    first, second, third = channels.unbind(-3)
    return torch.stack([m[0] * first + m[1] * second + m[2] * third for m in matrix], dim=-3)


def _check_channels(images: torch.Tensor, count: int) -> None:
    if images.dim() < 3 or images.shape[-3] != count or not images.is_floating_point():
        raise InputError(
            f"expected float images (..., {count}, H, W), "
            f"got shape {tuple(images.shape)} of {images.dtype}"
        )
