"""Propagation: carry a mask, given on the first frame, through a video.

Recursive and soft (Lai & Xie 2019, §4.2; Jabri et al. 2020): the labels found on a frame become a
reference for the next ones. Frames are streamed; each is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from corrlib.affinity import normalise
from corrlib.errors import InputError
from corrlib.geometry import pad_to_multiple, to_float
from corrlib.masks import check_mask, count_objects, one_hot
from corrlib.memory import ReferenceMemory


@dataclass(frozen=True)
class FeatureExtractor:
    """What propagation needs of an encoder, trained or not.

    Attributes:
        name: for reports.
        stride: pixels per feature cell.
        channels: C.
        extract: frames ``(1, 3, H, W)`` in [0, 1] to ``(1, C, H/stride, W/stride)``. Propagation
            L2-normalises what comes back.
    """

    name: str
    stride: int
    channels: int
    extract: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PropagationConfig:
    """How labels are carried.

    Attributes:
        references: latest frames used besides the first.
        radius: M, how far a cell may have moved, in cells per axis.
        topk: cells, over all references together, whose labels are averaged.
        temperature: τ of the softmax over their similarities.
        short_side: resize frames to this many pixels for the encoder; ``None`` keeps them. Masks
            come back at full size.
    """

    references: int = 4
    radius: int = 12
    topk: int = 10
    temperature: float = 0.05
    short_side: int | None = None

    def __post_init__(self):
        for name, least in (("references", 0), ("radius", 1), ("topk", 1)):
            if getattr(self, name) < least:
                raise InputError(f"expected {name} of at least {least}, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise InputError(f"expected a temperature above 0, got {self.temperature}")
        if self.short_side is not None and self.short_side < 16:
            raise InputError(f"expected a size of at least 16 pixels, got {self.short_side}")


class Propagator:
    """Carries soft labels from frame to frame.

    ``start`` takes the first frame with its labels, ``step`` every further frame in order. Labels
    live on the feature grid, ``(L, h, w)`` float32; any number of maps of any meaning.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        config: PropagationConfig,
        device: torch.device | str = "cpu",
    ):
        self.extractor, self.config, self.device = extractor, config, torch.device(device)
        self.memory: ReferenceMemory | None = None

    @torch.inference_mode()
    def encode(self, frame: torch.Tensor) -> torch.Tensor:
        """A uint8 frame ``(3, H, W)`` to unit features ``(C, h, w)``."""
        size = encoded_size(tuple(frame.shape[1:]), self.config)
        if size != tuple(frame.shape[1:]):  # while on the CPU: elsewhere bytes cannot be resized
            frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
        frame = pad_to_multiple(to_float(frame.to(self.device)[None]), self.extractor.stride)
        return normalise(self.extractor.extract(frame).float())[0]

    @torch.inference_mode()
    def start(self, frame: torch.Tensor, labels: torch.Tensor) -> None:
        """Begin with a frame ``(3, H, W)`` and its labels ``(L, h, w)``."""
        features = self.encode(frame)
        if features.shape[1:] != labels.shape[1:]:
            raise InputError(
                f"expected labels of the feature map's size {tuple(features.shape[1:])}, "
                f"got {tuple(labels.shape[1:])}"
            )
        self.memory = ReferenceMemory(
            tuple(features.shape),
            len(labels),
            latest=self.config.references,
            radius=self.config.radius,
            topk=self.config.topk,
            temperature=self.config.temperature,
            device=self.device,
        )
        self.memory.add(features, labels.to(self.device))

    @torch.inference_mode()
    def step(self, frame: torch.Tensor) -> torch.Tensor:
        """The labels ``(L, h, w)`` of the next frame ``(3, H, W)``."""
        features = self.encode(frame)
        labels = self.memory.copy(*self.memory.match(features))
        self.memory.add(features, labels)
        return labels


def propagate_mask(
    frames: Iterable[torch.Tensor],
    mask: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """Yield a mask for every frame; the first is the one given.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        mask: ``(H, W)`` uint8 ids of the objects on the first frame, 0 is background.
        extractor: features to match.
        config: how to match.

    Yields:
        ``(H, W)`` uint8 masks on the CPU.

    Raises:
        InputError: no frames, frames of different sizes, a mask of another size than the video, a
            mask without an object.
    """
    config = config or PropagationConfig()
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError("expected a video of at least 1 frame, got none")
    size = tuple(first.shape[1:])
    check_mask(mask, *size)
    yield mask
    propagator = Propagator(extractor, config, device)
    propagator.start(first, mask_to_labels(mask, extractor.stride, config))
    for frame in frames:
        if tuple(frame.shape[1:]) != size:
            raise InputError(
                f"expected frames of one size, got {size[0]}x{size[1]} first and "
                f"{frame.shape[1]}x{frame.shape[2]} (height x width) later"
            )
        labels = propagator.step(frame)
        yield labels_to_mask(labels, size, extractor.stride, config)


def mask_to_labels(mask: torch.Tensor, stride: int, config: PropagationConfig) -> torch.Tensor:
    """The share of each id within each feature cell: ``(H, W)`` to ``(objects + 1, h, w)``."""
    labels = one_hot(mask, count_objects(mask))[None]
    size = encoded_size(tuple(mask.shape), config)
    if size != tuple(mask.shape):
        labels = F.interpolate(labels, size, mode="bilinear", antialias=True)
    return F.avg_pool2d(pad_to_multiple(labels, stride), stride)[0]


def labels_to_mask(
    labels: torch.Tensor, size: tuple[int, int], stride: int, config: PropagationConfig
) -> torch.Tensor:
    """The most likely id of every pixel: ``(L, h, w)`` to ``(H, W)`` uint8 on the CPU."""
    fine = F.interpolate(labels[None], scale_factor=stride, mode="bilinear")
    height, width = encoded_size(size, config)
    fine = fine[:, :, :height, :width]
    if (height, width) != size:
        fine = F.interpolate(fine, size, mode="bilinear")
    # max(0)[1] is argmax(0), a hundred times as fast on the CPU.
    return fine[0].max(dim=0)[1].to(torch.uint8).cpu()


def encoded_size(size: tuple[int, int], config: PropagationConfig) -> tuple[int, int]:
    """Height and width at which a frame of ``size`` is encoded."""
    if config.short_side is None:
        return tuple(size)
    scale = config.short_side / min(size)
    return tuple(max(1, round(side * scale)) for side in size)


def memory_estimate(
    size: tuple[int, int], objects: int, extractor: FeatureExtractor, config: PropagationConfig
) -> int:
    """Bytes that propagation holds for a video of ``size``, whatever its length.

    Beside this come the program itself (about 0.7 GB with PyTorch) and the video codecs.
    """
    height, width = (-(-side // extractor.stride) for side in encoded_size(size, config))
    memory = ReferenceMemory.estimate(
        (extractor.channels, height, width), objects + 1, config.references, config.radius
    )
    # A frame in float, the widest activations of a ResNet-18 (64 maps at half size, three of
    # them alive), and the labels at full size.
    pixels = height * width * extractor.stride**2
    return memory + 4 * (3 * pixels + 3 * 64 * pixels // 4 + (objects + 1) * 2 * pixels)
