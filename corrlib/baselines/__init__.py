"""What a trained model has to beat, by name.

Most baselines are features that nobody trained on video: a
:class:`~corrlib.propagation.FeatureExtractor` each, so all are compared under the same inference.
The others are whole methods: frames and the first mask to one mask per frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from corrlib.baselines.colorization import COLORIZATION, video_colorization
from corrlib.baselines.dino import dino_features
from corrlib.baselines.efficientnet import efficientnet_features
from corrlib.baselines.features import (
    colour_patch,
    imagenet_features,
    random_features,
    resnet50_features,
    trained,
)
from corrlib.baselines.no_motion import identity
from corrlib.errors import InputError
from corrlib.evaluation import Method
from corrlib.optical_flow import dis_flow, propagate_by_flow, raft_flow
from corrlib.propagation import FeatureExtractor
from corrlib.sift_flow import sift_flow

__all__ = [
    "BASELINES",
    "COLORIZATION",
    "Baseline",
    "build_baseline",
    "colour_patch",
    "dino_features",
    "efficientnet_features",
    "identity",
    "imagenet_features",
    "random_features",
    "resnet50_features",
    "trained",
    "video_colorization",
]


@dataclass(frozen=True)
class Baseline:
    """One row of the lectures' tables.

    Attributes:
        description: one line.
        build: device, precision of the encoder and seed to a method or a feature extractor. Each
            takes what it needs: flow is computed on the CPU in float32 (RAFT: on the device), and
            only random features have a seed.
    """

    description: str
    build: Callable[[torch.device | str, torch.dtype, int], Method | FeatureExtractor]


BASELINES: dict[str, Baseline] = {
    "identity": Baseline(
        "the first mask, unchanged",
        lambda device, precision, seed: identity,
    ),
    "dis-flow": Baseline(
        "dense optical flow from frame to frame: OpenCV's DIS",
        lambda device, precision, seed: partial(propagate_by_flow, estimator=dis_flow()),
    ),
    "raft-flow": Baseline(
        "dense optical flow from frame to frame: RAFT, supervised (downloads 21 MB)",
        lambda device, precision, seed: partial(propagate_by_flow, estimator=raft_flow(device)),
    ),
    "sift-flow": Baseline(
        "dense SIFT descriptors matched with smoothness: compact SIFT flow",
        lambda device, precision, seed: partial(propagate_by_flow, estimator=sift_flow()),
    ),
    "video-colorization": Baseline(
        "trained on grey frames with full attention, no bottleneck (needs its weights)",
        lambda device, precision, seed: video_colorization(device=device, precision=precision),
    ),
    "colour-patch": Baseline(
        "the picture itself, 48 colour values per 8x8 patch",
        lambda device, precision, seed: colour_patch(),
    ),
    "random-features": Baseline(
        "a ResNet-18 that was never trained",
        lambda device, precision, seed: random_features(seed, device, precision),
    ),
    "imagenet-features": Baseline(
        "ResNet-18 trained to classify ImageNet, layer3 at stride 8 (downloads 45 MB)",
        lambda device, precision, seed: imagenet_features(device, precision),
    ),
    "imagenet-resnet50": Baseline(
        "ResNet-50 trained to classify ImageNet, layer3 at stride 8 (downloads 98 MB)",
        lambda device, precision, seed: resnet50_features(device, precision),
    ),
    "imagenet-efficientnet": Baseline(
        "EfficientNet-Lite0 trained to classify ImageNet, block 7 at stride 8 (from a package)",
        lambda device, precision, seed: efficientnet_features(device, precision),
    ),
    "dino": Baseline(
        "DINO ViT-S/8, self-supervised on ImageNet, last layer (downloads 87 MB)",
        lambda device, precision, seed: dino_features(None, device, precision),
    ),
}


def build_baseline(
    name: str,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    seed: int = 0,
) -> Method | FeatureExtractor:
    """A baseline by name.

    Raises:
        InputError: an unknown name, or weights that are neither here nor to be downloaded.
    """
    if name not in BASELINES:
        raise InputError(f"expected a baseline among {', '.join(BASELINES)}, got {name!r}")
    return BASELINES[name].build(device, precision, seed)
