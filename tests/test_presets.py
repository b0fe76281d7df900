"""Each paper's inference against loops over cells that are written from its description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from corrlib.presets import PRESETS
from corrlib.propagation import FeatureExtractor, propagate_labels, propagate_mask

CHANNELS = 6


def extractor(stride: int, scale: float, **trained_with) -> FeatureExtractor:
    """Random projections of each cell's pixels."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(CHANNELS, 3, stride, stride, generator=generator) * scale

    def extract(frames):
        return F.conv2d(frames - 0.5, weight, stride=stride)

    return FeatureExtractor("projections", stride, CHANNELS, extract, **trained_with)


def video(generator, frames: int, height: int, width: int):
    """Frames that change slowly, and the first mask, of two objects."""
    start, change = torch.rand(2, 3, height, width, generator=generator)
    share = torch.linspace(0, 0.6, frames)[:, None, None, None]
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[: height // 2, width // 5 : width // 2] = 1
    mask[height // 4 :, width // 2 : 3 * width // 4] = 2
    return (255 * ((1 - share) * start + share * change)).to(torch.uint8), mask


def cells(frames: torch.Tensor, one: FeatureExtractor) -> np.ndarray:
    """Features ``(T, h, w, C)``."""
    return one.extract(frames.float() / 255).permute(0, 2, 3, 1).double().numpy()


def shares(mask: np.ndarray, stride: int) -> np.ndarray:
    """``(h, w, 3)``: how much of each cell is of each id."""
    height, width = (side // stride for side in mask.shape)
    labels = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            cell = mask[y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
            labels[y, x] = [(cell == number).mean() for number in range(3)]
    return labels


def read(labels: np.ndarray, stride: int) -> np.ndarray:
    """Bilinear upsampling, arg-max."""
    maps = torch.from_numpy(labels).permute(2, 0, 1)[None]
    return F.interpolate(maps, scale_factor=stride, mode="bilinear")[0].argmax(0).numpy()


def exponentials(scores: list[float]) -> np.ndarray:
    scores = np.array(scores)
    return np.exp(scores - scores.max())


def each_cell(labels: np.ndarray):
    return np.ndindex(labels.shape[:2])


def corrflow(frames, mask, one):
    features, labels = cells(frames, one), shares(mask, one.stride)
    masks = [mask]
    for previous, target in zip(features, features[1:], strict=False):
        found = np.zeros_like(labels)
        for y, x in each_cell(labels):
            near = [(v, u) for v, u in each_cell(labels) if abs(v - y) <= 6 and abs(u - x) <= 6]
            weights = exponentials([previous[place] @ target[y, x] for place in near])
            for weight, place in zip(weights / weights.sum(), near, strict=True):
                found[y, x] += weight * labels[place]
        masks.append(read(found, one.stride))
        labels = shares(masks[-1], one.stride)
    return np.stack(masks)


def uvc(frames, mask, one):
    features, carried, masks = cells(frames, one), [shares(mask, one.stride)], [mask]
    for t in range(1, len(frames)):
        references = [0, *range(max(1, t - 7), t)]
        found = np.zeros_like(carried[0])
        for y, x in each_cell(found):
            for r in references:
                scores = features[r] @ features[t, y, x]
                affinity = np.exp(scores - scores.max())
                affinity /= affinity.sum()
                for place in np.argsort(-affinity, axis=None)[:5]:
                    v, u = divmod(place, scores.shape[1])
                    found[y, x] += affinity[v, u] * carried[r][v, u] / len(references)
        carried.append(found)
        least, most = found.min((0, 1)), found.max((0, 1))
        masks.append(read((found - least) / (most - least), one.stride))
    return np.stack(masks)


def crw(frames, mask, one):
    features, carried, masks = cells(frames, one), [shares(mask, one.stride)], [mask]
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    for t in range(1, len(frames)):
        references = [0, *range(max(1, t - 20), t)]
        found = np.zeros_like(carried[0])
        for y, x in each_cell(found):
            candidates = []
            for r in references:
                scores = features[r] @ features[t, y, x]
                for v, u in each_cell(found):
                    if r == 0 or (abs(v - y) <= 12 and abs(u - x) <= 12):
                        candidates.append((scores[v, u], r, v, u))
            best = sorted(candidates, reverse=True)[:10]
            weights = exponentials([score / 0.05 for score, *_ in best])
            for weight, (_, r, v, u) in zip(weights / weights.sum(), best, strict=True):
                found[y, x] += weight * carried[r][v, u]
        carried.append(found)
        masks.append(read(found, one.stride))
    return np.stack(masks)


@pytest.mark.parametrize(
    ("name", "written_out", "stride", "scale", "frames", "size"),
    [
        ("corrflow", corrflow, 4, 1, 4, (36, 60)),  # 9 x 15 cells: more than 6 away
        ("uvc", uvc, 8, 0.2, 10, (48, 72)),  # more than 8 frames
        ("crw", crw, 8, 1, 23, (16, 128)),  # more than 21 frames, more than 12 cells away
    ],
)
def test_a_preset_is_what_its_paper_describes(
    name, written_out, stride, scale, frames, size, generator
):
    one = extractor(stride, scale, temperature=1.0, unit_features=False)
    frames, mask = video(generator, frames, *size)
    found = torch.stack(list(propagate_mask(frames, mask, one, PRESETS[name])))
    expected = written_out(frames, mask.numpy(), one)
    assert set(np.unique(expected[-1])) == {0, 1, 2}
    assert (found.numpy() == expected).mean() > 0.999
    assert (found[-1] != mask).float().mean() > 0.02  # there was something to find out


def test_presets_that_leave_the_affinity_open_follow_the_extractor(generator):
    frames, mask = video(generator, 3, 24, 32)
    published, own = (
        extractor(8, 1, temperature=temperature, unit_features=unit)
        for temperature, unit in ((1.0, False), (0.07, True))
    )
    labels = torch.rand(2, 3, 4, generator=generator)
    for name, same in (("corrflow", False), ("uvc", False), ("crw", True)):
        a, b = (
            list(propagate_labels(frames, labels, one, PRESETS[name]))[-1]
            for one in (published, own)
        )
        assert torch.allclose(a, b) == same
