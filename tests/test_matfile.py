"""MATLAB files: read as SciPy reads them, and refused where they are damaged."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from corrlib import matfile
from corrlib.errors import InputError
from corrlib.matfile import read_array

ANY = (None, None, None)


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def saved(request, tmp_path):
    def save(**variables):
        path = tmp_path / "file.mat"
        savemat(path, variables, do_compression=request.param)
        return path

    return save


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8", "?"])
@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 5, 1), (1, 5, 3)])
def test_numbers_of_every_kind(kind, shape, saved):
    values = (100 * np.random.default_rng(0).random(shape)).astype(kind)
    path = saved(text="hello", cell=np.array([1, "a"], dtype=object), a=values, z=np.ones(3))
    assert np.array_equal(read_array(path, "a", ANY), values)
    assert np.array_equal(read_array(path, "a", shape), values)


def test_a_last_axis_of_one_that_matlab_dropped(saved):
    assert read_array(saved(a=np.ones((2, 15))), "a", (2, 15, None)).shape == (2, 15, 1)


def element(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def test_big_endian(tmp_path):
    values = np.arange(6.0).reshape(1, 2, 3)
    body = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">iii", 1, 2, 3))
    body += element(1, b"a") + element(9, values.astype(">f8").tobytes("F"))
    path = tmp_path / "big.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, body))
    assert np.array_equal(read_array(path, "a", ANY), values)
    assert np.array_equal(loadmat(path)["a"], values)


def test_another_variable_shape_or_kind(saved):
    for value, message in (
        (np.ones((2, 14, 3)), r"got \(2, 14, 3\)"),
        (np.ones((2, 15)) * 1j, "real numbers"),
        (np.zeros((2, 15, 0)), r"got \(2, 15, 0\)"),
        (np.ones(4), r"got \(1, 4\)"),
        ("text", "real numbers"),
        ({"x": 1}, "real numbers"),
    ):
        with pytest.raises(InputError, match=message):
            read_array(saved(a=value), "a", (2, 15, None))
    with pytest.raises(InputError, match="it has 'b, c'"):
        read_array(saved(b=1, c=2), "a", ANY)


def test_other_files(tmp_path):
    path = tmp_path / "file.mat"
    seven = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n"
    for content, message in (
        (b"", "another kind"),
        (b"MATLAB 5.0", "another kind"),
        (seven, "version 7.3; save it with -v7"),
        (seven[512:] + bytes(200), "version 7.3"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "another kind"),
        (b"MATLAB 5.0".ljust(124) + b"\x00\x01IM", "no array"),
        (b"MATLAB 5.0".ljust(124) + b"\x00\x01IM\x0e", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_array(path, "a", ANY)
    savemat(path, {"a": np.ones((2, 2))}, format="4")
    with pytest.raises(InputError, match="another kind"):
        read_array(path, "a", ANY)
    with pytest.raises(InputError, match="no such file"):
        read_array(tmp_path / "none.mat", "a", ANY)


def test_what_is_too_large(tmp_path, saved, monkeypatch):
    path = saved(a=np.zeros((20, 20, 20)))
    monkeypatch.setattr(matfile, "MAX_VALUES", 7999)
    with pytest.raises(InputError, match="too large"):
        read_array(path, "a", ANY)
    monkeypatch.setattr(matfile, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="file of more than"):
        read_array(path, "a", ANY)


def test_a_small_file_that_unpacks_to_much_more_than_its_shape(tmp_path):
    head = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIiiii", 5, 12, 2, 15, 4, 0)
    head += struct.pack("<II", 1 | 1 << 16, ord("a"))
    length = 2**27
    body = struct.pack("<II", 14, len(head) + 8 + length) + head + struct.pack("<II", 9, length)
    packer = zlib.compressobj(9)
    packed = packer.compress(body) + packer.compress(bytes(length)) + packer.flush()
    path = tmp_path / "bomb.mat"
    path.write_bytes(
        b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed
    )
    with pytest.raises(InputError, match="longer than its shape"):
        read_array(path, "a", ANY)


def test_cut_off_anywhere(saved):
    path = saved(a=np.random.default_rng(0).random((2, 15, 4)))
    content = path.read_bytes()
    for length in range(0, len(content), 17):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_array(path, "a", (2, 15, None))


def test_damaged_anywhere(saved):
    """Whatever the bytes, numbers of the right shape or an error of one line."""
    path = saved(b=np.ones(3), a=np.random.default_rng(0).random((2, 15, 4)))
    content = path.read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(dice.randrange(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_array(path, "a", (2, 15, None)).shape[:2] == (2, 15)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20


def test_a_checksum_is_compared(tmp_path):
    path = tmp_path / "file.mat"
    savemat(path, {"a": np.arange(120.0).reshape(2, 15, 4)}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_array(path, "a", ANY)
