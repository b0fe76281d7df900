"""CorrFlow (Lai & Xie, BMVC 2019): learn correspondence by copying colours along a video.

    frames -> bottleneck g -> encoder Φ -> restricted affinity A -> copy colours -> loss

Each frame of a clip is encoded once; every pair's affinity is computed once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from corrlib.affinity import normalise, restricted_affinity, transport
from corrlib.bottleneck import Bottleneck
from corrlib.colour import ColourQuantiser, rgb_to_lab
from corrlib.device import autocast
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.reconstruction import colour_loss, lab_loss, reduce_labels

WEIGHTS = Path(__file__).resolve().parent.parent / "data" / "weights"


@dataclass(frozen=True)
class CorrFlowConfig:
    """What the method is made of. The defaults are the published model.

    Attributes:
        encoder: a name in :data:`corrlib.encoders.ENCODERS`.
        unit_features: L2-normalise features before comparing them (the authors do not).
        temperature: τ of the affinity (the authors' is 1).
        radius: M of the restricted affinity, in cells.
        dropout: probability of channel dropout.
        jitter: probability of colour jitter.
        pairs: (reference, target) frames of a clip that are compared.
        loss_stride: the colour loss is taken at 1/loss_stride of the frame's size.
        lab_weight: weight of the Lab regression beside the colour loss (the authors' is 0).
    """

    encoder: str = "resnet18-stride4"
    unit_features: bool = False
    temperature: float = 1.0
    radius: int = 6
    dropout: float = 0.7
    jitter: float = 0.1
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    loss_stride: int = 1
    lab_weight: float = 0.0


class Losses(NamedTuple):
    """Scalars of one batch; ``total`` is what is minimised."""

    total: torch.Tensor
    colour: torch.Tensor
    lab: torch.Tensor


class CorrFlow(nn.Module):
    """The model: bottleneck, encoder and colour words; ``loss`` is the method."""

    def __init__(self, config: CorrFlowConfig, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.bottleneck = Bottleneck(config.dropout, config.jitter)
        self.encoder = make_encoder(config.encoder, generator)
        self.quantiser = ColourQuantiser()

    @property
    def stride(self) -> int:
        return self.encoder.stride

    def features(
        self, frames: torch.Tensor, precision: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Frames ``(B, 3, H, W)`` in [0, 1] to float32 features ``(B, C, h, w)``."""
        with autocast(frames.device, precision):
            features = self.encoder(frames)
        features = features.float()
        return normalise(features) if self.config.unit_features else features

    def affinity(self, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Restricted affinity ``(B, (2M+1)², h, w)`` of two feature maps ``(B, C, h, w)``."""
        return restricted_affinity(
            reference, target, self.config.radius, temperature=self.config.temperature
        )

    def loss(
        self,
        clips: torch.Tensor,
        generator: torch.Generator | None = None,
        precision: torch.dtype = torch.float32,
    ) -> Losses:
        """Reconstruct the colours of each pair's target from its reference.

        Args:
            clips: ``(B, T, 3, H, W)`` in [0, 1], H and W multiples of the stride.
            generator: of the bottleneck's random decisions.
            precision: of the encoder; everything after it is float32.
        """
        batch, length, _, height, width = clips.shape
        if height % self.stride or width % self.stride:
            raise InputError(
                f"expected clips with sides that are multiples of {self.stride}, "
                f"got {height}x{width}"
            )
        lab = rgb_to_lab(clips)
        seen = self.bottleneck(clips, generator)
        features = self.features(seen.flatten(0, 1), precision).unflatten(0, (batch, length))

        fine = F.avg_pool2d(lab.flatten(0, 1), self.config.loss_stride)
        labels = self.quantiser(fine)  # (B·T, H/ls, W/ls)
        reduced = reduce_labels(
            self.quantiser.one_hot(labels), self.stride // self.config.loss_stride
        )
        coarse = F.avg_pool2d(lab.flatten(0, 1), self.stride)
        # Labels and colours travel through one copy, as they share the affinity.
        values = torch.cat([reduced, coarse], dim=1).unflatten(0, (batch, length))
        labels = labels.unflatten(0, (batch, length))
        coarse = coarse.unflatten(0, (batch, length))

        def of_pairs(maps: torch.Tensor, side: int) -> torch.Tensor:
            return torch.cat([maps[:, pair[side]] for pair in self.config.pairs])

        affinity = self.affinity(of_pairs(features, 0), of_pairs(features, 1))
        copied = transport(of_pairs(values, 0), affinity)
        colour = colour_loss(copied[:, :-3], of_pairs(labels, 1))
        regression = lab_loss(copied[:, -3:], of_pairs(coarse, 1))
        total = colour + self.config.lab_weight * regression
        return Losses(total, colour, regression)


def save_weights(model: CorrFlow, path: str | Path, **about: object) -> None:
    """Write the model with its configuration, and whatever else should be known of it.

    Floating-point values are stored in fp16, which halves the file and changes features by about
    a thousandth; a checkpoint, not a weights file, continues a training run.
    """
    metadata = {"method": "corrflow", "config": json.dumps(asdict(model.config))}
    metadata |= {key: json.dumps(value) for key, value in about.items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(
            {
                name: (value.half() if value.is_floating_point() else value).contiguous()
                for name, value in model.state_dict().items()
            },
            temporary,
            metadata=metadata,
        )


def load_weights(source: str | Path) -> CorrFlow:
    """A model in eval mode, from a file or by the name of released weights.

    Raises:
        InputError: no such file or name, a truncated or foreign file, or weights that do not fit.
    """
    path = Path(source)
    if not path.is_file():
        released = {weights.stem: weights for weights in sorted(WEIGHTS.glob("*.safetensors"))}
        if str(source) not in released:
            names = ", ".join(released) or "none here"
            raise InputError(
                f"expected a weights file or the name of released weights ({names}), got {source}"
            )
        path = released[str(source)]
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"expected a complete safetensors file, {path} is not one ({error}); "
            "train or fetch the weights again"
        ) from error
    if metadata.get("method") != "corrflow":
        raise InputError(f"expected CorrFlow weights, {path} holds {metadata.get('method', '?')}")
    try:
        model = CorrFlow(config_from(json.loads(metadata["config"])), torch.Generator())
        model.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in state.items()
            }
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the weights in {path} do not fit this version: {reason}") from error
    # On the CPU in bf16, and on tensor cores, convolutions are twice as fast in this layout.
    return model.to(memory_format=torch.channels_last).eval()


def config_from(fields: dict) -> CorrFlowConfig:
    """The configuration from its JSON form."""
    pairs = tuple(tuple(pair) for pair in fields.pop("pairs"))
    return CorrFlowConfig(**fields, pairs=pairs)
