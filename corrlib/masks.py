"""Object masks: reading and writing them, one-hot labels, and drawing them over a frame.

A mask is an ``(H, W)`` uint8 tensor of object ids, 0 for the background. On disk it is an
indexed PNG with the DAVIS palette, in which the pixel value *is* the id.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from corrlib.errors import InputError
from corrlib.files import atomic_path

VOID = 255
"""The id DAVIS-2017 gives to pixels that belong to no object and are not counted as one."""

MAX_PIXELS = 100_000_000
MAX_GREY_ID = 100
MAX_COLOURS = 20
"""How many colours of a painter's own choice an image may hold and still be taken for a mask."""

_EXPECTED = "expected a mask: an indexed PNG of ids, or one flat colour per object on black"


def _davis_palette() -> np.ndarray:
    """The palette of PASCAL VOC and DAVIS, ``(256, 3)`` uint8 RGB.

    The bits of the id are dealt out to red, green and blue in turn, the lowest three of them to
    the highest bit of each channel, so that small ids get colours far apart.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((ids >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    palette.setflags(write=False)
    return palette


PALETTE = _davis_palette()
"""Colours of ids 0..255 in mask files, ``(256, 3)`` uint8 RGB (read-only array)."""


def _display_colours() -> np.ndarray:
    """Colours for drawing over video: ids 1..8 told apart by colour-blind readers too.

    Ids 1..8 follow Okabe and Ito, "Color Universal Design" (2008), with white for their black,
    which would vanish in shadows; the others are the DAVIS colours lifted out of the dark.
    """
    colours = np.rint(80 + PALETTE * (175 / 255)).astype(np.uint8)
    colours[1:9] = [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (255, 255, 255),
    ]
    colours.setflags(write=False)
    return colours


DISPLAY_COLOURS = _display_colours()
"""Colours of ids 0..255 in overlays and plots, ``(256, 3)`` uint8 RGB (read-only array)."""


def read_mask(path: str | Path) -> torch.Tensor:
    """Read a mask file as ``(H, W)`` uint8 object ids.

    - An indexed image gives its indices, whatever colours its palette holds.
    - A greyscale image of 0 and 255 alone (or a 1-bit one) gives 0 and 1. Grey levels up to 100
      are ids as they stand, beside 255 (void).
    - An RGB image in colours of the DAVIS palette gives their ids; one that holds greys only is
      read like a greyscale image. Fully transparent pixels are background.
    - Any other image of at most ``MAX_COLOURS`` flat colours on black: the colours are numbered
      1, 2, ... as they appear, row by row from the top left.

    Raises:
        InputError: no such file, not an image, 16 bits deep, more than 100 megapixels (told
            from the header, nothing is decoded), more colours than that, no black background,
            or colours found along edges only, as smoothed edges leave them.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {_EXPECTED}; found no such file, check the path")
    try:
        return torch.from_numpy(_decode(path))
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except (OSError, SyntaxError, EOFError, ValueError, struct.error, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        if str(path) in reason:
            reason = "the content is no image"
        raise InputError(
            f"{path}: {_EXPECTED}; it cannot be read ({reason}), save it again as PNG"
        ) from error


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{path}: expected a mask of at most {MAX_PIXELS // 10**6} megapixels, got a larger "
        "image; resize it with nearest neighbour"
    )


def _decode(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the guard below is ours
        image = Image.open(path)
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(path)
        if image.mode.startswith(("I", "F")) or _png_bit_depth(path) == 16:
            raise InputError(f"{path}: {_EXPECTED}; got 16 bits or more, save it with 8 bits")
        if image.mode == "P":
            return np.array(image)
        if image.mode in ("1", "L"):
            return _ids_from_grey(np.array(image.convert("L")), path)
        if image.mode in ("RGB", "RGBA", "LA", "PA"):
            return _ids_from_rgb(np.array(image.convert("RGBA")), path)
        raise InputError(
            f"{path}: {_EXPECTED}; got image mode {image.mode}, save it as an indexed PNG"
        )


def _png_bit_depth(path: Path) -> int | None:
    """Bits per sample of a PNG (Pillow hides that an RGB one has 16), or None for other files."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG") and len(header) == 25 else None


def _ids_from_grey(grey: np.ndarray, path: Path) -> np.ndarray:
    levels = _levels(grey)
    if np.isin(levels, (0, 255)).all():
        return (grey > 0).astype(np.uint8)
    if ((levels <= MAX_GREY_ID) | (levels == VOID)).all():
        return grey
    return _ids_by_appearance(grey.astype(np.int32) * 0x010101, path)


def _levels(image: np.ndarray) -> np.ndarray:
    """The distinct values of an ``(H, W)`` uint8 image, ascending."""
    return np.flatnonzero(cv2.calcHist([image], [0], None, [256], [0, 256]))


def _ids_from_rgb(rgba: np.ndarray, path: Path) -> np.ndarray:
    alpha = np.ascontiguousarray(rgba[..., 3])
    if not np.isin(_levels(alpha), (0, 255)).all():
        raise InputError(f"{path}: {_EXPECTED}; got half-transparent pixels. {_FLAT}")
    rgb = np.where(alpha[..., None] > 0, rgba[..., :3], 0)
    codes = _colour_codes(rgb)
    palette = _colour_codes(PALETTE)
    if np.isin(codes, palette).all():
        order = np.argsort(palette)
        return order[np.searchsorted(palette, codes, sorter=order)].astype(np.uint8)
    if (rgb == rgb[..., :1]).all():
        return _ids_from_grey(np.ascontiguousarray(rgb[..., 0]), path)
    return _ids_by_appearance(codes, path)


_FLAT = "Paint without smoothed edges, do not save as JPEG, resize with nearest neighbour"


def _ids_by_appearance(codes: np.ndarray, path: Path) -> np.ndarray:
    """Number the colours ``(H, W)`` 0xRRGGBB from 1 as they appear; black is 0."""
    colours, first = np.unique(codes, return_index=True)
    if len(colours) > MAX_COLOURS:
        raise InputError(
            f"{path}: {_EXPECTED}; got {len(colours)} colours, #{codes.flat[first[1]]:06x} and "
            f"others. {_FLAT}"
        )
    if colours[0] != 0:
        raise InputError(
            f"{path}: {_EXPECTED}; got {len(colours)} colours and no black. Paint the background "
            "black (or make it transparent)"
        )
    ids = np.zeros(codes.shape, np.uint8)
    edges = []
    for number, index in enumerate(np.sort(first[1:]), start=1):
        colour = codes.flat[index]
        here = (codes == colour).astype(np.uint8)
        if not cv2.erode(here, np.ones((3, 3), np.uint8)).any():
            edges.append(f"#{colour:06x}")
        ids += number * here
    if edges:
        raise InputError(
            f"{path}: {_EXPECTED}; got {len(edges)} of {len(colours)} colours nowhere wider than 2 "
            f"pixels, as on smoothed edges: {', '.join(edges[:3])}. {_FLAT}"
        )
    return ids


def _colour_codes(rgb: np.ndarray) -> np.ndarray:
    """One integer 0xRRGGBB per colour: ``(..., 3)`` uint8 -> ``(...)`` int32."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def write_mask(path: str | Path, mask: torch.Tensor | np.ndarray) -> None:
    """Write an ``(H, W)`` mask of ids 0..255 as an indexed PNG with the DAVIS palette.

    The file appears whole or not at all. Compression is light, because propagation writes one
    mask per frame and flat masks are small anyway.

    Raises:
        InputError: the mask is not ``(H, W)``, or holds something that is no id.
    """
    image = Image.fromarray(mask_array(mask))
    image.putpalette(PALETTE.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", compress_level=1)


def mask_array(mask: torch.Tensor | np.ndarray) -> np.ndarray:
    """View a mask as an ``(H, W)`` uint8 array: the checked way in for every function on masks.

    uint8 input is not copied; bool and wider integers are converted if their values fit.

    Raises:
        InputError: another number of dimensions, an empty side, or values that are no ids.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"expected a mask of shape (H, W), got {tuple(array.shape)}; give one mask at a time"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "bui":
        raise InputError(
            f"expected a mask of integer ids, got {array.dtype}; take the argmax of soft labels"
        )
    if array.min() < 0 or array.max() > 255:
        raise InputError(
            f"expected mask ids 0..255, got {array.min()}..{array.max()}; renumber the objects"
        )
    return array.astype(np.uint8)


def count_objects(mask: torch.Tensor | np.ndarray) -> int:
    """Number of objects a mask stands for: its largest id, void (255) left out, as in DAVIS."""
    ids = mask_array(mask)
    return int(np.where(ids == VOID, 0, ids).max())


def check_mask(mask: torch.Tensor | np.ndarray, height: int, width: int) -> int:
    """Check a user's first-frame mask against the frame; returns the number of objects.

    Raises:
        InputError: the mask is not ``height`` x ``width``, or shows no object.
    """
    ids = mask_array(mask)
    if ids.shape != (height, width):
        remedy = "resize the mask with nearest neighbour"
        if ids.shape == (width, height):
            remedy = "it lies on its side: draw it on the frame as players show it, upright"
        raise InputError(
            f"expected a mask of {height}x{width} (height x width, as the video), got "
            f"{ids.shape[0]}x{ids.shape[1]}; {remedy}"
        )
    objects = count_objects(ids)
    if objects == 0:
        raise InputError(
            "expected a mask with at least one object (an id from 1 to 254), got background "
            "only; draw the object to follow"
        )
    return objects


def one_hot(mask: torch.Tensor | np.ndarray, objects: int) -> torch.Tensor:
    """Labels of a mask: ``(H, W)`` ids -> ``(objects + 1, H, W)`` float32 of 0 and 1.

    Channel 0 is the background; void pixels (255) count as background, so every pixel sums to 1.

    Raises:
        InputError: an id above ``objects``.
    """
    ids = mask_array(mask)
    found = count_objects(ids)
    if found > objects:
        raise InputError(f"expected object ids up to {objects}, got {found}; renumber the objects")
    labels = torch.from_numpy(np.where(ids == VOID, 0, ids))
    return (labels == torch.arange(objects + 1, dtype=torch.uint8)[:, None, None]).float()


def overlay(
    frame: torch.Tensor, mask: torch.Tensor | np.ndarray, opacity: float = 0.5
) -> torch.Tensor:
    """Draw a mask over a frame: each object filled with its display colour and outlined.

    Args:
        frame: ``(3, H, W)`` uint8 RGB; not changed.
        mask: ``(H, W)`` ids; 0 and void (255) are left clear.
        opacity: 0 (outline only) to 1 (objects hidden under their colour).

    Returns:
        ``(3, H, W)`` uint8 RGB. The outline lies inside the object, with a dark line around it
        that keeps it visible on a background of its own colour.

    Raises:
        InputError: shapes that differ, a frame that is not uint8 RGB, an opacity outside 0..1.
    """
    ids = mask_array(mask)
    if frame.dtype != torch.uint8 or tuple(frame.shape) != (3, *ids.shape):
        raise InputError(
            f"expected a uint8 frame of shape {(3, *ids.shape)} to go with the mask, got "
            f"{frame.dtype} {tuple(frame.shape)}; resize the mask with nearest neighbour"
        )
    if not 0 <= opacity <= 1:
        raise InputError(f"expected an opacity from 0 to 1, got {opacity}")
    drawn = np.array(frame.cpu().permute(1, 2, 0).numpy(), order="C")  # a copy, drawn upon
    ids = np.where(ids == VOID, 0, ids).astype(np.uint8)
    thickness = max(1, round(min(ids.shape) / 240))
    left, top, width, height = cv2.boundingRect(np.minimum(ids, 1))
    if width:  # nothing changes further than 1 pixel around the objects
        box = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
        drawn[box] = _drawn(drawn[box], np.ascontiguousarray(ids[box]), opacity, thickness)
    return torch.from_numpy(drawn).permute(2, 0, 1).contiguous()


def _drawn(picture: np.ndarray, ids: np.ndarray, opacity: float, thickness: int) -> np.ndarray:
    """As :func:`overlay`, ``(H, W, 3)`` and ``(H, W)``."""
    colours = cv2.LUT(cv2.merge([ids] * 3), DISPLAY_COLOURS[:, None].copy())
    reach = np.ones((2 * thickness + 1,) * 2, np.uint8)
    inside = np.minimum(ids, 1)
    outline = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, reach) * inside
    around = cv2.dilate(inside, np.ones((3, 3), np.uint8)) - inside

    dark = picture // 4
    drawn = cv2.addWeighted(picture, 1 - opacity, colours, opacity, 0)
    drawn = cv2.copyTo(drawn, inside, picture.copy())
    drawn = cv2.copyTo(colours, outline, drawn)
    return cv2.copyTo(dark, around, drawn)
