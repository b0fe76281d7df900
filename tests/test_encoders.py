"""Encoders: sizes, names, seeds, and that a moved picture gives moved features."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models import resnet18, resnet50

from corrlib.encoders import ENCODERS, load_trunk, make_encoder
from corrlib.errors import InputError

EXPECTED = {
    "resnet18-stride4": (4, 64),
    "resnet18-stride8": (8, 256),
    "resnet18-stride8-layer4": (8, 512),
}
OTHERS = {
    "resnet18-stride8-framenorm": (8, 256),
    "resnet18-half-stride8-framenorm": (8, 128),
    "resnet34-stride8-framenorm": (8, 256),
}


@pytest.fixture(scope="module")
def encoders():
    return {name: make_encoder(name, torch.Generator().manual_seed(0)).eval() for name in ENCODERS}


@pytest.mark.parametrize("name", EXPECTED | OTHERS)
@pytest.mark.parametrize("size", [(64, 48), (65, 47), (33, 71)])
def test_shape_for_any_size(name, size, encoders, generator):
    stride, channels = (EXPECTED | OTHERS)[name]
    encoder = encoders[name]
    assert (encoder.stride, encoder.channels) == (stride, channels)
    with torch.no_grad():
        features = encoder(torch.rand(2, 3, *size, generator=generator))
    assert features.shape == (2, channels, *(math.ceil(side / stride) for side in size))
    assert features.isfinite().all()


@pytest.mark.parametrize("name", EXPECTED)
def test_names_are_torchvisions(name, encoders):
    theirs = resnet18(weights=None).state_dict()
    own = encoders[name].state_dict()
    if name == "resnet18-stride4":  # its last block is narrower, and its head its own
        own = {k: v for k, v in own.items() if not k.startswith(("layer4.", "head."))}
    assert {k: v.shape for k, v in own.items()} == {k: theirs[k].shape for k in own}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_torchvision_state_dict_loads(name):
    torch.manual_seed(0)
    state = resnet18(weights=None).state_dict()
    encoder = make_encoder(name, torch.Generator())
    loaded = load_trunk(encoder, state)
    own = encoder.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in loaded)
    convolutions = {k for k in own if k.startswith(("conv1", "layer1", "layer2", "layer3"))}
    assert convolutions <= set(loaded)
    assert not any(key.startswith(("fc", "head")) for key in loaded)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"weight": torch.zeros(3)},
        {"layer1.0.conv1.weight": torch.zeros(2, 2)},
        resnet50(weights=None).state_dict(),
    ],
    ids=["empty", "foreign", "another size", "resnet50"],
)
def test_another_networks_state_dict_is_refused(state):
    encoder = make_encoder("resnet18-stride8", torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match="state dict of a ResNet-18"):
        load_trunk(encoder, state)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_come_from_the_generator_alone(name):
    def weights(seed, global_seed):
        torch.manual_seed(global_seed)
        return make_encoder(name, torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = weights(3, 0), weights(3, 1), weights(4, 0)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet18-stride4", "resnet18-stride8"])
def test_a_move_of_one_stride_moves_interior_features_by_one_cell(name, encoders, generator):
    encoder, stride = encoders[name], EXPECTED[name][0]
    size = 40 * stride  # wider than the field of view, so that some cells see no border
    frame = torch.rand(1, 3, size + stride, size + stride, generator=generator)
    with torch.no_grad():
        still = encoder(frame[..., :size, :size])
        moved = encoder(frame[..., stride:, stride:])
    here, there = still[0, :, 16:25, 16:25], moved[0, :, 15:24, 15:24]
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4 * here.abs().max().item())
    assert not torch.allclose(here, moved[0, :, 16:25, 16:25], rtol=1e-3)


def test_frames_are_normalised_inside():
    encoder = make_encoder("resnet18-stride8", torch.Generator().manual_seed(0)).eval()
    mean = encoder.mean.expand(3, 32, 32)[None]
    seen = []
    encoder.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        encoder(mean)
    assert torch.equal(seen[0], torch.zeros_like(mean))
    assert not {"mean", "std"} & set(encoder.state_dict())


@pytest.mark.parametrize(
    "frames",
    [torch.rand(3, 32, 32), torch.rand(1, 1, 32, 32), torch.zeros(1, 3, 32, 32).byte()],
    ids=["no batch", "one channel", "uint8"],
)
def test_other_frames_are_refused(frames, encoders):
    with pytest.raises(InputError, match="expected float frames"):
        encoders["resnet18-stride8"](frames)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="resnet18-stride4.*got 'vgg'"):
        make_encoder("vgg", torch.Generator())


@pytest.mark.parametrize("name", ENCODERS)
def test_two_levels_come_from_one_pass_and_lie_on_one_grid(name, encoders, generator):
    encoder = encoders[name]
    frames = torch.rand(1, 3, 40, 56, generator=generator)
    with torch.no_grad():
        middle, last = encoder.encode_levels(frames, torch.float32)
        torch.testing.assert_close(last, encoder(frames))
    assert middle.shape[2:] == last.shape[2:]
    assert middle.shape[1] == encoder.layer2[-1].conv2.out_channels


def test_half_an_encoder_has_half_the_channels_and_the_same_layers(encoders):
    whole = encoders["resnet18-stride8-framenorm"].state_dict()
    half = encoders["resnet18-half-stride8-framenorm"].state_dict()
    assert half.keys() == whole.keys()
    for name, value in half.items():
        assert value.shape[0] * 2 == whole[name].shape[0], name
