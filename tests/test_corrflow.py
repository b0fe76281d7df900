"""The method as a whole: what its loss is, and what it is made of."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from corrlib.affinity import normalise, transport
from corrlib.colour import ColourQuantiser, rgb_to_lab
from corrlib.corrflow import WITH, WITHOUT, CorrFlow, CorrFlowConfig
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.recipes import PROFILES
from corrlib.reconstruction import colour_loss, reduce_labels
from corrlib.sampling import ScheduledSampling


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


def test_both_directions_are_the_mean_of_a_clip_and_its_mirror_in_time(generator):
    clips = torch.rand(2, 3, 3, 32, 48, generator=generator)
    settings = {"lab_weight": 0.5, "sampling": ScheduledSampling(1.0, 1.0)}
    made = model(generator, **settings)
    single = [torch.stack(made.loss(played)) for played in (clips, clips.flip(1))]
    made.config = replace(made.config, both_directions=True)
    torch.testing.assert_close(sum(single) / 2, torch.stack(made.loss(clips)))


def test_total_is_the_weighted_sum_and_gradients_reach_every_parameter(generator):
    made = model(generator, lab_weight=0.7, cycle_weight=0.3).train()
    losses = made.loss(torch.rand(2, 3, 3, 64, 64, generator=generator), generator)
    expected = losses.colour + 0.3 * losses.cycle + 0.7 * losses.lab
    torch.testing.assert_close(losses.total, expected)
    losses.total.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("both", [False, True])
def test_each_frame_is_encoded_once_and_each_affinity_computed_once(both, generator, monkeypatch):
    made = model(generator, both_directions=both)
    encoded, compared = [], []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    affinity = made.affinity
    monkeypatch.setattr(made, "affinity", lambda r, t: compared.append(len(r)) or affinity(r, t))
    made.loss(torch.rand(2, 3, 3, 32, 32, generator=generator), generator)
    assert encoded == [6]
    assert compared == [2 * 4]  # 1-2, 2-3 and back, of two clips


@pytest.mark.parametrize("radius", [2, None])
def test_the_loss_is_the_published_one_step_by_step(radius, generator):
    """L_sim over two steps and L_cycle over one and two, written out."""
    made = model(generator, radius=radius, sampling=ScheduledSampling(0.0, 0.0))
    clips = torch.rand(1, 3, 3, 32, 40, generator=generator)
    losses = made.loss(clips, generator)
    f = [made.features(clips[:, t]) for t in range(3)]
    lab = rgb_to_lab(clips)
    labels = [made.quantiser(lab[:, t]) for t in range(3)]
    first = reduce_labels(made.quantiser.one_hot(labels[0]), made.stride)

    def copy(values, reference, target):
        return transport(values, made.affinity(f[reference], f[target]))

    second = copy(first, 0, 1)
    third = copy(second, 1, 2)
    colour = colour_loss(second, labels[1]) + colour_loss(third, labels[2])
    home_1 = copy(second, 1, 0)
    home_2 = copy(copy(third, 2, 1), 1, 0)
    cycle = colour_loss(home_1, labels[0]) + colour_loss(home_2, labels[0])
    torch.testing.assert_close(losses.colour, colour)
    torch.testing.assert_close(losses.cycle, cycle)
    torch.testing.assert_close(losses.total, colour + 0.1 * cycle)


def test_sampling_follows_the_share_of_the_training(generator):
    made = model(generator, sampling=ScheduledSampling(1.0, 0.0), cycle_weight=0.0)
    clips = torch.rand(1, 3, 3, 32, 32, generator=generator)
    always = replace(made.config, sampling=ScheduledSampling(1.0, 1.0))
    never = replace(made.config, sampling=ScheduledSampling(0.0, 0.0))
    begin, end = made.loss(clips, generator, share=0.0), made.loss(clips, generator, share=1.0)
    made.config = always
    torch.testing.assert_close(begin.colour, made.loss(clips, generator).colour)
    made.config = never
    torch.testing.assert_close(end.colour, made.loss(clips, generator).colour)
    assert begin.colour != end.colour


def test_each_row_of_the_ablation_lacks_one_part():
    full = CorrFlowConfig()
    rows = {name: without(full) for name, without in WITHOUT.items()}
    assert rows["dropout"] == replace(full, dropout=0.0)
    assert rows["restricted"] == replace(full, radius=None)
    assert rows["sampling"].sampling.probability(0.0) == rows["sampling"].sampling.probability(1.0)
    assert rows["sampling"].sampling.probability(1.0) == 1
    assert rows["cycle"] == replace(full, cycle_weight=0.0)


def test_without_cycle_no_affinity_leads_home(generator, monkeypatch):
    made = model(generator, cycle_weight=0.0)
    compared = []
    affinity = made.affinity
    monkeypatch.setattr(made, "affinity", lambda r, t: compared.append(len(r)) or affinity(r, t))
    losses = made.loss(torch.rand(1, 3, 3, 32, 32, generator=generator), generator)
    assert compared == [2] and losses.cycle == 0


def test_features_follow_the_configuration(generator):
    frames = torch.rand(2, 3, 50, 70, generator=generator)
    with torch.no_grad():
        plain = model(generator).features(frames)
        unit = model(generator, unit_features=True).features(frames)
    assert plain.shape == unit.shape == (2, 256, 7, 9)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2, 7, 9))
    assert (plain.norm(dim=1) - 1).abs().max() > 0.1
    torch.testing.assert_close(normalise(unit), unit)


def test_grey_input_sees_lightness_and_nothing_else(generator):
    grey = (0.1 + 0.5 * torch.rand(1, 1, 32, 40, generator=generator)).expand(1, 3, 32, 40)
    tint, low, high = torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1), torch.zeros(()), torch.ones(())
    for _ in range(30):  # search the tinted colours of the same lightness
        middle = (low + high) / 2 + torch.zeros(1, 1, 32, 40)
        darker = rgb_to_lab(middle * tint)[:, :1] < rgb_to_lab(grey)[:, :1]
        low, high = torch.where(darker, middle, low), torch.where(darker, high, middle)
    with torch.no_grad():
        for grey_input in (True, False):
            made = model(generator, grey_input=grey_input, unit_features=True)
            difference = (made.features(grey) - made.features(low * tint)).abs().max()
            assert (difference < 1e-3) == grey_input


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
    assert (published.clips.fps, published.clips.gap) == (6, (1, 1))  # every 4th frame of 24
    assert published.clips.size == 256
    assert published.clips.length == 3 and not config.both_directions
    assert config.sampling == ScheduledSampling(0.9, 0.6) and config.cycle_weight == 0.1
    made = CorrFlow(config, generator)
    assert made.stride == 4 and made.quantiser.centroids.shape == (16, 2)


def test_clips_that_do_not_divide_into_cells_or_have_one_frame_are_errors(generator):
    with pytest.raises(InputError, match="at least 2 frames"):
        model(generator).loss(torch.rand(1, 1, 3, 32, 32))
    with pytest.raises(InputError, match="multiples of 8"):
        model(generator).loss(torch.rand(1, 2, 3, 30, 32))


def test_middle_losses_ask_the_cycle_at_every_frame_it_passes(generator):
    """Of three frames: on frame 2, where the longer walk turns, and on frame 1 on its way home."""
    made = model(generator, sampling=ScheduledSampling(1.0, 1.0))
    clips = torch.rand(1, 3, 3, 32, 40, generator=generator)
    plain = made.loss(clips)
    made.config = replace(made.config, middle_weight=0.5)
    f = [made.features(clips[:, t]) for t in range(3)]
    labels = [made.quantiser(rgb_to_lab(clips[:, t])) for t in range(3)]
    values = reduce_labels(made.quantiser.one_hot(labels[0]), made.stride)
    added = 0.0
    for reference, target in ((0, 1), (1, 2), (2, 1)):
        values = transport(values, made.affinity(f[reference], f[target]))
        if reference:
            added = added + colour_loss(values, labels[target])
    torch.testing.assert_close(made.loss(clips).cycle, plain.cycle + 0.5 * added)
    torch.testing.assert_close(made.loss(clips).colour, plain.colour)


def test_two_levels_add_the_same_losses_on_layer_2(generator):
    made = model(generator, lab_weight=0.3, unit_features=True, temperature=0.1)
    clips = torch.rand(2, 3, 3, 32, 40, generator=generator)
    last = made.loss(clips, torch.Generator().manual_seed(1))
    made.config = replace(made.config, level_weight=0.25)
    both = made.loss(clips, torch.Generator().manual_seed(1))
    made.encoder.layer3 = torch.nn.Identity()
    made.config = replace(made.config, level_weight=0.0)
    middle = made.loss(clips, torch.Generator().manual_seed(1))
    for name in both._fields:
        expected = getattr(last, name) + 0.25 * getattr(middle, name)
        torch.testing.assert_close(getattr(both, name), expected)


def test_two_levels_encode_each_frame_once_and_leave_no_hook(generator):
    made = model(generator, level_weight=0.5)
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    made.loss(torch.rand(2, 3, 3, 32, 32, generator=generator), generator)
    assert encoded == [6] and not made.encoder.layer2._forward_hooks


def test_each_open_question_changes_one_part():
    full = CorrFlowConfig()
    for name, change in WITH.items():
        different = {
            field for field in vars(full) if vars(full)[field] != vars(change(full))[field]
        }
        if name == "grey-input":  # in place of the bottleneck, which is two
            assert different == {"grey_input", "dropout", "jitter"}
        else:
            assert len(different) == 1, name
    thin, deep = (WITH[name](full) for name in ("thin-encoder", "deep-encoder"))
    sizes = [
        sum(p.numel() for p in make_encoder(config.encoder, torch.Generator()).parameters())
        for config in (thin, PROFILES["laptop"].model, deep)
    ]
    assert sizes[0] * 3.9 < sizes[1] < sizes[2] / 2
