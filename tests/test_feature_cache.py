"""Features that are kept: the same features, made once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from corrlib.baselines import colour_patch
from corrlib.feature_cache import cached
from corrlib.propagation import PropagationConfig, propagate_mask
from corrlib.synthetic import synthetic_clip


@pytest.fixture
def counted():
    """Colour patches, and how often they were asked for."""
    calls = []
    plain = colour_patch()

    def extract(frame):
        calls.append(frame.shape)
        return plain.extract(frame)

    return replace(plain, extract=extract), calls


def test_a_frame_is_encoded_once_wherever_it_comes_from(counted):
    extractor, calls = counted
    kept = cached(extractor)
    frame = torch.rand(1, 3, 32, 48)
    first = kept.extract(frame)
    assert torch.equal(kept.extract(frame.clone()), first)
    assert len(calls) == 1
    assert torch.allclose(first.float(), colour_patch().extract(frame), atol=1e-2)
    assert first.dtype == torch.float16


def test_other_pixels_shapes_and_types_are_other_frames(counted):
    extractor, calls = counted
    kept = cached(extractor)
    frame = torch.rand(1, 3, 32, 48)
    other = frame.clone()
    other[0, 0, 0, 0] += 0.01
    for one in (frame, other, frame.reshape(1, 3, 48, 32), frame.double()):
        kept.extract(one)
    assert len(calls) == 4


def test_a_frame_that_is_no_contiguous_memory_is_the_same_frame(counted):
    extractor, calls = counted
    kept = cached(extractor)
    frame = torch.rand(1, 3, 32, 48)
    kept.extract(frame)
    kept.extract(frame.to(memory_format=torch.channels_last))
    assert len(calls) == 1


def test_what_else_an_extractor_says_stays(counted):
    extractor, _ = counted
    assert replace(cached(extractor), extract=extractor.extract) == extractor


def test_propagating_again_encodes_nothing_and_gives_the_same_masks(counted):
    extractor, calls = counted
    kept = cached(extractor)
    clip = synthetic_clip(4, 48, 64, seed=2)
    config = PropagationConfig(radius=4)
    masks = [torch.stack(list(propagate_mask(clip.frames, clip.masks[0], kept, config)))]
    assert len(calls) == 4
    masks.append(torch.stack(list(propagate_mask(clip.frames, clip.masks[0], kept, config))))
    assert len(calls) == 4
    assert torch.equal(*masks)
    plain = torch.stack(list(propagate_mask(clip.frames, clip.masks[0], colour_patch(), config)))
    assert (plain == masks[0]).float().mean() > 0.99
