"""The joint-task model (Li et al., NeurIPS 2019): find a region first, then match within it.

    patch p1 of frame 1 ─ Φ ─┐ A over frame 2 ─ located pixels ─ box ─ crop p2 of frame 2
    frame 2, whole ────── Φ ─┘
    A_pp between p1 and p2 ─ copy p1's colours ─ compare with p2's

One affinity serves both tasks: it carries locations, which say where the patch went, and colours,
which say whether it was found. The encoder sees lightness only. Everything is encoded once; the
features of p2 are cropped from those of frame 2, differentiably, and so may be those of p1 from
those of frame 1.

Training begins with two crops from about the same place and no localisation, as a box that is
found by random features says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from corrlib.affinity import full_affinity, normalise, transport
from corrlib.colour import ColourQuantiser
from corrlib.colour_autoencoder import (
    AB_SCALE,
    AutoencoderConfig,
    ColourAutoencoder,
    lab_l1,
    scaled_lab,
)
from corrlib.concentration import concentration, windowed_concentration
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.localisation import crop, locate, patch_boxes
from corrlib.orthogonal import carry_back, coordinate_cycle
from corrlib.reconstruction import colour_loss, reduce_labels
from corrlib.stages import stage


@dataclass(frozen=True)
class JointConfig:
    """What the method is made of. The defaults are the published model.

    Attributes:
        encoder: a name in :data:`corrlib.encoders.ENCODERS`.
        unit_features: L2-normalise features before comparing them (the authors do not).
        temperature: τ of the affinities (the authors' is 1).
        patch: side of the patch, in pixels.
        context: cut the patch's features out of those of all of frame 1. Else the patch is
            encoded alone (published), where all is border and, without batch norm, statistics
            are the patch's own: the same place has other features than in its frame.
        localisation: find the patch in frame 2 after the warm-up; else crops from about the same
            place are matched to the end.
        warm_up: share of the training before localisation begins and samples are dropped.
        shift: how far crops from about the same place are apart at most, as a share of their side.
        rotation, zoom: the patch is turned by up to so many degrees either way, and enlarged by up
            to this factor, in training.
        threshold: after the warm-up, samples with a larger colour loss are dropped: their patch is
            not in frame 2, or was not found.
        concentration: ``"windowed"``, the released code's form, on A_pp both ways; or
            ``"piecewise"``, the paper's, on where the patch is located in frame 2.
        concentration_weight: of that regulariser (0 leaves it out).
        concentration_start: share of the training before it sets in.
        colour_cycle_weight, coordinate_cycle_weight: of the two orthogonal regularisers (0 leaves
            one out).
        autoencoder: the colour auto-encoder whose codes are copied; ``None`` copies CorrFlow's
            colour words instead.
        autoencoder_weights: where its weights come from before training, a file or a name of
            released ones.
    """

    encoder: str = "resnet18-stride8-layer4"
    unit_features: bool = False
    temperature: float = 1.0
    patch: int = 256
    context: bool = False
    localisation: bool = True
    warm_up: float = 1 / 3
    shift: float = 0.125
    rotation: float = 10.0
    zoom: float = 1.2
    threshold: float = 2.5
    concentration: str = "windowed"
    concentration_weight: float = 0.3
    concentration_start: float = 1 / 30
    colour_cycle_weight: float = 0.1
    coordinate_cycle_weight: float = 0.1
    autoencoder: AutoencoderConfig | None = AutoencoderConfig()
    autoencoder_weights: str = "colour-autoencoder"

    @classmethod
    def of(cls, fields: dict) -> JointConfig:
        """From what ``dataclasses.asdict`` made of one."""
        autoencoder = fields["autoencoder"]
        if autoencoder is not None:
            autoencoder = AutoencoderConfig.of(autoencoder)
        return cls(**fields | {"autoencoder": autoencoder})


class JointLosses(NamedTuple):
    """Scalars of one batch; ``total`` is what is minimised. Dropped samples count as 0.

    Attributes:
        colour: copied colours against those of frame 2.
        concentration: of the located pixels, in cells (windowed: squared).
        cycle_colour: colours of frame 2 that were carried back against those of frame 1.
        cycle_coordinates: how far coordinates come back from home, in cells.
        kept: share of the samples that were not dropped.
    """

    total: torch.Tensor
    colour: torch.Tensor
    concentration: torch.Tensor
    cycle_colour: torch.Tensor
    cycle_coordinates: torch.Tensor
    kept: torch.Tensor


WITHOUT: dict[str, Callable[[JointConfig], JointConfig]] = {
    "localisation": lambda config: replace(config, localisation=False),
    "concentration": lambda config: replace(config, concentration_weight=0.0),
    "orthogonal": lambda config: replace(
        config, colour_cycle_weight=0.0, coordinate_cycle_weight=0.0
    ),
    "autoencoder": lambda config: replace(config, autoencoder=None),
}
"""The rows of the ablation: each makes a method that lacks one part."""


class Joint(nn.Module):
    """The model: encoder and colours; ``loss`` is the method."""

    Config, Losses = JointConfig, JointLosses

    def __init__(self, config: JointConfig, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.encoder = make_encoder(config.encoder, generator)
        if config.patch < self.stride or config.patch % self.stride:
            raise InputError(
                f"expected a patch of a multiple of {self.stride} pixels, got {config.patch}"
            )
        if config.concentration not in ("windowed", "piecewise"):
            raise InputError(
                f"expected a concentration windowed or piecewise, got {config.concentration!r}"
            )
        if config.autoencoder is None:
            self.colours = ColourWords(self.stride)
        else:
            self.colours = ColourCodes(config.autoencoder, config.autoencoder_weights, generator)
            if self.colours.stride != self.stride:
                raise InputError(
                    f"expected an encoder of the colour auto-encoder's stride "
                    f"{self.colours.stride}, {config.encoder} has {self.stride}"
                )

    @property
    def stride(self) -> int:
        return self.encoder.stride

    def prepare(self, frames: torch.Tensor, generator: torch.Generator) -> None:
        """Load the auto-encoder, or find the colour words in frames ``(N, 3, H, W)`` in [0, 1]."""
        self.colours.prepare(frames, generator)

    def features(
        self, frames: torch.Tensor, precision: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Frames ``(B, 3, H, W)`` in [0, 1] to float32 features ``(B, C, h, w)``."""
        return self._features(scaled_lab(frames), precision)

    def _features(self, lab: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
        """Features of the lightness of scaled Lab ``(B, 3, H, W)``."""
        with stage("encoder"):
            grey = ((lab[:, :1] + 1) / 2).expand_as(lab)
            features = self.encoder.encode(grey, precision)
            return normalise(features) if self.config.unit_features else features

    def affinity(self, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Full affinity ``(B, n_ref, n_tar)`` of two feature maps ``(B, C, h, w)``."""
        return full_affinity(reference, target, self.config.temperature)

    def loss(
        self,
        clips: torch.Tensor,
        generator: torch.Generator | None = None,
        precision: torch.dtype = torch.float32,
        share: float = 0.0,
    ) -> JointLosses:
        """Copy the colours of a patch of frame 1 to where it is found in frame 2.

        Args:
            clips: ``(B, 2, 3, H, W)`` in [0, 1], H and W multiples of the stride.
            generator: of where patches are cut out, on the CPU.
            precision: of the encoder; everything else is float32.
            share: of the training that is done, 0 to 1; the warm-up ends by it.
        """
        self._check(clips)
        config = self.config
        warm = share < config.warm_up
        with stage("data"):
            first, boxes = self._draw(clips, generator)
        find = config.localisation and not warm
        (features_1, features_2), (lab_1, lab_2), located = self._patches(
            first, clips[:, 1], boxes, find, precision
        )
        with stage("matching"):
            affinity = self.affinity(features_1, features_2)
        colour, cycle_colour = self._colour_losses(affinity, lab_1, lab_2)
        with stage("regularisers"):
            concentrated = cycle_coordinates = torch.zeros_like(colour)
            if config.concentration_weight and share >= config.concentration_start:
                concentrated = self._concentration(affinity, features_1, features_2, located)
            if config.coordinate_cycle_weight:
                cycle_coordinates = coordinate_cycle(
                    affinity, affinity.transpose(1, 2), features_1.shape[2:]
                )
        # Dropped samples stay in the mean as zeros: a batch shared by several processes then has
        # the same gradients, and one without any sample left has gradients of 0.
        kept = torch.ones_like(colour) if warm else (colour <= config.threshold).to(colour)
        losses = [
            (kept * values).mean()
            for values in (colour, concentrated, cycle_colour, cycle_coordinates)
        ]
        weights = (
            1.0,
            config.concentration_weight,
            config.colour_cycle_weight,
            config.coordinate_cycle_weight,
        )
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        return JointLosses(total, *losses, kept.mean())

    def localise(
        self, patch: torch.Tensor, frame: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find a patch in a frame, both given by features ``(B, C, h, w)``.

        Returns:
            Where its cells are located ``(B, 2, h, w)`` and the box around them, of the patch's
            size, ``(B, 4)``; in pixels of the frame.
        """
        affinity = self.affinity(frame, patch)
        cells = patch.shape[2:], frame.shape[2:]
        located = locate(affinity, cells[1], cells[0], self.stride)
        sizes = ((self.stride * h, self.stride * w) for h, w in cells)
        return located, patch_boxes(located, *sizes)

    def _check(self, clips: torch.Tensor) -> None:
        patch = self.config.patch
        if (
            clips.dim() != 5
            or clips.shape[1:3] != (2, 3)
            or clips.shape[3] % self.stride
            or clips.shape[4] % self.stride
            or min(clips.shape[3:]) < patch
        ):
            raise InputError(
                f"expected clips (B, 2, 3, H, W) with sides that are multiples of {self.stride} "
                f"and at least the patch's {patch}, got {tuple(clips.shape)}"
            )

    def _draw(
        self, clips: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Frames 1, turned, the boxes ``(B, 4)`` of random patches of them, and boxes of frames 2
        from about there."""
        config, patch, batch = self.config, self.config.patch, len(clips)
        room = torch.tensor(clips.shape[3:]) - patch
        draws = [torch.rand(batch, 2, generator=generator) for _ in range(3)]
        # On the cells' own grid, so that cut out features are not interpolated ones.
        corners = (draws[0] * (room // self.stride + 1)).long() * self.stride
        apart = ((2 * draws[1] - 1) * config.shift * patch).round().long()
        others = torch.minimum((corners + apart).clamp(min=0), room)
        first = clips[:, 0]
        if self.training and (config.rotation or config.zoom != 1):
            angles, zooms = draws[2].unbind(dim=1)
            angles, zooms = (2 * angles - 1) * config.rotation, 1 + (config.zoom - 1) * zooms
            turned = [
                transforms.affine(
                    frame,
                    angle=float(angle),
                    translate=[0, 0],
                    scale=float(zoom),
                    shear=[0.0, 0.0],
                    interpolation=InterpolationMode.BILINEAR,
                    fill=0.5,
                    center=[x + patch / 2, y + patch / 2],
                )
                for frame, (y, x), angle, zoom in zip(
                    first, corners.tolist(), angles, zooms, strict=True
                )
            ]
            first = torch.stack(turned)
        boxes = (
            torch.cat([corner, corner + patch], dim=1).to(clips) - 0.5
            for corner in (corners.flip(1), others.flip(1))
        )
        return first, tuple(boxes)

    def _patches(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        boxes: tuple[torch.Tensor, torch.Tensor],
        find: bool,
        precision: torch.dtype,
    ) -> tuple[tuple, tuple, torch.Tensor | None]:
        """Features of both patches, their scaled Lab, and where the first one was located.

        For ``find``, the box of the second is where the first is found.
        """
        pixels, cells = ((self.config.patch // side,) * 2 for side in (1, self.stride))
        frame_1, frame_2 = scaled_lab(torch.cat([first, second])).chunk(2)
        box_1, box_2 = boxes
        lab_1, located = crop(frame_1, box_1, pixels), None
        if self.config.context:
            both = self._features(torch.cat([frame_1, frame_2]), precision)
            features_1, features_2 = both.chunk(2)
            features_1 = crop(features_1, box_1, cells, self.stride)
        elif find:
            features_1, features_2 = (self._features(lab, precision) for lab in (lab_1, frame_2))
        else:
            lab_2 = crop(frame_2, box_2, pixels)
            both = self._features(torch.cat([lab_1, lab_2]), precision)
            return both.chunk(2), (lab_1, lab_2), located
        if find:
            with stage("localisation"):
                located, box_2 = self.localise(features_1, features_2)
        features_2 = crop(features_2, box_2, cells, self.stride)
        return (features_1, features_2), (lab_1, crop(frame_2, box_2, pixels)), located

    def _colour_losses(
        self,
        affinity: torch.Tensor,
        lab_1: torch.Tensor,
        lab_2: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Errors ``(B,)`` of p1's colours copied to p2, and of p2's carried back to p1."""
        with stage("colours"):
            if not self.config.colour_cycle_weight:
                copied = transport(self.colours.encode(lab_1), affinity)
                error = self.colours.error(copied, lab_2)
                return error, torch.zeros_like(error)
            values = self.colours.encode(torch.cat([lab_1, lab_2]))
            values_1, values_2 = values.chunk(2)
            copied = torch.cat([transport(values_1, affinity), carry_back(values_2, affinity)])
            errors = self.colours.error(copied, torch.cat([lab_2, lab_1]))
            return errors.chunk(2)

    def _concentration(
        self,
        affinity: torch.Tensor,
        features_1: torch.Tensor,
        features_2: torch.Tensor,
        located: torch.Tensor | None,
    ) -> torch.Tensor:
        """``(B,)``: zeros where the piecewise form has nothing located to ask about."""
        size = tuple(features_1.shape[2:])
        if self.config.concentration == "windowed":
            homeward = self.affinity(features_2, features_1)
            both = torch.cat([affinity, homeward])
            there, back = windowed_concentration(locate(both, size, size)).chunk(2)
            return there + back
        if located is None:
            return affinity.new_zeros(len(affinity))
        return concentration(located / self.stride, (size[1] / 2, size[0] / 2))


class ColourCodes(nn.Module):
    """Colours as codes of an auto-encoder that training leaves as it is."""

    def __init__(self, config: AutoencoderConfig, weights: str, generator: torch.Generator):
        super().__init__()
        self.autoencoder = ColourAutoencoder(config, generator).requires_grad_(False)
        self.weights = weights

    @property
    def stride(self) -> int:
        return self.autoencoder.stride

    def prepare(self, frames: torch.Tensor, generator: torch.Generator) -> None:
        """Load the trained weights."""
        from corrlib.weights import load_weights  # which knows this module

        trained = load_weights(self.weights)
        if trained.config != self.autoencoder.config:
            raise InputError(
                f"expected weights of the colour auto-encoder {self.autoencoder.config}, "
                f"{self.weights} holds {trained.config}"
            )
        self.autoencoder.load_state_dict(trained.state_dict())

    @torch.no_grad()
    def encode(
        self,
        lab: torch.Tensor,
    ) -> torch.Tensor:
        """Scaled Lab ``(B, 3, H, W)`` to codes ``(B, D, h, w)``, as constants.

        A box has gradients by what is compared at it, which costs no second pass.
        """
        return self.autoencoder.encode(lab)

    def error(self, codes: torch.Tensor, lab: torch.Tensor) -> torch.Tensor:
        """Decoded codes against scaled Lab: L1 on L + 10 L1 on a + 10 L1 on b, ``(B,)``."""
        return lab_l1(self.autoencoder.decode(codes), lab)


class ColourWords(nn.Module):
    """Colours as CorrFlow's words: the share of each within a cell."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride
        self.quantiser = ColourQuantiser()

    def prepare(self, frames: torch.Tensor, generator: torch.Generator) -> None:
        """Find the words in frames ``(N, 3, H, W)`` in [0, 1]."""
        self.quantiser = ColourQuantiser.of_frames(frames, generator)

    def encode(self, lab: torch.Tensor) -> torch.Tensor:
        """Scaled Lab ``(B, 3, H, W)`` to shares ``(B, K, h, w)``."""
        return reduce_labels(self.quantiser.one_hot(self._words(lab)), self.stride)

    def error(self, shares: torch.Tensor, lab: torch.Tensor) -> torch.Tensor:
        """-log p of the true words, ``(B,)``. Shares that were carried back do not sum to 1."""
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-8)
        pairs = zip(shares.split(1), self._words(lab).split(1), strict=True)
        return torch.stack([colour_loss(*pair) for pair in pairs])

    def _words(self, lab: torch.Tensor) -> torch.Tensor:
        return self.quantiser(AB_SCALE * lab.detach())
