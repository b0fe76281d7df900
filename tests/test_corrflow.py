"""The method as a whole: what its loss is, and what it is made of."""

from __future__ import annotations

import math

import pytest
import torch

from corrlib.affinity import normalise
from corrlib.colour import ColourQuantiser, rgb_to_lab
from corrlib.corrflow import CorrFlow, CorrFlowConfig
from corrlib.errors import InputError
from corrlib.training import PROFILES


def model(generator, **settings) -> CorrFlow:
    settings = {
        "encoder": "resnet18-stride8",
        "radius": 3,
        "dropout": 0.0,
        "jitter": 0.0,
    } | settings
    made = CorrFlow(CorrFlowConfig(**settings), generator)
    colours = rgb_to_lab(torch.rand(1, 3, 8, 64, generator=generator))[0, 1:].flatten(1).T
    made.quantiser = ColourQuantiser.fit(colours, generator)
    return made.eval()


def test_a_clip_of_one_flat_colour_has_no_loss(generator):
    clips = torch.full((2, 2, 3, 48, 64), 0.3)
    for stride in (1, 4):
        losses = model(generator, loss_stride=stride, lab_weight=1.0).loss(clips)
        # float32 affinities sum to 1 within 1e-6, and the loss adds 1e-8 to p
        assert losses.total.item() == pytest.approx(0, abs=1e-5)


def test_uniform_attention_gives_the_loss_of_the_local_colour_statistics(generator):
    """With τ so large that attention is uniform, p is the share of each colour in the window."""
    made = model(generator, unit_features=True, temperature=1e6, radius=50)
    clips = torch.rand(1, 1, 3, 32, 32, generator=generator).repeat(1, 2, 1, 1, 1)
    labels = made.quantiser(rgb_to_lab(clips[0, :1]))
    share = made.quantiser.one_hot(labels).mean(dim=(0, 2, 3))
    expected = -(share * share.clamp_min(1e-12).log()).sum()
    assert made.loss(clips).colour.item() == pytest.approx(expected.item(), abs=1e-3)
    assert expected < math.log(16)


def test_a_still_clip_costs_less_than_a_shuffled_one(generator):
    made = model(generator, unit_features=True, temperature=0.02)
    still = torch.rand(1, 1, 3, 64, 64, generator=generator).repeat(1, 2, 1, 1, 1)
    other = still.clone()
    other[:, 1] = torch.rand(3, 64, 64, generator=generator)
    assert made.loss(still).total < made.loss(other).total


def test_both_directions_are_the_mean_of_each(generator):
    clips = torch.rand(2, 2, 3, 32, 48, generator=generator)
    made = model(generator, lab_weight=0.5)
    both = {}
    for pairs in (((0, 1),), ((1, 0),), ((0, 1), (1, 0))):
        made.config = CorrFlowConfig(**{**vars(made.config), "pairs": pairs})
        both[pairs] = torch.stack(made.loss(clips))
    *single, double = both.values()
    torch.testing.assert_close(sum(single) / 2, double)


def test_total_is_the_weighted_sum_and_gradients_reach_every_parameter(generator):
    made = model(generator, lab_weight=0.7).train()
    losses = made.loss(torch.rand(2, 2, 3, 64, 64, generator=generator), generator)
    torch.testing.assert_close(losses.total, losses.colour + 0.7 * losses.lab)
    losses.total.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_each_frame_is_encoded_once(generator):
    made = model(generator, pairs=((0, 1), (1, 0), (0, 2)))
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    made.loss(torch.rand(2, 3, 3, 32, 32, generator=generator))
    assert encoded == [6]


def test_features_follow_the_configuration(generator):
    frames = torch.rand(2, 3, 50, 70, generator=generator)
    with torch.no_grad():
        plain = model(generator).features(frames)
        unit = model(generator, unit_features=True).features(frames)
    assert plain.shape == unit.shape == (2, 256, 7, 9)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2, 7, 9))
    assert (plain.norm(dim=1) - 1).abs().max() > 0.1
    torch.testing.assert_close(normalise(unit), unit)


def test_the_defaults_are_the_published_model(generator):
    config = CorrFlowConfig()
    assert (config.encoder, config.radius, config.dropout, config.jitter) == (
        "resnet18-stride4",
        6,
        0.7,
        0.1,
    )
    assert not config.unit_features and config.temperature == 1 and config.lab_weight == 0
    published = PROFILES["published"]
    assert published.model == config
    assert (published.batch, published.learning_rate) == (6, 2e-4)
    assert published.clips.gap == (4, 4) and published.clips.size == 256
    made = CorrFlow(config, generator)
    assert made.stride == 4 and made.quantiser.centroids.shape == (16, 2)


def test_clips_that_do_not_divide_into_cells_are_errors(generator):
    with pytest.raises(InputError, match="multiples of 8"):
        model(generator).loss(torch.rand(1, 2, 3, 30, 32))
