"""Colour codes: what goes in comes out again."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corrlib.affinity import transport
from corrlib.colour import rgb_to_lab
from corrlib.colour_autoencoder import (
    AutoencoderConfig,
    ColourAutoencoder,
    lab_l1,
    scaled_lab,
    scaled_lab_to_rgb,
)
from corrlib.errors import InputError
from corrlib.geometry import to_float
from corrlib.recipes import AUTOENCODER_PROFILES
from corrlib.synthetic import synthetic_clip
from corrlib.weights import load_weights, save_weights


def make(generator: torch.Generator, width: int = 8) -> ColourAutoencoder:
    return ColourAutoencoder(AutoencoderConfig(width), generator)


def block_means(lab: torch.Tensor) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(lab, 8), scale_factor=8)


@pytest.fixture
def clips() -> torch.Tensor:
    """``(2, 1, 3, 64, 64)`` in [0, 1], with edges and texture."""
    frames = synthetic_clip(frames=2, height=64, width=64, objects=3, seed=1).frames
    return to_float(frames)[:, None]


# -- colours --


def test_scaled_lab_fills_the_range_of_a_tanh_and_comes_back(generator):
    corners = torch.tensor([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]).float()
    frames = torch.cat([corners, torch.rand(56, 3, generator=generator)]).T.reshape(1, 3, 8, 8)
    lab = scaled_lab(frames)
    assert lab.min() == -1 and lab.max().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(scaled_lab_to_rgb(lab), frames, atol=1e-4, rtol=0)
    expected = rgb_to_lab(frames) / torch.tensor([50, 128, 128]).view(3, 1, 1)
    expected[:, 0] -= 1
    torch.testing.assert_close(lab, expected)


def test_the_loss_weighs_a_and_b_by_ten_and_keeps_images_apart():
    lab = torch.zeros(3, 3, 2, 4)
    estimate = lab.clone()
    estimate[0, 0], estimate[1, 1, 0], estimate[2, 2] = 0.5, -0.2, 0.1
    assert lab_l1(estimate, lab).tolist() == pytest.approx([0.5, 10 * 0.1, 10 * 0.1])


def test_the_losses_are_in_lab_units(generator, clips):
    made = make(generator)
    losses = made.loss(clips)
    lab = scaled_lab(clips[:, 0])
    difference = (made.decode(made.encode(lab)) - lab).abs().mean(dim=(0, 2, 3))
    torch.testing.assert_close(torch.stack(losses[1:]), difference * torch.tensor([50, 128, 128]))
    total = losses.lightness / 50 + 10 * (losses.a + losses.b) / 128
    torch.testing.assert_close(losses.total, total)


# -- the network --


@pytest.mark.parametrize(("width", "size"), [(8, (32, 48)), (4, (8, 8))])
def test_shapes(width, size, generator):
    made = make(generator, width)
    codes = made.encode(torch.rand(2, 3, *size, generator=generator))
    assert codes.shape == (2, 4 * width, size[0] // 8, size[1] // 8) and codes.dtype == torch.float
    image = made.decode(codes)
    assert image.shape == (2, 3, *size) and image.abs().max() <= 1
    frames = torch.rand(2, 3, *size, generator=generator)
    torch.testing.assert_close(made.features(frames), made.encode(scaled_lab(frames)))


def test_the_default_is_the_published_size(generator):
    made = ColourAutoencoder(AutoencoderConfig(), generator)
    shapes = [tuple(m.weight.shape[1::-1]) for m in made.encoder if hasattr(m, "weight")]
    assert shapes == [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    assert made.stride == 8 and made.channels == 256


def test_training_starts_from_the_mean_colours_of_blocks(generator, clips):
    lab = scaled_lab(clips[:, 0])
    made = make(generator)
    torch.testing.assert_close(
        made.decode(made.encode(lab)), block_means(lab).tanh(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("colour", [(0.5, 0.5, 0.5), (0.8, 0.3, 0.2), (0.1, 0.2, 0.4)])
def test_a_constant_colour_has_one_code_and_comes_back(colour, generator):
    """Codes look no further than 20 pixels, so far from the border they are all the same."""
    made = make(generator)
    lab = scaled_lab(torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 96, 96))
    with torch.no_grad():
        codes = made.encode(lab)[:, :, 3:-3, 3:-3]
        torch.testing.assert_close(codes, codes[:, :, :1, :1].expand_as(codes))
        assert (made.decode(codes) - lab[:, :, 24:72, 24:72].tanh()).abs().max() < 1e-5


def test_some_steps_reconstruct_better_than_the_start(generator, clips):
    made, clips = make(generator), clips[..., 16:48, 16:48]
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-4)
    before = made.loss(clips).total.item()
    for _ in range(60):
        optimiser.zero_grad()
        made.loss(clips).total.backward()
        optimiser.step()
    after = made.loss(clips).total.item()
    assert after < 0.97 * before
    lab = scaled_lab(clips[:, 0])
    assert after < lab_l1(block_means(lab), lab).mean()


def test_gradients_reach_every_parameter_after_one_step(generator, clips):
    """At the start the last layer hears three channels only, all others after it moved."""
    made = make(generator)
    optimiser = torch.optim.SGD(made.parameters(), lr=1e-3)
    made.loss(clips).total.backward()
    optimiser.step()
    optimiser.zero_grad()
    made.loss(clips).total.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_fixed_weights_pass_gradients_to_the_codes(generator):
    made = make(generator).requires_grad_(False)
    codes = torch.rand(1, made.channels, 2, 3, generator=generator, requires_grad=True)
    lab = torch.rand(1, 3, 16, 24, generator=generator, requires_grad=True)
    (made.decode(codes).sum() + made.encode(lab).sum()).backward()
    assert codes.grad.abs().sum() > 0 and lab.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in made.parameters())


def test_gradcheck_of_the_loss_through_codes_and_a_copy(generator):
    made = make(generator, 4).double().requires_grad_(False)
    codes = torch.rand(1, 16, 1, 2, generator=generator, dtype=torch.float64).requires_grad_()
    scores = torch.rand(1, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    lab = 2 * torch.rand(1, 3, 8, 16, generator=generator, dtype=torch.float64) - 1

    def loss(codes, scores):
        return lab_l1(made.decode(transport(codes, scores.softmax(dim=1))), lab)

    assert torch.autograd.gradcheck(loss, (codes, scores))


def test_codes_that_are_copied_by_a_permutation_decode_to_moved_blocks(generator, clips):
    made = make(generator)
    with torch.no_grad():
        lab = scaled_lab(clips[:1, 0])
        codes = made.encode(lab)
        order = torch.randperm(64, generator=generator)
        moved = transport(codes, torch.eye(64)[order][None])
        # columns are targets: target j is what row i with order[i] = j holds
        cells = block_means(lab)[:, :, ::8, ::8].flatten(2)[:, :, order.argsort()]
        expected = F.interpolate(cells.unflatten(2, (8, 8)), scale_factor=8)
        assert (made.decode(moved) - expected.tanh()).abs().max() < 1e-5


def test_a_lower_precision_changes_nothing(generator, clips):
    made = make(generator)
    assert made.loss(clips) == made.loss(clips, precision=torch.bfloat16)


def test_weights_are_kept(generator, clips, tmp_path):
    made = make(generator)
    save_weights(made, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.config == made.config and not loaded.training
    lab = scaled_lab(clips[:, 0])
    with torch.no_grad():
        expected = made.decode(made.encode(lab))
        torch.testing.assert_close(loaded.decode(loaded.encode(lab)), expected, atol=5e-3, rtol=0)


def test_the_laptop_model_is_small(generator):
    config = AUTOENCODER_PROFILES["laptop"].model
    made = ColourAutoencoder(config, generator)
    assert sum(p.numel() for p in made.parameters()) * 2 < 5e6


# -- bad input --


def test_what_does_not_fit_is_an_error(generator):
    made = make(generator)
    for shape in ((1, 3, 12, 16), (3, 16, 16), (1, 1, 16, 16)):
        with pytest.raises(InputError, match="multiples of 8"):
            made.encode(torch.zeros(shape))
    for shape in ((1, 3, 2, 2), (32, 2, 2)):
        with pytest.raises(InputError, match=r"codes \(B, 32, h, w\)"):
            made.decode(torch.zeros(shape))
    with pytest.raises(InputError, match="multiples of 8"):
        made.loss(torch.zeros(1, 1, 3, 12, 16))
    with pytest.raises(InputError, match="of one shape"):
        lab_l1(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 16))
    with pytest.raises(InputError, match="at least 4"):
        make(generator, 2)
