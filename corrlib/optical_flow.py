"""Dense optical flow as a tracker: labels follow the flow from frame to frame.

The flow that is asked for runs *backwards*: for every pixel of the new frame (the target) it says
where that pixel was in the frame before (the source), so that each pixel fetches its label ::

    labels_t(x) = labels_{t-1}(x + flow(x)),      flow = displacement from frame t to frame t-1

and no hole is left. Labels stay soft from frame to frame; the arg-max is taken only for output.
Flow knows the last frame alone: what is covered once is lost, and errors add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import torch
import torch.nn.functional as F

from corrlib.errors import InputError
from corrlib.fetch import torchvision_state
from corrlib.geometry import of_one_size
from corrlib.masks import check_mask, count_objects, one_hot

DIS_SMALLEST = 32  # pixels per side; OpenCV's DIS reads out of bounds on frames below 16
RAFT_SMALLEST = 128  # its correlation pyramid halves the 1/8 map three times
RAFT_STRIDE = 8


@dataclass(frozen=True)
class FlowEstimator:
    """Anything that estimates flow, as :func:`propagate_by_flow` wants it.

    Attributes:
        name: for reports.
        describe: a uint8 RGB frame ``(3, H, W)`` to whatever is compared; once per frame.
        between: descriptions of target and source to the flow ``(2, H, W)`` float32 on the CPU:
            the displacement (x, y) in pixels that leads from a target pixel to its source.
    """

    name: str
    describe: Callable[[torch.Tensor], Any]
    between: Callable[[Any, Any], torch.Tensor]


def warp(values: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Fetch ``values (C, H, W)`` from where ``flow (2, H, W)`` points, between pixels bilinearly.

    ``warp(values, flow)[:, y, x]`` is ``values`` at ``(x + flow[0, y, x], y + flow[1, y, x])``.
    Whole-pixel displacements copy exactly. Beyond the border ``values`` are 0.

    Raises:
        InputError: shapes that do not go together.
    """
    if values.dim() != 3 or tuple(flow.shape) != (2, *values.shape[1:]):
        raise InputError(
            "expected values (C, H, W) and a flow (2, H, W) of the same size, "
            f"got {tuple(values.shape)} and {tuple(flow.shape)}"
        )
    height, width = values.shape[1:]
    # Far out is far enough; a NaN stays NaN, compares false, and so fetches nothing.
    x = torch.arange(width, device=flow.device) + flow[0].clamp(-2 * width, 2 * width)
    y = torch.arange(height, device=flow.device)[:, None] + flow[1].clamp(-2 * height, 2 * height)
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    cells = values.flatten(1)
    fetched = torch.zeros_like(values)
    for dy, row_share in ((0, 1 - lower_share), (1, lower_share)):
        for dx, column_share in ((0, 1 - right_share), (1, right_share)):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = torch.where(inside, row * width + column, 0).long()
            share = torch.where(inside, row_share * column_share, 0)
            fetched += share * cells[:, index.flatten()].view_as(values)
    return fetched


def propagate_by_flow(
    frames: Iterable[torch.Tensor], mask: torch.Tensor, estimator: FlowEstimator
) -> Iterator[torch.Tensor]:
    """Yield a mask for every frame; the first is the one given.

    What comes from beyond the border is background.

    Args:
        frames: uint8 ``(3, H, W)`` RGB, all of one size.
        mask: ``(H, W)`` uint8 ids of the objects on the first frame, 0 is background.
        estimator: of the flow.

    Yields:
        ``(H, W)`` uint8 masks.

    Raises:
        InputError: no frames, frames of different sizes, a mask of another size than the video, a
            mask without an object.
    """
    frames = of_one_size(frames)
    first = next(frames)
    size = tuple(first.shape[1:])
    check_mask(mask, *size)
    yield mask
    labels = one_hot(mask, count_objects(mask))
    source = estimator.describe(first)
    for frame in frames:
        target = estimator.describe(frame)
        labels = warp(labels, estimator.between(target, source))
        labels[0] = 1 - labels[1:].sum(dim=0)  # the rest, also of what came from outside
        source = target
        yield labels.max(dim=0)[1].to(torch.uint8)  # argmax(0), a hundred times as fast


def dis_flow() -> FlowEstimator:
    """OpenCV's Dense Inverse Search on grey frames (Kroeger et al., ECCV 2016), medium preset."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def describe(frame: torch.Tensor):
        rgb = _pad(frame, 1, DIS_SMALLEST).permute(1, 2, 0).contiguous().numpy()
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), tuple(frame.shape[1:])

    def between(target, source) -> torch.Tensor:
        (grey, (height, width)), (before, _) = target, source
        flow = torch.from_numpy(dis.calc(grey, before, None))
        return flow.permute(2, 0, 1)[:, :height, :width]

    return FlowEstimator("dis-flow", describe, between)


def raft_flow(device: torch.device | str = "cpu") -> FlowEstimator:
    """RAFT (Teed & Deng, ECCV 2020), torchvision's large model with its default weights.

    Trained with true flow, mostly of rendered scenes, so it is a supervised baseline. The weights
    (21 MB) are downloaded once and verified.

    Raises:
        InputError: the weights are neither in torchvision's cache nor to be downloaded.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    state = torchvision_state(Raft_Large_Weights.DEFAULT, "RAFT's weights")
    model = raft_large()
    model.load_state_dict(state)
    return raft_estimator(model.to(device).eval(), device)


def raft_estimator(model: torch.nn.Module, device: torch.device | str = "cpu") -> FlowEstimator:
    """A flow network that works as torchvision's RAFT does: two images ``(1, 3, H, W)`` in [-1, 1]
    to a list of ever better flows ``(1, 2, H, W)`` from the first to the second."""

    def describe(frame: torch.Tensor):
        padded = _pad(frame, RAFT_STRIDE, RAFT_SMALLEST)[None].to(device)
        return padded.float() / 127.5 - 1, tuple(frame.shape[1:])

    @torch.inference_mode()
    def between(target, source) -> torch.Tensor:
        (image, (height, width)), (before, _) = target, source
        return model(image, before)[-1][0, :, :height, :width].float().cpu().clone()

    return FlowEstimator("raft-flow", describe, between)


def _pad(frame: torch.Tensor, stride: int, smallest: int) -> torch.Tensor:
    """Extend ``(3, H, W)`` right and down, by its edge, to multiples of ``stride``."""
    height, width = (max(-(-side // stride) * stride, smallest) for side in frame.shape[1:])
    padding = (0, width - frame.shape[2], 0, height - frame.shape[1])
    if not any(padding):
        return frame
    return F.pad(frame.float(), padding, mode="replicate").to(frame.dtype)
