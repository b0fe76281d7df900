"""Propagation: carry labels, given on the first frame, through a video.

Recursive and soft (Lai & Xie 2019, §4.2; Jabri et al. 2020): the labels found on a frame become a
reference for the next ones. Frames are streamed; each is encoded once. How the papers do it is in
:mod:`corrlib.presets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import psutil
import torch
import torch.nn.functional as F

from corrlib.affinity import normalise
from corrlib.errors import InputError
from corrlib.geometry import of_one_size, pad_to_multiple, to_float
from corrlib.masks import VOID, check_mask, count_objects, mask_array
from corrlib.memory import DTYPES, ReferenceMemory
from corrlib.stages import stage

NATIVE_SHORT_SIDE = 480
"""Frames with a longer short side are encoded at this size, unless another is asked for."""


@dataclass(frozen=True)
class FeatureExtractor:
    """What propagation needs of an encoder, trained or not.

    Attributes:
        name: for reports.
        stride: pixels per feature cell.
        channels: C.
        extract: frames ``(1, 3, H, W)`` in [0, 1] to ``(1, C, H/stride, W/stride)``.
        temperature: τ of the affinity that the features were trained with.
        unit_features: whether they were compared as unit vectors then.
    """

    name: str
    stride: int
    channels: int
    extract: Callable[[torch.Tensor], torch.Tensor]
    temperature: float = 0.05
    unit_features: bool = True


@dataclass(frozen=True)
class PropagationConfig:
    """How labels are carried.

    Attributes:
        references: latest frames used besides the first.
        radius: M, how far a cell may have moved, in cells per axis; ``None`` is the whole frame.
        topk: cells whose labels are averaged; ``None`` takes all in reach.
        temperature: τ of the softmax over their similarities; ``None`` is the extractor's own.
        short_side: resize frames to this many pixels for the encoder, up or down; ``None`` keeps
            them, up to 480. Masks come back at full size.
        first: keep the first frame as a reference for ever.
        first_radius: the radius on the first frame (and others whose labels are given).
        long_term: at most so many older frames, spread evenly over the past.
        per_reference: take the top k in each reference and average over references, rather than
            the top k of all references together.
        rescale: weights of the top k sum to 1; otherwise they keep their share in the softmax over
            all cells in reach.
        unit_features: compare features as unit vectors; ``None`` is as the extractor's own.
        normalise_labels: stretch each label map of a result to [0, 1] before it is read. What is
            fed back stays as it is.
        feedback: ``soft`` feeds labels back as they are, ``hard`` the arg-max of each pixel.
        precision: of the similarities, ``fp32``, ``bf16`` or ``fp16``. The encoder's own is the
            extractor's.
    """

    references: int = 4
    radius: int | None = 12
    topk: int | None = 10
    temperature: float | None = 0.05
    short_side: int | None = None
    first: bool = True
    first_radius: int | None | Literal["same"] = "same"
    long_term: int = 0
    per_reference: bool = False
    rescale: bool = True
    unit_features: bool | None = True
    normalise_labels: bool = False
    feedback: Literal["soft", "hard"] = "soft"
    precision: str = "fp32"

    def __post_init__(self):
        least = {"references": 0, "radius": 1, "topk": 1, "first_radius": 1, "long_term": 0}
        for name, limit in least.items():
            value = getattr(self, name)
            if value not in (None, "same") and value < limit:
                raise InputError(f"expected {name} of at least {limit}, got {value}")
        if not (self.first or self.references or self.long_term):
            raise InputError("expected a reference: keep the first frame, or at least 1 other")
        if self.temperature is not None and not self.temperature > 0:
            raise InputError(f"expected a temperature above 0, got {self.temperature}")
        if self.short_side is not None and self.short_side < 16:
            raise InputError(f"expected a size of at least 16 pixels, got {self.short_side}")
        for name, choices in (("feedback", ("soft", "hard")), ("precision", tuple(DTYPES))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"expected {name} among {', '.join(choices)}, got {getattr(self, name)!r}"
                )

    def for_extractor(self, extractor: FeatureExtractor) -> PropagationConfig:
        """The same with the extractor's own temperature and unit features where they are None."""
        return replace(
            self,
            temperature=extractor.temperature if self.temperature is None else self.temperature,
            unit_features=(
                extractor.unit_features if self.unit_features is None else self.unit_features
            ),
        )


class Propagator:
    """Carries soft labels from frame to frame.

    ``start`` takes the first frame with its labels, ``step`` every further frame in order. Labels
    live on the feature grid, ``(L, h, w)`` float32; any number of maps of any meaning.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        config: PropagationConfig | None = None,
        device: torch.device | str = "cpu",
    ):
        config = (config or PropagationConfig()).for_extractor(extractor)
        self.extractor, self.config, self.device = extractor, config, torch.device(device)
        self.memory: ReferenceMemory | None = None

    @torch.inference_mode()
    def encode(self, frame: torch.Tensor) -> torch.Tensor:
        """A uint8 frame ``(3, H, W)`` to features ``(C, h, w)`` that are ready to be compared."""
        with stage("encode"):
            size = encoded_size(tuple(frame.shape[1:]), self.config)
            if size != tuple(frame.shape[1:]):  # on the CPU: elsewhere bytes cannot be resized
                frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
            frame = pad_to_multiple(to_float(frame.to(self.device)[None]), self.extractor.stride)
            features = self.extractor.extract(frame).float()
            return (normalise(features) if self.config.unit_features else features)[0]

    @torch.inference_mode()
    def start(self, frame: torch.Tensor, labels: torch.Tensor) -> None:
        """Begin with a frame ``(3, H, W)`` and its labels ``(L, h, w)``."""
        self._features = self.encode(frame)
        self._size = encoded_size(tuple(frame.shape[1:]), self.config)
        if self._features.shape[1:] != labels.shape[1:]:
            raise InputError(
                f"expected labels of the feature map's size {tuple(self._features.shape[1:])}, "
                f"got {tuple(labels.shape[1:])}"
            )
        self._labels = labels.to(self.device)
        # Maps that a share, unknown on frames before they were added, may belong to. The memory has
        # a map of that share, in front of all others, as soon as there are any.
        self._open: torch.Tensor | None = None
        self.memory = ReferenceMemory(
            tuple(self._features.shape), len(labels), self.config, self.device
        )
        self.memory.add(self._features, self._labels)

    @torch.inference_mode()
    def step(self, frame: torch.Tensor) -> torch.Tensor:
        """The labels ``(L, h, w)`` of the next frame ``(3, H, W)``."""
        self._features = self.encode(frame)
        labels = self.memory.carry(self._features)
        if self._open is not None:
            labels = settle(labels, self._open)
        copied = labels
        if self.config.normalise_labels:
            labels = stretch(labels)
        if self.config.feedback == "hard":
            copied = harden(labels, self._size, self.extractor.stride)
        self._labels = copied
        self.memory.add(self._features, F.pad(copied, (0, 0, 0, 0, int(self._open is not None), 0)))
        return labels

    @torch.inference_mode()
    def insert(self, labels: torch.Tensor) -> torch.Tensor:
        """Add objects to the latest frame, which stays a reference for ever.

        Labels are shares here, and map 0 is the background. What earlier frames call background may
        be one of the new objects; whether it is, is judged by the frames that know them.

        Args:
            labels: ``(L', h, w)``, L' at least the number of maps so far: the share of each cell
                that is new, 0 in the maps that are not. What was carried keeps the rest of the
                cell.

        Returns:
            All labels of this frame, ``(L', h, w)``.
        """
        new = labels.to(self.device)
        more = len(new) - len(self._labels)
        if new.shape[1:] != self._labels.shape[1:] or more < 0:
            raise InputError(
                f"expected at least {len(self._labels)} label maps of size "
                f"{tuple(self._labels.shape[1:])}, got shape {tuple(new.shape)}"
            )
        self._labels = F.pad(self._labels, (0, 0, 0, 0, 0, more)) * (1 - new.sum(0)) + new
        added = new.flatten(1).amax(1) > 0
        added[0] = True
        known = F.pad(self.memory.labels, (int(self._open is None), more))
        self._open = added if self._open is None else F.pad(self._open, (0, more)) | added
        known[..., 0] += known[..., 1]
        known[..., 1] = 0
        self.memory.labels = known
        self.memory.keep_latest(self._features, F.pad(self._labels, (0, 0, 0, 0, 1, 0)))
        return self._labels


def propagate_labels(
    frames: Iterable[torch.Tensor],
    labels: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """Yield label maps for every frame; the first are those given.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        labels: ``(L, h, w)`` float32 on the first frame's feature grid (see ``label_grid``), of any
            meaning: shares of objects or parts, heat maps of joints, coordinates.
        extractor: features to match.
        config: how to match.

    Yields:
        ``(L, h, w)`` float32 on ``device``.

    Raises:
        InputError: no frames, frames of different sizes, labels of another size than the grid,
            more memory needed than there is.
    """
    config = config or PropagationConfig()
    frames = of_one_size(frames)
    first = next(frames)
    check_memory(tuple(first.shape[1:]), len(labels) - 1, extractor, config, device)
    propagator = Propagator(extractor, config, device)
    propagator.start(first, labels)
    yield labels.to(propagator.device)
    for frame in frames:
        yield propagator.step(frame)


def propagate_mask(
    frames: Iterable[torch.Tensor],
    mask: torch.Tensor,
    extractor: FeatureExtractor,
    config: PropagationConfig | None = None,
    device: torch.device | str = "cpu",
    later: Mapping[int, torch.Tensor] | None = None,
) -> Iterator[torch.Tensor]:
    """Yield a mask for every frame; the first is the one given.

    Args:
        frames: uint8 ``(3, H, W)``, all of one size.
        mask: ``(H, W)`` uint8 ids of the objects on the first frame, 0 is background.
        extractor: features to match.
        config: how to match.
        later: masks of later frames by their number, the first frame being 0. Ids that no earlier
            mask has are followed from there on; others, and void, are passed over.

    Yields:
        ``(H, W)`` uint8 masks on the CPU.

    Raises:
        InputError: no frames, frames of different sizes, a mask of another size than the video, a
            mask without an object, a later mask on no frame of the video, more memory needed than
            there is.
    """
    config = config or PropagationConfig()
    later = dict(later or {})
    if later and min(later) < 1:
        raise InputError(f"expected later masks on frames from 1 on, got one on {min(later)}")
    frames = of_one_size(frames)
    first = next(frames)
    size = tuple(first.shape[1:])
    objects = max(check_mask(given, *size) for given in (mask, *later.values()))
    check_memory(size, objects, extractor, config, device, given=1 + len(later))
    yield mask
    known = set(mask.unique().tolist()) | {0, VOID}
    propagator = Propagator(extractor, config, device)
    labels = mask_to_labels(mask, extractor.stride, config)
    propagator.start(first, labels)
    maps, number = len(labels), 0
    for number, frame in enumerate(frames, start=1):
        found = labels_to_mask(propagator.step(frame), size, extractor.stride, config)
        added = later.pop(number, None)
        if added is not None:
            new = torch.from_numpy(mask_array(added))
            fresh = torch.tensor(sorted(set(new.unique().tolist()) - known), dtype=torch.uint8)
            new = torch.where(torch.isin(new, fresh), new, 0)
            if len(fresh):
                maps = max(int(fresh[-1]) + 1, maps)
                labels = mask_to_labels(new, extractor.stride, config, maps)
                labels[0] = 0
                propagator.insert(labels)
                known |= set(fresh.tolist())
                found = torch.where(new > 0, new, found)
        yield found
    if later:
        raise InputError(
            f"expected later masks on frames up to {number}, the last, got one on {min(later)}"
        )


# -- labels and masks --


def mask_to_labels(
    mask: torch.Tensor, stride: int, config: PropagationConfig, maps: int | None = None
) -> torch.Tensor:
    """The share of each id within each feature cell: ``(H, W)`` to ``(objects + 1, h, w)``.

    Void counts as background. ``maps`` asks for more maps than the mask has ids.
    """
    ids = torch.from_numpy(mask_array(mask))
    ids = torch.where(ids == VOID, 0, ids)
    size = encoded_size(tuple(ids.shape), config)
    labels = []
    for number in range(maps or count_objects(ids) + 1):  # one at a time: at full size they add up
        share = (ids == number).float()[None, None]
        if size != tuple(ids.shape):
            share = F.interpolate(share, size, mode="bilinear", antialias=True)
        labels.append(F.avg_pool2d(pad_to_multiple(share, stride), stride)[0, 0])
    return torch.stack(labels)


def labels_to_mask(
    labels: torch.Tensor, size: tuple[int, int], stride: int, config: PropagationConfig
) -> torch.Tensor:
    """The most likely id of every pixel: ``(L, h, w)`` to ``(H, W)`` uint8 on the CPU."""
    with stage("upsample"):
        return _most_likely(labels, encoded_size(size, config), stride, size).cpu()


def _most_likely(
    labels: torch.Tensor, encoded: tuple[int, int], stride: int, size: tuple[int, int]
) -> torch.Tensor:
    """As above, on the labels' device; of equal ones the lower id. A few maps at a time, for many
    at full size would add up."""
    best = ids = None
    for start in range(0, len(labels), 8):
        fine = F.interpolate(labels[None, start : start + 8], scale_factor=stride, mode="bilinear")
        fine = fine[:, :, : encoded[0], : encoded[1]]
        if encoded != tuple(size):
            fine = F.interpolate(fine, size, mode="bilinear")
        # max(0)[1] is argmax(0), a hundred times as fast on the CPU.
        value, number = fine[0].max(dim=0)
        number = number.to(torch.uint8) + start
        if best is not None:
            number = torch.where(value > best, number, ids)
            value = torch.maximum(value, best)
        best, ids = value, number
    return ids


def harden(labels: torch.Tensor, encoded: tuple[int, int], stride: int) -> torch.Tensor:
    """Labels ``(L, h, w)`` as they would be of the mask that they stand for."""
    ids = _most_likely(labels, encoded, stride, encoded)
    shares = []
    for number in range(len(labels)):
        share = pad_to_multiple((ids == number).float()[None, None], stride)
        shares.append(F.avg_pool2d(share, stride)[0, 0])
    return torch.stack(shares)


def settle(labels: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Deal out what is unknown: ``(1 + L, h, w)``, the unknown share first, to ``(L, h, w)``.

    The background and each other of the ``maps`` (bool, ``(L,)``) get a part in proportion to
    themselves; where these are all 0 it is background.
    """
    unknown, labels = labels[0], labels[1:]
    known = labels * maps[:, None, None]
    total = known.sum(0)
    labels = labels + known * (unknown / total.clamp_min(1e-12))
    labels[0] += torch.where(total > 1e-12, 0, unknown)
    return labels


def stretch(labels: torch.Tensor) -> torch.Tensor:
    """Each map of ``(L, h, w)`` from its least to its largest value to [0, 1] (Li et al. 2019,
    released code); one that is the same everywhere stays as it is."""
    least, most = labels.aminmax(dim=2)
    least = least.amin(dim=1)[:, None, None]
    span = most.amax(dim=1)[:, None, None] - least
    return torch.where(span > 0, (labels - least) / span.clamp_min(1e-30), labels)


# -- sizes --


def encoded_size(size: tuple[int, int], config: PropagationConfig) -> tuple[int, int]:
    """Height and width at which a frame of ``size`` is encoded."""
    short_side = config.short_side or min(*size, NATIVE_SHORT_SIDE)
    scale = short_side / min(size)
    return tuple(max(1, round(side * scale)) for side in size)


def label_grid(
    size: tuple[int, int], stride: int, config: PropagationConfig | None = None
) -> tuple[int, int]:
    """Height and width of the feature map, on which labels live, of frames of ``size``."""
    height, width = encoded_size(size, config or PropagationConfig())
    return -(-height // stride), -(-width // stride)


def memory_estimate(
    size: tuple[int, int],
    objects: int,
    extractor: FeatureExtractor,
    config: PropagationConfig,
    given: int = 1,
) -> int:
    """Bytes that propagation holds for a video of ``size``, whatever its length.

    ``given`` counts the frames whose labels are given. Beside this come the program itself (about
    0.7 GB with PyTorch) and the video codecs.
    """
    height, width = label_grid(size, extractor.stride, config)
    memory = ReferenceMemory.estimate(
        (extractor.channels, height, width), objects + 1 + (given > 1), config, given
    )
    # A frame in float, the widest activations of a ResNet-18 (64 maps at half size, three of
    # them alive); labels on the grid and, a few at a time, at full size.
    pixels = height * width * extractor.stride**2
    fine = min(objects + 1, 8) * (pixels + size[0] * size[1]) + 4 * size[0] * size[1]
    labels = (objects + 1) * height * width
    return memory + 4 * (3 * pixels + 3 * 64 * pixels // 4 + fine + 4 * labels)


def check_memory(
    size: tuple[int, int],
    objects: int,
    extractor: FeatureExtractor,
    config: PropagationConfig,
    device: torch.device | str = "cpu",
    given: int = 1,
) -> None:
    """Raise an InputError where ``memory_estimate`` exceeds what the device has available."""
    needed = memory_estimate(size, objects, extractor, config, given)
    device = torch.device(device)
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"expected to need at most the {available / 2**30:.1f} GB of memory that are "
            f"available, propagation at {size[1]}x{size[0]} needs {needed / 2**30:.1f} GB; "
            "take fewer references or a smaller size (--references, --size)"
        )
