"""CorrFlow (Lai & Xie, BMVC 2019): learn correspondence by copying colours along a video.

    frames -> bottleneck g -> encoder Φ -> restricted affinity A -> copy colours -> loss

Colours are copied from frame to frame of a clip, as labels will be at test time; what is copied
next are sometimes the true colours and sometimes the copies (scheduled sampling), and copies that
walked there and back have to come home (cycle consistency). Each frame of a clip is encoded once;
every affinity is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from corrlib.affinity import full_affinity, normalise, restricted_affinity, transport
from corrlib.bottleneck import Bottleneck
from corrlib.colour import ColourQuantiser, rgb_to_lab
from corrlib.cycle import walk, ways_home
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.reconstruction import colour_loss, lab_loss, reduce_labels
from corrlib.sampling import ScheduledSampling


@dataclass(frozen=True)
class CorrFlowConfig:
    """What the method is made of. The defaults are the published model.

    Attributes:
        encoder: a name in :data:`corrlib.encoders.ENCODERS`.
        unit_features: L2-normalise features before comparing them (the authors do not).
        temperature: τ of the affinity (the authors' is 1).
        radius: M of the restricted affinity, in cells; ``None`` compares with the whole frame.
        dropout: probability of channel dropout.
        jitter: probability of colour jitter.
        grey_input: show the encoder lightness only, in training and after; the strictest
            bottleneck (Vondrick et al. 2018; Li et al. 2019, §3).
        sampling: when a step copies true colours and when copied ones.
        cycle_weight: of the cycle loss beside the reconstruction (0 leaves it out).
        both_directions: learn from each clip played backwards too, by the same affinities.
        loss_stride: the colour loss is taken at 1/loss_stride of the frame's size.
        lab_weight: weight of the Lab regression beside the colour loss (the authors' is 0).
        middle_weight: weight, within the cycle loss, of the frames that a walk passes between its
            first and its last (the authors' is 0).
        level_weight: weight of all the same losses taken on layer2's features too (the authors'
            is 0).
    """

    encoder: str = "resnet18-stride4"
    unit_features: bool = False
    temperature: float = 1.0
    radius: int | None = 6
    dropout: float = 0.7
    jitter: float = 0.1
    grey_input: bool = False
    sampling: ScheduledSampling = ScheduledSampling()
    cycle_weight: float = 0.1
    both_directions: bool = False
    loss_stride: int = 1
    lab_weight: float = 0.0
    middle_weight: float = 0.0
    level_weight: float = 0.0

    @classmethod
    def of(cls, fields: dict) -> CorrFlowConfig:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**fields | {"sampling": ScheduledSampling(**fields["sampling"])})


class Losses(NamedTuple):
    """Scalars of one batch; ``total`` is what is minimised.

    Attributes:
        colour: L_sim, the reconstruction's -log p, summed over the steps of a clip.
        cycle: L_cycle, the same of the labels that came home, summed over the turning points,
            and of those on their way as far as ``middle_weight`` says.
        lab: the Lab regression, summed over the steps.
    """

    total: torch.Tensor
    colour: torch.Tensor
    cycle: torch.Tensor
    lab: torch.Tensor


WITHOUT: dict[str, Callable[[CorrFlowConfig], CorrFlowConfig]] = {
    "dropout": lambda config: replace(config, dropout=0.0),
    "restricted": lambda config: replace(config, radius=None),
    "sampling": lambda config: replace(config, sampling=ScheduledSampling(1.0, 1.0)),
    "cycle": lambda config: replace(config, cycle_weight=0.0),
}
"""The rows of the ablation (Lai & Xie 2019, table 2): each makes a method that lacks one part."""

WITH: dict[str, Callable[[CorrFlowConfig], CorrFlowConfig]] = {
    "thin-encoder": lambda config: replace(config, encoder="resnet18-half-stride8-framenorm"),
    "deep-encoder": lambda config: replace(config, encoder="resnet34-stride8-framenorm"),
    "middle-losses": lambda config: replace(config, middle_weight=1.0),
    "two-levels": lambda config: replace(config, level_weight=0.5),
    "grey-input": lambda config: replace(config, grey_input=True, dropout=0.0, jitter=0.0),
}
"""Each makes a method that differs in one part: the open questions of the course's lecture, and
grey frames, which are the joint-task model's bottleneck, in place of CorrFlow's."""


class CorrFlow(nn.Module):
    """The model: bottleneck, encoder and colour words; ``loss`` is the method."""

    Config, Losses = CorrFlowConfig, Losses

    def __init__(self, config: CorrFlowConfig, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.bottleneck = Bottleneck(config.dropout, config.jitter)
        self.encoder = make_encoder(config.encoder, generator)
        self.quantiser = ColourQuantiser()

    @property
    def stride(self) -> int:
        return self.encoder.stride

    def prepare(self, frames: torch.Tensor, generator: torch.Generator) -> None:
        """Find the colour words in frames ``(N, 3, H, W)`` in [0, 1], before training begins."""
        self.quantiser = ColourQuantiser.of_frames(frames, generator)

    def features(
        self, frames: torch.Tensor, precision: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Frames ``(B, 3, H, W)`` in [0, 1] to float32 features ``(B, C, h, w)``."""
        return self.levels(frames, precision)[-1]

    def levels(
        self, frames: torch.Tensor, precision: torch.dtype = torch.float32
    ) -> list[torch.Tensor]:
        """Features of every level that has a loss, the last of the encoder's last."""
        if self.config.grey_input:
            frames = (rgb_to_lab(frames)[:, :1] / 100).expand_as(frames)
        if self.config.level_weight:
            levels = [*self.encoder.encode_levels(frames, precision)]
        else:
            levels = [self.encoder.encode(frames, precision)]
        return [normalise(f) for f in levels] if self.config.unit_features else levels

    def affinity(self, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Affinity of two feature maps ``(B, C, h, w)``: restricted ``(B, (2M+1)², h, w)``, or
        full ``(B, h·w, h·w)`` where the configuration has no radius."""
        if self.config.radius is None:
            return full_affinity(reference, target, self.config.temperature)
        return restricted_affinity(
            reference, target, self.config.radius, temperature=self.config.temperature
        )

    def loss(
        self,
        clips: torch.Tensor,
        generator: torch.Generator | None = None,
        precision: torch.dtype = torch.float32,
        share: float = 0.0,
    ) -> Losses:
        """Copy the colours of a clip's first frame along it, and home again.

        Args:
            clips: ``(B, T, 3, H, W)`` in [0, 1], T at least 2, H and W multiples of the stride.
            generator: of the bottleneck's and the sampling's random decisions.
            precision: of the encoder; everything after it is float32.
            share: of the training that is done, 0 to 1; scheduled sampling follows it.
        """
        batch, length, _, height, width = clips.shape
        if length < 2 or height % self.stride or width % self.stride:
            raise InputError(
                f"expected clips of at least 2 frames with sides that are multiples of "
                f"{self.stride}, got {length} frame(s) of {height}x{width}"
            )
        seen = self.bottleneck(clips, generator).flatten(0, 1)
        colours = self._colours(clips)
        *middle, last = (
            self._copy(features.unflatten(0, (batch, length)), *colours, generator, share)
            for features in self.levels(seen, precision)
        )
        weight = self.config.level_weight
        for losses in middle:
            last = Losses(*(a + weight * b for a, b in zip(last, losses, strict=True)))
        return last

    def _copy(
        self,
        features: torch.Tensor,
        values: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator | None,
        share: float,
    ) -> Losses:
        """The losses by ``features (B, T, C, h, w)``; ``values`` and ``labels`` of ``_colours``."""
        config, length = self.config, features.shape[1]

        # A walk is an order of the frames; a clip and its mirror in time share all affinities.
        walks = [range(length)]
        if config.both_directions:
            walks.append(range(length)[::-1])
        outward, homeward = self._affinities(features, walks)
        values, labels = (
            [torch.cat([maps[:, order[t]] for order in walks]) for t in range(length)]
            for maps in (values, labels)
        )

        colour = cycle = regression = features.new_zeros(())
        source, copies = values[0], []
        for t, affinity in enumerate(outward, start=1):
            copies.append(transport(source, affinity))
            colour = colour + colour_loss(copies[-1][:, :-3], labels[t])
            regression = regression + lab_loss(copies[-1][:, -3:], values[t][:, -3:])
            source = config.sampling.choose(values[t], copies[-1], share, generator)
        if config.cycle_weight:
            first = copies[0][:, :-3]  # copied from true colours in any case
            walked = [first, *walk(first, outward[1:])]
            for turn, way in enumerate(ways_home(walked, homeward), start=1):
                cycle = cycle + colour_loss(way[-1], labels[0])
                if config.middle_weight and turn > 1:  # frame 1 on the way out is in L_sim
                    passed = [walked[turn - 1], *way[:-1]]
                    for frame, found in zip(range(turn, 0, -1), passed, strict=True):
                        cycle = cycle + config.middle_weight * colour_loss(found, labels[frame])
        total = colour + config.cycle_weight * cycle + config.lab_weight * regression
        return Losses(total, colour, cycle, regression)

    def _colours(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is copied, and what it is compared with.

        Returns:
            values ``(B, T, K + 3, h, w)``: the shares of the K colour words in each cell and its
            mean Lab, which share one copy; labels ``(B, T, H/loss_stride, W/loss_stride)``.
        """
        size = clips.shape[:2]
        lab = rgb_to_lab(clips).flatten(0, 1)
        labels = self.quantiser(F.avg_pool2d(lab, self.config.loss_stride))
        reduced = reduce_labels(
            self.quantiser.one_hot(labels), self.stride // self.config.loss_stride
        )
        values = torch.cat([reduced, F.avg_pool2d(lab, self.stride)], dim=1)
        return values.unflatten(0, size), labels.unflatten(0, size)

    def _affinities(
        self, features: torch.Tensor, walks: Sequence[Sequence[int]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Affinities along the walks and back, of ``features (B, T, C, h, w)``.

        Each list has one entry a step, the walks one after the other in its batch: ``outward[t]``
        copies a walk's frame t to its frame t + 1, ``homeward[t]`` the other way round.
        """
        ahead = [(order[t], order[t + 1]) for order in walks for t in range(len(order) - 1)]
        back = [(target, reference) for reference, target in ahead]
        pairs = list(dict.fromkeys(ahead + back if self.config.cycle_weight else ahead))
        references, targets = zip(*pairs, strict=True)
        affinity = self.affinity(
            features[:, list(references)].flatten(0, 1), features[:, list(targets)].flatten(0, 1)
        ).unflatten(0, (-1, len(pairs)))
        of = {pair: affinity[:, index] for index, pair in enumerate(pairs)}
        outward, homeward = [], []
        for t in range(len(walks[0]) - 1):
            steps = [(order[t], order[t + 1]) for order in walks]
            outward.append(torch.cat([of[pair] for pair in steps]))
            if self.config.cycle_weight:
                homeward.append(torch.cat([of[pair[::-1]] for pair in steps]))
        return outward, homeward
