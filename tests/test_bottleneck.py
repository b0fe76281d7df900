"""The information bottleneck: what is hidden, how often, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from corrlib.bottleneck import NEUTRAL, Bottleneck, channel_dropout, colour_jitter
from corrlib.checks import bottleneck as exercises
from corrlib.errors import InputError


def random_clips(generator, batch=4, length=3, height=5, width=7):
    return torch.rand(batch, length, 3, height, width, generator=generator)


def channel_scales(clips, seen):
    """The factor of each clip's channels, ``(B, T, 3)``; fails if it varies within a channel."""
    ratio = (seen - NEUTRAL) / (clips - NEUTRAL)
    scale = ratio.flatten(3).median(dim=3).values
    torch.testing.assert_close(
        seen, NEUTRAL + (clips - NEUTRAL) * scale[..., None, None], rtol=0, atol=1e-5
    )
    return scale


def test_dropped_channels_are_grey_and_the_same_in_every_frame_of_a_clip(generator):
    clips = random_clips(generator, batch=64)
    seen = channel_dropout(clips, 1.0, generator)
    scales = channel_scales(clips, seen)
    assert torch.allclose(scales, scales[:, :1].expand_as(scales), atol=1e-4)
    dropped = (seen == NEUTRAL).all(dim=(1, 3, 4))  # (B, 3)
    assert torch.equal(dropped, scales[:, 0].abs() < 1e-6)
    assert len(set(map(tuple, dropped.tolist()))) == 6  # clips differ: all 3 + 3 choices occur


def test_one_or_two_channels_equally_often_each_equally_likely(generator):
    clips = torch.ones(6000, 1, 3, 1, 1)
    dropped = (channel_dropout(clips, 1.0, generator) == NEUTRAL).flatten(1)
    count = dropped.sum(dim=1)
    assert set(count.tolist()) == {1, 2}
    assert (count == 1).float().mean() == pytest.approx(0.5, abs=0.03)
    assert dropped.float().mean(dim=0).tolist() == pytest.approx([0.5] * 3, abs=0.03)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.7, 1.0])
def test_dropout_happens_with_probability_p(p, generator):
    clips = torch.ones(6000, 1, 3, 1, 1)
    hidden = (channel_dropout(clips, p, generator) == NEUTRAL).any(dim=2).float().mean()
    assert hidden.item() == pytest.approx(p, abs=0.03)
    if p in (0, 1):
        assert hidden == p


def test_what_is_left_is_rescaled_by_three_over_what_is_left(generator):
    clips = random_clips(generator, batch=64)
    scales = channel_scales(clips, channel_dropout(clips, 0.8, generator))[:, 0]
    kept = (scales > 1e-6).sum(dim=1, keepdim=True)
    assert set(kept.flatten().tolist()) == {1, 2, 3}
    expected = torch.where(scales > 1e-6, 3 / kept, 0.0)
    torch.testing.assert_close(scales, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("p", [0.7, 1.0])
def test_the_expected_input_stays_what_it_was(p, generator):
    clips = torch.tensor([0.9, 0.2, 0.6]).view(1, 1, 3, 1, 1).expand(20000, -1, -1, -1, -1)
    mean = channel_dropout(clips, p, generator).mean(dim=0).flatten()
    assert mean.tolist() == pytest.approx([0.9, 0.2, 0.6], abs=0.015)


def test_input_is_not_changed_in_place(generator):
    clips = random_clips(generator)
    before = clips.clone()
    Bottleneck(1.0, 1.0)(clips, generator)
    assert torch.equal(clips, before)


def test_identity_at_test_time(generator):
    clips = random_clips(generator)
    assert torch.equal(Bottleneck(1.0, 1.0).eval()(clips, generator), clips)


def test_identity_where_both_probabilities_are_zero(generator):
    clips = random_clips(generator)
    assert torch.equal(Bottleneck(0.0, 0.0)(clips, generator), clips)


def test_only_the_generator_decides_and_global_state_is_left_alone():
    clips = random_clips(torch.Generator().manual_seed(1))
    bottleneck = Bottleneck(0.7, 0.5)
    before = torch.get_rng_state()

    def seen(seed):
        return bottleneck(clips, torch.Generator().manual_seed(seed))

    assert torch.equal(seen(3), seen(3))
    assert not torch.equal(seen(3), seen(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_jitter_changes_the_chosen_clips_only_and_all_their_frames_alike(generator):
    frame = torch.rand(64, 1, 3, 6, 5, generator=generator)
    clips = frame.expand(-1, 3, -1, -1, -1)
    jittered = colour_jitter(clips, 0.5, generator)
    changed = (jittered != clips).flatten(1).any(dim=1)
    assert 15 < changed.sum() < 49
    assert torch.equal(jittered, jittered[:, :1].expand_as(jittered))
    assert jittered.min() >= 0 and jittered.max() <= 1
    assert (jittered - clips).abs().max() > 0.01


def test_jitter_stays_within_its_strength(generator):
    grey = torch.full((400, 1, 3, 2, 2), 0.5)
    jittered = colour_jitter(grey, 1.0, generator, strength=0.1)
    # Grey has no contrast within a frame, no saturation and no hue: only brightness is left.
    assert jittered.min() >= 0.45 - 1e-6 and jittered.max() <= 0.55 + 1e-6
    assert jittered.min() < 0.46 and jittered.max() > 0.54
    assert torch.allclose(colour_jitter(grey, 1.0, generator, strength=0.0), grey)


@pytest.mark.parametrize("name", ["dropout", "jitter"])
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_probabilities_outside_0_to_1_are_refused(name, p):
    with pytest.raises(InputError, match=f"{name} probability between 0 and 1, got {p}"):
        Bottleneck(**{name: p})


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 2, 1, 4, 4)])
def test_frames_instead_of_clips_are_refused(shape, generator):
    with pytest.raises(InputError, match="expected clips"):
        channel_dropout(torch.rand(shape), 0.7, generator)


def test_exercises_together_are_the_librarys_dropout(generator):
    clips = random_clips(generator, batch=64)
    seen = channel_dropout(clips, 0.7, generator)
    keep = ~(seen == NEUTRAL).all(dim=(1, 3, 4))
    torch.testing.assert_close(exercises.apply_mask.solution(clips, keep), seen)

    hidden = 3 - exercises.draw_mask.solution(torch.rand(6000, 5, generator=generator), 0.7).sum(1)
    share = torch.bincount(hidden, minlength=4) / 6000
    assert share.tolist() == pytest.approx([0.3, 0.35, 0.35, 0], abs=0.03)
