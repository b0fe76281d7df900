"""The features that a trained model has to beat."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
from torchvision.models import ResNet18_Weights

from corrlib import baselines
from corrlib.affinity import normalise
from corrlib.corrflow import CorrFlow, CorrFlowConfig
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.propagation import PropagationConfig, propagate_mask


def frame(generator, height=40, width=48) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=generator)


def extractors() -> dict:
    config = CorrFlowConfig(encoder="resnet18-stride8", unit_features=True)
    model = CorrFlow(config, torch.Generator().manual_seed(0))
    return {
        "colour-patch": baselines.colour_patch(),
        "random-features": baselines.random_features(),
        "corrflow": baselines.trained(model),
    }


@pytest.mark.parametrize("name", ["colour-patch", "random-features", "corrflow"])
def test_features_have_the_stride_and_channels_they_promise(name, generator):
    extractor = extractors()[name]
    assert extractor.name == name
    with torch.no_grad():
        features = extractor.extract(frame(generator))
    assert features.shape == (1, extractor.channels, 40 // extractor.stride, 48 // extractor.stride)
    assert features.isfinite().all()


# Identity


def test_identity_repeats_the_first_mask():
    frames = torch.zeros(4, 3, 10, 12, dtype=torch.uint8)
    mask = torch.zeros(10, 12, dtype=torch.uint8)
    mask[2:5, 3:6] = 1
    found = list(baselines.identity(frames, mask))
    assert len(found) == 4 and all(torch.equal(one, mask) for one in found)


@pytest.mark.parametrize("mask", [torch.zeros(10, 12), torch.ones(9, 12)])
def test_identity_checks_its_mask(mask):
    frames = torch.zeros(2, 3, 10, 12, dtype=torch.uint8)
    with pytest.raises(InputError):
        list(baselines.identity(frames, mask.to(torch.uint8)))


# Colour patches


def test_colour_patches_are_the_patch_at_half_size(generator):
    picture = frame(generator)
    features = baselines.colour_patch().extract(picture)
    patch = picture[0, :, 8:16, 24:32].unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    everywhere = picture[0].unflatten(1, (5, 4, 2)).unflatten(4, (6, 4, 2)).mean((3, 6))
    cells = everywhere.permute(0, 2, 4, 1, 3).flatten(0, 2).flatten(1)  # (48, cells)
    expected = (patch.flatten() - cells.mean(1)) / cells.std(1, correction=0)
    torch.testing.assert_close(features[0, :, 1, 3], expected, atol=1e-4, rtol=1e-4)


def test_colour_patches_are_standardised(generator):
    features = baselines.colour_patch().extract(frame(generator))
    torch.testing.assert_close(features.mean((2, 3)), torch.zeros(1, 48), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std((2, 3), correction=0), torch.ones(1, 48))


def test_colour_patches_ignore_brightness_and_contrast(generator):
    extract = baselines.colour_patch().extract
    picture = 0.5 * frame(generator)
    expected = extract(picture)
    torch.testing.assert_close(extract(picture + 0.3), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(extract(1.7 * picture), expected, atol=1e-3, rtol=1e-3)
    tint = torch.tensor([0.6, 1.0, 1.4]).view(3, 1, 1)
    torch.testing.assert_close(extract(tint * picture), expected, atol=1e-3, rtol=1e-3)


def test_colour_patches_move_with_the_picture(generator):
    extract = baselines.colour_patch().extract
    picture = frame(generator)
    moved = extract(picture.roll((8, -16), dims=(2, 3)))
    torch.testing.assert_close(
        moved, extract(picture).roll((1, -2), dims=(2, 3)), atol=1e-4, rtol=1e-4
    )


def test_colour_patches_of_a_flat_picture_are_finite():
    features = baselines.colour_patch().extract(torch.full((1, 3, 16, 16), 0.4))
    assert normalise(features).isfinite().all()


# Random features


def test_random_features_follow_from_their_seed(generator):
    picture = frame(generator)
    torch.manual_seed(1)
    one = baselines.random_features(seed=3).extract(picture)
    torch.manual_seed(2)
    assert torch.equal(one, baselines.random_features(seed=3).extract(picture))
    assert not torch.equal(one, baselines.random_features(seed=4).extract(picture))


def test_random_features_do_not_remember_frames(generator):
    extractor = baselines.random_features()
    picture = frame(generator)
    before = extractor.extract(picture)
    extractor.extract(torch.rand(1, 3, 40, 48, generator=generator) ** 4)
    assert torch.equal(extractor.extract(picture), before)


# Trained and ImageNet features


def test_trained_features_are_the_models_without_its_bottleneck(generator):
    config = CorrFlowConfig(encoder="resnet18-stride8", unit_features=True, dropout=1.0)
    model = CorrFlow(config, torch.Generator().manual_seed(0)).train()
    extractor = baselines.trained(model)
    picture = frame(generator)
    with torch.no_grad():
        features = extractor.extract(picture)
        torch.testing.assert_close(features, model.features(picture))
    assert not model.training
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1, 5, 6))


@pytest.mark.parametrize("error", [URLError("no network"), OSError("disk"), RuntimeError("hash")])
def test_imagenet_weights_that_cannot_be_had_are_an_input_error(monkeypatch, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(InputError, match="ImageNet") as caught:
        baselines.imagenet_features()
    assert "\n" not in str(caught.value)


def test_imagenet_weights_are_loaded(monkeypatch, generator):
    source = make_encoder("resnet18-stride8-layer4", torch.Generator().manual_seed(5))
    state = source.state_dict() | {
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **options: state)
    extractor = baselines.imagenet_features()
    expected = make_encoder("resnet18-stride8", torch.Generator())
    expected.load_state_dict(
        {key: value for key, value in state.items() if key in expected.state_dict()}
    )
    picture = frame(generator)
    with torch.no_grad():
        torch.testing.assert_close(extractor.extract(picture), expected.eval()(picture))


def test_every_baseline_propagates(generator):
    frames = torch.randint(0, 256, (3, 3, 33, 50), generator=generator).to(torch.uint8)
    mask = torch.zeros(33, 50, dtype=torch.uint8)
    mask[8:24, 16:32] = 1
    config = PropagationConfig(references=1, radius=2, topk=3)
    for extractor in extractors().values():
        found = list(propagate_mask(frames, mask, extractor, config))
        assert [one.shape for one in found] == [(33, 50)] * 3
