"""What a trained model has to beat: features that nobody trained on video.

Every baseline is a :class:`~corrlib.propagation.FeatureExtractor`, so all are compared under the
same inference; only ``identity`` is not, as it copies the first mask unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.error import URLError

import torch
import torch.nn.functional as F

from corrlib.corrflow import CorrFlow
from corrlib.encoders import load_trunk, make_encoder
from corrlib.errors import InputError
from corrlib.masks import check_mask
from corrlib.propagation import FeatureExtractor


def identity(frames: Iterable[torch.Tensor], mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """The first mask ``(H, W)`` for every frame: what a video scores in which nothing moves."""
    for index, frame in enumerate(frames):
        if index == 0:
            check_mask(mask, *frame.shape[1:])
        yield mask


def trained(model: CorrFlow, precision: torch.dtype = torch.float32) -> FeatureExtractor:
    """The features of a trained model (on the device its parameters are on)."""
    model.eval()
    return FeatureExtractor(
        "corrflow", model.stride, model.encoder.channels, lambda x: model.features(x, precision)
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


def random_features(seed: int = 0, device: torch.device | str = "cpu") -> FeatureExtractor:
    """A ResNet-18 that was never trained, its batch norm set by each frame's own statistics."""
    generator = torch.Generator().manual_seed(seed)
    encoder = make_encoder("resnet18-stride8", generator).to(device).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return FeatureExtractor("random-features", encoder.stride, encoder.channels, encoder)


def imagenet_features(device: torch.device | str = "cpu") -> FeatureExtractor:
    """The same ResNet-18, trained to classify ImageNet with a million labels.

    The weights (45 MB) are torchvision's, downloaded once and verified.
    """
    from torchvision.models import ResNet18_Weights

    try:
        state = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"ImageNet weights are neither in torchvision's cache nor to be downloaded ({error}); "
            "connect to the network once, or choose another baseline"
        ) from error
    encoder = make_encoder("resnet18-stride8", torch.Generator())
    load_trunk(encoder, state)
    encoder.to(device).eval()
    return FeatureExtractor("imagenet-features", encoder.stride, encoder.channels, encoder)
