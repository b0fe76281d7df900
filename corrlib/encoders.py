"""Encoders Φ: frames to features, one vector per cell.

All are ResNets with their strides changed, so that a feature map keeps enough cells to match. The
names in the state dicts are torchvision's, so ImageNet weights load where the shapes agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision.models import ResNet, resnet18, resnet34
from torchvision.models.resnet import BasicBlock

from corrlib.device import autocast
from corrlib.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Frames ``(B, 3, H, W)`` in [0, 1] to features ``(B, channels, ceil(H/stride), ...)``.

    Normalisation is part of the encoder: callers hand over plain frames.
    """

    stride: int
    channels: int

    def __init__(
        self,
        norm_layer: type[nn.Module] | partial = nn.BatchNorm2d,
        trunk: Callable[..., ResNet] = resnet18,
    ):
        super().__init__()
        for name, value in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        trunk = trunk(norm_layer=norm_layer)
        self.conv1, self.bn1, self.relu = trunk.conv1, trunk.bn1, trunk.relu
        self.maxpool, self.layer1 = trunk.maxpool, trunk.layer1
        self.layer2, self.layer3, self.layer4 = trunk.layer2, trunk.layer3, trunk.layer4

    def encode(self, frames: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
        """``forward`` in mixed ``precision``; the features are float32."""
        with autocast(frames.device, precision):
            return self(frames).float()

    def encode_levels(
        self, frames: torch.Tensor, precision: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of layer2 and the last, on one grid, from one pass; as :meth:`encode` else."""
        levels = []
        with self.layer2.register_forward_hook(lambda _, inputs, output: levels.append(output)):
            levels.append(self.encode(frames, precision))
        return levels[0].float(), levels[1]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.dim() != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
            raise InputError(
                "expected float frames (B, 3, H, W) in [0, 1], "
                f"got shape {tuple(frames.shape)} of {frames.dtype}"
            )
        x = (frames - self.mean) / self.std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNet18Stride4(Encoder):
    """CorrFlow's encoder: no max-pool, stride 4, blocks of 64-128-256-256, a 3x3 head to 64.

    Lai & Xie 2019, §4.1 and released code. A 256x256 frame gives 64x64 features.
    """

    stride, channels = 4, 64

    def __init__(self):
        super().__init__()
        self.maxpool = nn.Identity()
        _remove_stride(self.layer3)
        self.layer4 = nn.Sequential(BasicBlock(256, 256), BasicBlock(256, 256))
        self.head = nn.Conv2d(256, self.channels, kernel_size=3, padding=1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(super().forward(frames))


class ResNet18Stride8(Encoder):
    """ResNet-18 with layer3 (and layer4) at stride 1, cut after one of them; stride 8.

    ``last="layer3"`` gives 256 channels and is what later work matches with; ``last="layer4"``
    gives 512. ``trunk`` is another ResNet of basic blocks.
    """

    stride = 8

    def __init__(
        self,
        last: str = "layer3",
        norm_layer: type[nn.Module] | partial = nn.BatchNorm2d,
        trunk: Callable[..., ResNet] = resnet18,
    ):
        super().__init__(norm_layer, trunk)
        _remove_stride(self.layer3)
        if last == "layer3":
            self.layer4 = nn.Identity()
        elif last == "layer4":
            _remove_stride(self.layer4)
        else:
            raise InputError(f"expected last='layer3' or 'layer4', got {last!r}")
        self.channels = getattr(self, last)[-1].conv2.out_channels


def resnet18_half(norm_layer: type[nn.Module] | partial) -> ResNet:
    """ResNet-18 with half as many channels in every layer, a quarter of the work."""
    trunk = ResNet(BasicBlock, (2, 2, 2, 2), norm_layer=norm_layer)
    trunk.conv1 = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3, bias=False)
    trunk.bn1 = norm_layer(32)
    width = 32
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        wider = 32 * 2 ** (number - 1)
        shortcut = None
        if stride > 1:
            shortcut = nn.Sequential(
                nn.Conv2d(width, wider, kernel_size=1, stride=stride, bias=False),
                norm_layer(wider),
            )
        layer = nn.Sequential(
            BasicBlock(width, wider, stride, shortcut, norm_layer=norm_layer),
            BasicBlock(wider, wider, norm_layer=norm_layer),
        )
        setattr(trunk, f"layer{number}", layer)
        width = wider
    return trunk


FRAME_NORM = partial(nn.InstanceNorm2d, affine=True)
"""Normalisation by each frame's own statistics, in training and after.

Batch norm's running statistics are those of the training videos; the video to be tracked has
others. This has no such gap, and a frame's features do not depend on what else is in the batch.
"""

ENCODERS = {
    "resnet18-stride4": ResNet18Stride4,
    "resnet18-stride8": ResNet18Stride8,
    "resnet18-stride8-layer4": partial(ResNet18Stride8, "layer4"),
    "resnet18-stride8-framenorm": partial(ResNet18Stride8, norm_layer=FRAME_NORM),
    "resnet18-half-stride8-framenorm": partial(
        ResNet18Stride8, norm_layer=FRAME_NORM, trunk=resnet18_half
    ),
    "resnet34-stride8-framenorm": partial(ResNet18Stride8, norm_layer=FRAME_NORM, trunk=resnet34),
}


def make_encoder(name: str, generator: torch.Generator) -> Encoder:
    """An encoder by name, its weights drawn from ``generator``."""
    if name not in ENCODERS:
        raise InputError(f"expected an encoder among {', '.join(ENCODERS)}, got {name!r}")
    encoder = ENCODERS[name]()
    _initialise(encoder, generator)
    return encoder


def load_trunk(encoder: Encoder, state: dict[str, torch.Tensor]) -> list[str]:
    """Copy the entries of a torchvision ResNet-18 state dict that fit; returns those names.

    The classifier, and layers that an encoder does not share, are left out; that conv1 to layer3,
    which every encoder has, do not all fit is an :class:`InputError`.
    """
    own = encoder.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    shared = [k for k in own if not k.startswith(("layer4", "head")) and "num_batches" not in k]
    missing = [k for k in shared if k not in fitting]
    if missing:
        raise InputError(
            f"expected the state dict of a ResNet-18, {len(missing)} of {len(shared)} entries are "
            f"absent or of another shape, the first {missing[0]}"
        )
    encoder.load_state_dict(fitting, strict=False)
    return sorted(fitting)


def _remove_stride(layer: nn.Sequential) -> None:
    layer[0].conv1.stride = (1, 1)
    layer[0].downsample[0].stride = (1, 1)


def _initialise(encoder: nn.Module, generator: torch.Generator) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
