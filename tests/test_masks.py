"""Masks: files in and out, labels, drawing."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corrlib.errors import InputError
from corrlib.masks import (
    DISPLAY_COLOURS,
    PALETTE,
    check_mask,
    count_objects,
    mask_array,
    one_hot,
    overlay,
    read_mask,
    write_mask,
)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def png_of_size(path: Path, width: int, height: int) -> None:
    """A PNG whose header claims a size and whose pixels are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def test_palette_has_the_well_known_colours():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        5: (128, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {number: tuple(PALETTE[number].tolist()) for number in known} == known
    assert len(np.unique(PALETTE, axis=0)) == 256


def test_display_colours_are_visible_and_distinct():
    assert len(np.unique(DISPLAY_COLOURS[1:], axis=0)) == 255
    assert (DISPLAY_COLOURS[1:21].max(axis=1) >= 120).all()


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (64, 3)])
def test_write_then_read_gives_the_mask_back(tmp_path, generator, shape):
    mask = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    write_mask(tmp_path / "deep" / "m.png", mask)
    assert torch.equal(read_mask(tmp_path / "deep" / "m.png"), mask)
    with Image.open(tmp_path / "deep" / "m.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == PALETTE.ravel().tolist()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m.png"]


def test_indexed_image_gives_indices_whatever_its_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [255, 1]], np.uint8))
    image.putpalette([255, 255, 255] + [0, 0, 0] * 255)
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1], [255, 1]]


@pytest.mark.parametrize(
    ("grey", "ids"),
    [
        ([[0, 255]], [[0, 1]]),
        ([[255, 255]], [[1, 1]]),
        ([[0, 0]], [[0, 0]]),
        ([[0, 3]], [[0, 3]]),
        ([[2, 255]], [[2, 255]]),
    ],
)
def test_greyscale(tmp_path, grey, ids):
    for mode in ("L", "RGB", "LA"):
        Image.fromarray(np.array(grey, np.uint8)).convert(mode).save(tmp_path / "m.png")
        assert read_mask(tmp_path / "m.png").tolist() == ids


def test_one_bit_image(tmp_path):
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1").save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1, 0]]


def test_rgb_in_palette_colours(tmp_path):
    ids = np.array([[0, 1, 2], [7, 19, 255]], np.uint8)
    Image.fromarray(PALETTE[ids]).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == ids.tolist()


def painted(colours: list[tuple[int, int, int]], size: int = 12) -> np.ndarray:
    """Stripes of a colour each, from the top, 6 pixels high, on black."""
    image = np.zeros((6 * len(colours) + 4, size, 3), np.uint8)
    for number, colour in enumerate(colours):
        image[6 * number : 6 * number + 6, : size - 4] = colour
    return image


def test_a_painters_own_colours_are_numbered_as_they_appear(tmp_path):
    image = painted([(255, 255, 0), (255, 0, 0), (1, 2, 3)])
    image[20:, 2:5] = (255, 255, 0)  # what was seen before keeps its number
    Image.fromarray(image).save(tmp_path / "m.png")
    ids = read_mask(tmp_path / "m.png")
    assert [ids[y, 1].item() for y in (0, 6, 12)] == [1, 2, 3]
    assert ids[21, 3] == 1 and ids[0, 11] == 0
    assert sorted(ids.unique().tolist()) == [0, 1, 2, 3]


def test_grey_levels_that_are_no_ids_are_numbered_too(tmp_path):
    Image.fromarray(painted([(200,) * 3, (120,) * 3, (255,) * 3])).convert("L").save(
        tmp_path / "m.png"
    )
    ids = read_mask(tmp_path / "m.png")
    assert [ids[y, 1].item() for y in (0, 6, 12, 21)] == [1, 2, 3, 0]


def smoothed(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image[::2, ::2])
    return np.array(small.resize(image.shape[1::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (smoothed(painted([(255, 0, 0)])), "nowhere wider than 2 pixels"),
        (smoothed(painted([(255, 0, 0), (0, 0, 255), (9, 250, 9)], 40)), "smoothed edges"),
        (painted([(10 * n, 3, 1) for n in range(20)]), "21 colours"),
        (np.full((9, 9, 3), 77, np.uint8) * np.array([1, 2, 3], np.uint8), "no black"),
    ],
)
def test_smoothed_edges_and_photographs_are_named(tmp_path, image, says):
    Image.fromarray(image).save(tmp_path / "m.png")
    with pytest.raises(InputError) as error:
        read_mask(tmp_path / "m.png")
    assert says in one_line(error)


def test_transparent_pixels_are_background(tmp_path):
    rgba = np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1]]


def save_soft_grey(path: Path) -> None:
    Image.fromarray(np.array([[0, 130, 255]], np.uint8)).save(path)


def save_unknown_colour(path: Path) -> None:
    Image.fromarray(np.array([[[0, 0, 0], [17, 34, 51]]], np.uint8)).save(path)


def save_half_transparent(path: Path) -> None:
    Image.fromarray(np.array([[[255, 255, 255, 100]]], np.uint8)).save(path)


def save_sixteen_bit(path: Path) -> None:
    Image.fromarray(np.array([[0, 1000]], np.uint16)).save(path)


def save_text(path: Path) -> None:
    path.write_text("not a picture\n")


def save_truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    write_mask(path, noise)
    path.write_bytes(path.read_bytes()[:-300])


def save_huge(path: Path) -> None:
    png_of_size(path, 12_000, 10_000)


def save_enormous(path: Path) -> None:
    png_of_size(path, 100_000, 100_000)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("save", "says"),
    [
        (save_soft_grey, "#828282"),
        (save_unknown_colour, "#112233"),
        (save_half_transparent, "half-transparent"),
        (save_sixteen_bit, "16 bits"),
        (save_text, "no image"),
        (save_truncated, "cannot be read"),
        (save_huge, "100 megapixels"),
        (save_enormous, "100 megapixels"),
    ],
)
def test_unusable_files_are_one_line_errors(tmp_path, save, says):
    path = tmp_path / "mask.png"
    save(path)
    with pytest.raises(InputError) as error:
        read_mask(path)
    message = one_line(error)
    assert says in message and "mask.png" in message


@pytest.mark.parametrize("name", ["absent.png", "."])
def test_missing_file_or_folder(tmp_path, name):
    with pytest.raises(InputError, match="no such file"):
        read_mask(tmp_path / name)


def test_sixteen_bit_colour_is_refused(tmp_path):
    path = tmp_path / "m.png"
    png_of_size(path, 1, 1)
    content = bytearray(path.read_bytes())
    content[24:26] = bytes([16, 2])  # bit depth, colour type RGB
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="16 bits"):
        read_mask(path)


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(1, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4),
        torch.full((2, 2), 256),
        torch.full((2, 2), -1),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_values_that_are_no_mask(tmp_path, mask):
    with pytest.raises(InputError) as error:
        write_mask(tmp_path / "m.png", mask)
    one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_mask_array_takes_bool_and_wide_integers():
    assert mask_array(torch.tensor([[True, False]])).tolist() == [[1, 0]]
    assert mask_array(np.array([[255, 7]], np.int64)).dtype == np.uint8


def test_check_mask():
    mask = torch.zeros(4, 6, dtype=torch.uint8)
    with pytest.raises(InputError, match="at least one object"):
        check_mask(mask, 4, 6)
    mask[0, 0] = 255
    with pytest.raises(InputError, match="at least one object"):
        check_mask(mask, 4, 6)
    mask[1, 1] = 3
    assert check_mask(mask, 4, 6) == count_objects(mask) == 3
    with pytest.raises(InputError) as error:
        check_mask(mask, 6, 4)
    assert "6x4" in one_line(error) and "4x6" in one_line(error)
    assert "on its side" in one_line(error)
    with pytest.raises(InputError, match="resize the mask with nearest neighbour"):
        check_mask(mask, 8, 12)


def test_one_hot():
    labels = one_hot(torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8), 3)
    assert labels.dtype == torch.float32
    assert labels.tolist() == [
        [[1, 0], [0, 1]],
        [[0, 1], [0, 0]],
        [[0, 0], [1, 0]],
        [[0, 0], [0, 0]],
    ]
    with pytest.raises(InputError, match="up to 1, got 2"):
        one_hot(torch.tensor([[2]], dtype=torch.uint8), 1)


def test_one_hot_undone_by_argmax(generator):
    mask = torch.randint(0, 5, (9, 8), generator=generator, dtype=torch.uint8)
    assert torch.equal(one_hot(mask, 4).argmax(0).to(torch.uint8), mask)


def test_overlay_fills_outlines_and_leaves_the_rest(generator):
    frame = torch.randint(0, 256, (3, 60, 80), generator=generator, dtype=torch.uint8)
    before = frame.clone()
    mask = torch.zeros(60, 80, dtype=torch.uint8)
    mask[10:40, 20:60] = 1
    mask[50, 5] = 255
    drawn = overlay(frame, mask, opacity=0.25)
    assert torch.equal(frame, before)
    assert drawn.dtype == torch.uint8 and drawn.shape == frame.shape and drawn.is_contiguous()

    colour = torch.from_numpy(DISPLAY_COLOURS[1].copy())
    blend = 0.75 * frame[:, 25, 40].float() + 0.25 * colour.float()
    assert (drawn[:, 25, 40].float() - blend).abs().max() <= 0.5
    assert torch.equal(drawn[:, 10, 20], colour)  # outline, inside the object
    assert torch.equal(drawn[:, 9, 30], frame[:, 9, 30] // 4)  # dark line around it
    untouched = torch.ones(60, 80, dtype=torch.bool)
    untouched[9:41, 19:61] = False
    assert torch.equal(drawn[:, untouched], frame[:, untouched])


def test_overlay_outlines_touching_objects_but_not_the_image_border():
    frame = torch.zeros(3, 20, 20, dtype=torch.uint8)
    mask = torch.ones(20, 20, dtype=torch.uint8)
    mask[:, 10:] = 2
    drawn = overlay(frame, mask, opacity=0)
    colours = torch.from_numpy(DISPLAY_COLOURS.copy())
    assert torch.equal(drawn[:, 5, 9], colours[1])
    assert torch.equal(drawn[:, 5, 10], colours[2])
    assert drawn[:, :, :9].max() == 0 and drawn[:, :, 11:].max() == 0


def test_overlay_never_draws_into_its_input():
    channels_last = torch.zeros(8, 8, 3, dtype=torch.uint8)
    overlay(channels_last.permute(2, 0, 1), torch.eye(8, dtype=torch.uint8), opacity=1)
    assert channels_last.max() == 0


def test_overlay_of_nothing_is_the_frame(generator):
    frame = torch.randint(0, 256, (3, 8, 9), generator=generator, dtype=torch.uint8)
    assert torch.equal(overlay(frame, torch.zeros(8, 9, dtype=torch.uint8)), frame)


def test_overlay_bad_input():
    frame, mask = torch.zeros(3, 4, 5, dtype=torch.uint8), torch.ones(4, 5, dtype=torch.uint8)
    for arguments in [
        (frame, mask.T),
        (frame.float(), mask),
        (frame, mask, 1.5),
        (frame[:1], mask),
    ]:
        with pytest.raises(InputError) as error:
            overlay(*arguments)
        one_line(error)
