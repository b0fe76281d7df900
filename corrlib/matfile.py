"""Reading a numeric array from a MATLAB file of version 5, 6 or 7 ("MAT-File Format", MathWorks).

SciPy's reader crashes the whole program on some damaged files, and unpacks whatever a compressed
file asks it to. This one checks every length and type against the file, unpacks no more than the
array that was asked for needs, and knows nothing but numbers.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corrlib.errors import InputError

MAX_VALUES = 3 * 10**7
MAX_BYTES = 2**28

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CLASSES = range(6, 16)  # double, single, then integers; below: cell, struct, object, char, sparse
_COMPLEX = 0x0800
_TYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}  # of stored numbers, which may be narrower than the array's class
_HEAD = 1024  # bytes in which an array's flags, shape and name must end

Shape = tuple[int | None, ...]


def read_array(path: str | Path, name: str, shape: Shape) -> np.ndarray:
    """The variable ``name``, in the type in which its numbers are stored.

    Args:
        path: the file.
        name: of the variable.
        shape: what it must be, ``None`` where any length will do. MATLAB drops a last axis of
            length 1; it is put back.

    Raises:
        InputError: no such file, one of another version, a damaged one, no such variable, or one
            that is not numeric and real, of another shape, or larger than ``MAX_VALUES``.
    """
    path = Path(path)
    form = ", ".join("*" if side is None else str(side) for side in shape)
    expected = f"{path}: expected a MATLAB file of version 5 to 7 with {name} ({form})"
    if not path.is_file():
        raise InputError(f"{expected}, found no such file; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{expected}, got a file of more than {MAX_BYTES // 2**20} MiB")
    try:
        return _find(path.read_bytes(), name, shape)
    except _Unfit as error:
        raise InputError(f"{expected}, {error}") from error
    except (OSError, struct.error, zlib.error, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{expected}, it is damaged or cut off ({reason})") from error


class _Unfit(Exception):
    """Why a file, though perhaps whole, does not hold what was asked for."""


@dataclass(frozen=True)
class _Head:
    """What comes before an array's numbers: flags and class, shape, name."""

    flags: int
    shape: tuple[int, ...]
    name: str
    length: int  # bytes of all that

    @classmethod
    def parse(cls, content: bytes, order: str) -> _Head:
        flags, place = _element(content, 0, order)
        shape, place = _element(content, place, order)
        name, place = _element(content, place, order)
        return cls(
            int(np.frombuffer(flags[1][:4], f"{order}u4")[0]),
            tuple(np.frombuffer(shape[1], f"{order}i4").tolist()),
            name[1].decode("ascii"),
            place,
        )

    def checked_shape(self, wanted: Shape) -> tuple[int, ...]:
        if self.flags & 0xFF not in _CLASSES or self.flags & _COMPLEX:
            raise _Unfit(f"{self.name} is no array of real numbers")
        shape = (*self.shape, 1) if len(self.shape) == len(wanted) - 1 else self.shape
        if len(shape) != len(wanted) or not all(
            side > 0 and want in (None, side) for side, want in zip(shape, wanted, strict=True)
        ):
            raise _Unfit(f"got {self.shape}")
        if math.prod(shape) > MAX_VALUES:
            raise _Unfit(f"got {self.shape}, which is too large")
        return shape


def _find(data: bytes, name: str, wanted: Shape) -> np.ndarray:
    if data[:4] == b"\x89HDF" or data.startswith(b"MATLAB 7.3"):
        raise _Unfit("got version 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or 0 in data[:4]:  # text at the start tells version 5 from 4
        raise _Unfit("got another kind of file")
    place, names = _HEADER, []
    while place < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        content = data[place + 8 : place + 8 + length]
        if len(content) < length:
            raise ValueError("an element ends beyond the file")
        place += 8 + length
        if kind == _COMPRESSED:
            packed = content
            content = zlib.decompressobj().decompress(packed, 8 + _HEAD)
            kind, length = struct.unpack_from(f"{order}II", content)
            content = content[8:]
        else:
            packed = None
        if kind != _MATRIX:
            continue
        head = _Head.parse(content[:_HEAD], order)
        names.append(head.name)
        if head.name == name:
            shape = head.checked_shape(wanted)
            if length > head.length + 16 + 8 * math.prod(shape):
                raise ValueError("an array is longer than its shape needs")
            if packed is not None:
                content = _unpacked(packed, 8 + length)[8:]
            return _numbers(content, head.length, shape, order)
    raise _Unfit(f"it has {', '.join(names)[:80]!r}" if names else "it has no array")


def _unpacked(packed: bytes, length: int) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(packed, length + 1)
    if len(content) != length or not stream.eof:  # at its end the checksum has been compared
        raise ValueError("a compressed array is not as long as it says")
    return content


def _element(content: bytes, place: int, order: str) -> tuple[tuple[int, bytes], int]:
    """The type and bytes of the element at ``place``, and where the next one begins.

    Up to four bytes are stored within the tag itself.
    """
    kind, length = struct.unpack_from(f"{order}II", content, place)
    if kind >> 16:
        kind, length = kind & 0xFFFF, kind >> 16
        start, after = place + 4, place + 8
    else:
        start = place + 8
        after = start + length + -length % 8
    body = content[start : start + length]
    if len(body) < length or start + length > after:
        raise ValueError("an element ends beyond its array")
    return (kind, body), after


def _numbers(content: bytes, place: int, shape: tuple[int, ...], order: str) -> np.ndarray:
    (kind, body), _ = _element(content, place, order)
    if kind not in _TYPES:
        raise ValueError(f"numbers of unknown type {kind}")
    values = np.frombuffer(body, np.dtype(_TYPES[kind]).newbyteorder(order))
    if values.size != math.prod(shape):
        raise ValueError(f"{values.size} numbers for shape {shape}")
    return values.reshape(shape, order="F")
