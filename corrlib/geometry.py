"""The conventions every module keeps, and the arithmetic that follows from them.

* A video is ``(T, 3, H, W)`` uint8 RGB on the CPU; one frame is ``(3, H, W)`` uint8.
* A frame for a network is float in [0, 1]; the encoder's own front end normalises it.
* Features are ``(B, C, h, w)`` with stride ``s``. A frame whose sides are not multiples of ``s``
  is first extended on the right and below by repeating its last column and row, so
  ``h = ceil(H / s)`` and ``w = ceil(W / s)``.
* Points are ``(x, y)`` in pixels of the original frame; the centre of the top-left pixel is
  ``(0, 0)``. The centre of feature cell ``(u, v)`` is the middle of the pixels it stands for:
  ``x = s·u + (s - 1)/2``, ``y = s·v + (s - 1)/2``.
* A full affinity is ``(B, n_ref, n_tar)``, a restricted one ``(B, R·(2M+1)², h, w)`` with offsets
  in row-major ``(dy, dx)`` order and the R references outermost. Both are a softmax over
  references (dimension 1). Cells outside the image are exactly 0.
* Labels are carried softly; the arg-max is taken only for output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F

from corrlib.errors import InputError


def points_to_grid(points: torch.Tensor, stride: int) -> torch.Tensor:
    """Pixel coordinates ``(..., 2)`` to (fractional) feature-cell coordinates ``(..., 2)``."""
    return (points - (stride - 1) / 2) / stride


def grid_to_points(grid: torch.Tensor, stride: int) -> torch.Tensor:
    """Feature-cell coordinates ``(..., 2)`` to pixel coordinates ``(..., 2)``."""
    return grid * stride + (stride - 1) / 2


def cell_centres(height: int, width: int, stride: int = 1) -> torch.Tensor:
    """Pixel coordinates ``(2, h, w)``, x first, of the centres of an ``h x w`` feature map."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    return grid_to_points(torch.stack([x, y]), stride)


def pad_to_multiple(images: torch.Tensor, stride: int) -> torch.Tensor:
    """Extend ``(B, C, H, W)`` right and down to multiples of ``stride`` by repeating the edge."""
    if images.dim() != 4:
        raise InputError(f"expected images (B, C, H, W), got shape {tuple(images.shape)}")
    height, width = images.shape[-2:]
    bottom, right = -height % stride, -width % stride
    if not (bottom or right):
        return images
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


def to_float(frames: torch.Tensor) -> torch.Tensor:
    """uint8 frames to float in [0, 1], same shape and device."""
    if frames.dtype != torch.uint8:
        raise InputError(f"expected uint8 frames, got {frames.dtype}; float ones are in [0, 1]")
    return frames.float() / 255


def of_one_size(frames: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Frames ``(3, H, W)`` as they come, after checking each against the first.

    Raises:
        InputError: no frames, or frames of different sizes.
    """
    size = None
    for frame in frames:
        size = size or tuple(frame.shape[1:])
        if tuple(frame.shape[1:]) != size:
            raise InputError(
                f"expected frames of one size, got {size[0]}x{size[1]} first and "
                f"{frame.shape[1]}x{frame.shape[2]} (height x width) later"
            )
        yield frame
    if size is None:
        raise InputError("expected a video of at least 1 frame, got none")
