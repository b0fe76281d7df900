"""Features to match: of a trained model, of the picture, of random and of ImageNet ResNets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet50

from corrlib.colour_autoencoder import ColourAutoencoder
from corrlib.device import autocast
from corrlib.encoders import IMAGENET_MEAN, IMAGENET_STD, load_trunk, make_encoder
from corrlib.errors import InputError
from corrlib.fetch import torchvision_state
from corrlib.propagation import FeatureExtractor
from corrlib.weights import Method, method_name


def trained(model: Method, precision: torch.dtype = torch.float32) -> FeatureExtractor:
    """The features of a trained model (on the device its parameters are on).

    Raises:
        InputError: a model that was not trained to match.
    """
    if isinstance(model, ColourAutoencoder):
        raise InputError(
            "expected weights of features to match, such as corrflow; these are a "
            "colour-autoencoder's, whose codes say what colour a cell has"
        )
    model.eval()
    return FeatureExtractor(
        method_name(model.config),
        model.stride,
        model.encoder.channels,
        lambda frames: model.features(frames, precision),
        temperature=model.config.temperature,
        unit_features=getattr(model.config, "unit_features", True),
    )


def colour_patch() -> FeatureExtractor:
    """The picture itself: each 8x8 patch averaged to 4x4 RGB values, 48 channels.

    Every channel is standardised over the frame, so that dot products compare deviations.
    """

    def extract(frames: torch.Tensor) -> torch.Tensor:
        patches = F.pixel_unshuffle(F.avg_pool2d(frames, 2), 4)  # (B, 48, h, w)
        mean = patches.mean(dim=(2, 3), keepdim=True)
        spread = patches.std(dim=(2, 3), keepdim=True, correction=0)
        return (patches - mean) / spread.clamp_min(1e-6)

    return FeatureExtractor("colour-patch", 8, 48, extract)


def random_features(
    seed: int = 0, device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> FeatureExtractor:
    """A ResNet-18 that was never trained, its batch norm set by each frame's own statistics."""
    generator = torch.Generator().manual_seed(seed)
    encoder = make_encoder("resnet18-stride8", generator).to(device).train()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return network("random-features", encoder, encoder.channels, precision)


def imagenet_features(
    device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> FeatureExtractor:
    """The same ResNet-18, trained to classify ImageNet with a million labels.

    The weights (45 MB) are torchvision's, downloaded once and verified. Stride 8 comes from
    layer3 without its stride, which is also where the network is cut: 256 channels.
    """
    state = torchvision_state(ResNet18_Weights.IMAGENET1K_V1, "ImageNet weights of ResNet-18")
    encoder = make_encoder("resnet18-stride8", torch.Generator())
    load_trunk(encoder, state)
    return network("imagenet-features", encoder.to(device).eval(), encoder.channels, precision)


def resnet50_features(
    device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> FeatureExtractor:
    """ResNet-50 trained to classify ImageNet, the lectures' ImageNet baseline.

    The weights (98 MB) are torchvision's first ones (76.1 % top-1, the authors' training),
    downloaded once and verified. Cut and stride as in :func:`imagenet_features`: 1024 channels.
    """
    state = torchvision_state(ResNet50_Weights.IMAGENET1K_V1, "ImageNet weights of ResNet-50")
    model = resnet50()
    model.load_state_dict(state)
    model.layer3[0].conv2.stride = model.layer3[0].downsample[0].stride = (1, 1)
    trunk = nn.Sequential(
        Normalisation(IMAGENET_MEAN, IMAGENET_STD),
        nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
        nn.Sequential(model.layer1, model.layer2, model.layer3),
    )
    return network("imagenet-resnet50", trunk.to(device).eval(), 1024, precision)


class Normalisation(nn.Module):
    """Frames in [0, 1] minus a mean, over a spread, per channel."""

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return (frames - self.mean) / self.std


def network(
    name: str, encoder: nn.Module, channels: int, precision: torch.dtype
) -> FeatureExtractor:
    """An encoder of stride 8 as an extractor."""

    def extract(frames: torch.Tensor) -> torch.Tensor:
        with autocast(frames.device, precision):
            return encoder(frames)

    return FeatureExtractor(name, 8, channels, extract)
