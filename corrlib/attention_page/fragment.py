"""A pair of frames and their features as an HTML fragment in which one asks where cells look."""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

import torch
from PIL import Image

from corrlib.errors import InputError
from corrlib.propagation import FeatureExtractor, PropagationConfig, Propagator

SHORT_SIDE = 240
"""Frames are encoded at this size: 256 channels at stride 8 then stay below 600 KB a pair."""

_FOLDER = Path(__file__).resolve().parent


class Try(NamedTuple):
    """Something to try: a question, settings to start from, and an answer, which is folded.

    The question and the answer are HTML. The settings are those of :func:`explorer`, with the
    cell's column and row as ``u`` and ``v``.
    """

    title: str
    question: str
    settings: dict[str, float]
    answer: str


def quantise(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``(1, C, h, w)`` in 8 bits: values ``(h·w, C)`` int8 and scales ``(h·w)`` float32.

    A cell's features are about ``values · scale``, off by at most ``scale / 2`` each, so a dot
    product of a reference cell r and a target cell t by at most
    ``ε = scale_r/2 · |t|₁ + scale_t/2 · |r̂|₁`` (r̂ is the rounded r). A softmax over scores that
    are off by at most ε changes each affinity A by at most ``A · (exp(2ε/τ) - 1)``.
    """
    cells = features[0].flatten(1).T.float().cpu()
    scales = (cells.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (cells / scales[:, None]).round().to(torch.int8), scales


def explorer(
    reference: torch.Tensor,
    target: torch.Tensor,
    reference_features: torch.Tensor,
    target_features: torch.Tensor,
    stride: int,
    *,
    cell: tuple[int, int] | None = None,
    temperature: float = 0.05,
    radius: int = 6,
    topk: int = 10,
    target_alt: str = "The target frame.",
    still: str = "<p>The attention explorer needs scripts, which are off here.</p>",
    tries: Sequence[Try] = (),
) -> str:
    """An HTML fragment in which a target cell is chosen, and one sees where it looks and what
    colour it copies: with full, restricted and top-k affinity.

    Args:
        reference, target: frames ``(3, H, W)`` uint8.
        reference_features, target_features: ``(1, C, h, w)``, compared as they are.
        stride: pixels of these frames per cell, ``h = ceil(H / stride)``.
        cell: (u, v) at the start, by default the middle.
        temperature, radius, topk: τ (0.01 to 1), M and k at the start.
        target_alt: says what the target shows, in a sentence, for those who cannot see it.
        still: HTML that is shown where scripts do not run.
        tries: things to try, shown below.

    Raises:
        InputError: features that do not fit the frames or each other, or are not finite.
    """
    height, width = (-(-side // stride) for side in target.shape[-2:])
    for name, frame, features in (
        ("reference", reference, reference_features),
        ("target", target, target_features),
    ):
        if frame.dtype != torch.uint8 or frame.shape != target.shape:
            raise InputError(
                f"expected two uint8 frames (3, H, W) of one size, got a {name} "
                f"{tuple(frame.shape)} of {frame.dtype} beside a target {tuple(target.shape)}"
            )
        expected = (1, reference_features.shape[1], height, width)
        if tuple(features.shape) != expected:
            raise InputError(
                f"expected {name} features {expected} for frames {tuple(target.shape)} at stride "
                f"{stride}, got {tuple(features.shape)}"
            )
        if not features.isfinite().all():
            raise InputError(f"expected finite {name} features, got some that are not")
    u, v = cell or (width // 2, height // 2)
    start = {"u": u, "v": v, "temperature": temperature, "radius": radius, "topk": topk}
    data = {
        "height": height,
        "width": width,
        "stride": stride,
        "start": start | {"near": False},
        "reference": _packed(reference, reference_features),
        "target": _packed(target, target_features),
    }
    return Template(text("explorer.html")).substitute(
        style=text("explorer.css"),
        script=text("attention.js") + text("explorer.js"),
        data=json.dumps(data),
        still=still,
        tries=_tries(tries),
        target_alt=html.escape(target_alt),
        last_column=width - 1,
        last_row=height - 1,
        longest=max(height, width, radius),
        most=min(max(50, topk), height * width),
    )


def encode_pair(
    reference: torch.Tensor,
    target: torch.Tensor,
    extractor: FeatureExtractor,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Unit features ``(1, C, h, w)`` of two frames ``(3, H, W)``, few enough for a page, and the
    pixels of these frames per cell: what :func:`explorer` takes after the frames."""
    encoder = Propagator(extractor, PropagationConfig(short_side=SHORT_SIDE), device)
    features = [encoder.encode(frame)[None].cpu() for frame in (reference, target)]
    return *features, -(-target.shape[-2] // features[1].shape[-2])


def _packed(frame: torch.Tensor, features: torch.Tensor) -> dict[str, str]:
    """A frame's picture and features as text."""
    values, scales = quantise(features)
    buffer = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(buffer, "webp", quality=65, method=6)
    return {
        "picture": f"data:image/webp;base64,{_base64(buffer.getvalue())}",
        "values": _base64(_deflate(values.numpy().tobytes())),
        "scales": _base64(_deflate(scales.numpy().astype("<f4").tobytes())),
    }


def _deflate(content: bytes) -> bytes:
    # Features repeat no patterns, but most are small: Huffman's code alone saves the most.
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(content) + coder.flush()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _tries(tries: Sequence[Try]) -> str:
    if not tries:
        return ""
    items = "".join(
        f"<li><h3>{one.title}</h3><p>{one.question}</p><button type='button' "
        f'data-set="{html.escape(json.dumps(one.settings))}">Set it up</button>'
        f"<details><summary>Answer</summary><p>{one.answer}</p></details></li>"
        for one in tries
    )
    return f'<ol class="tries">{items}</ol>'


def text(name: str) -> str:
    """One of the files beside this module."""
    return (_FOLDER / name).read_text(encoding="utf-8")
