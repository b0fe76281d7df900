"""The joint-task model: what its loss is, what it is made of, and how it is trained."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from corrlib import sharding
from corrlib.adapt import adaptation_recipe
from corrlib.affinity import full_affinity, normalise
from corrlib.colour import ColourQuantiser, rgb_to_lab
from corrlib.colour_autoencoder import AutoencoderConfig, ColourAutoencoder, lab_l1, scaled_lab
from corrlib.concentration import concentration
from corrlib.data_parallel import DealtDraws
from corrlib.errors import InputError
from corrlib.frames import FrameCache
from corrlib.joint import WITHOUT, Joint, JointConfig
from corrlib.recipes import JOINT_PROFILES
from corrlib.synthetic import synthetic_clip
from corrlib.training import Trainer
from corrlib.video import VideoWriter
from corrlib.weights import load_weights, save_weights

SMALL = AutoencoderConfig(width=8)
STAGES = pytest.mark.parametrize("share", [0.2, 0.8])


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> str:
    """A small auto-encoder's weights."""
    path = tmp_path_factory.mktemp("joint") / "colours.safetensors"
    save_weights(ColourAutoencoder(SMALL, torch.Generator().manual_seed(5)), path)
    return str(path)


def model(**settings) -> Joint:
    """In eval mode: patches are not turned or enlarged."""
    generator = torch.Generator().manual_seed(0)
    settings = {
        "encoder": "resnet18-half-stride8-framenorm",
        "unit_features": True,
        "temperature": 0.07,
        "patch": 32,
        "autoencoder": SMALL,
        "threshold": 1e3,
    } | settings
    made = Joint(JointConfig(**settings), generator)
    if made.config.autoencoder is None:
        colours = rgb_to_lab(torch.rand(1, 3, 8, 64, generator=generator))[0, 1:].flatten(1).T
        made.colours.quantiser = ColourQuantiser.fit(colours, generator)
    return made.eval()


def clips_of(generator, batch: int = 2, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.rand(batch, 2, 3, height, width, generator=generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@STAGES
def test_a_flat_clip_has_no_loss_in_words(share):
    losses = model(autoencoder=None).loss(torch.full((2, 2, 3, 48, 64), 0.3), share=share)
    assert losses.colour.item() == pytest.approx(0, abs=1e-5)
    assert losses.cycle_colour.item() == pytest.approx(0, abs=1e-5)
    assert losses.kept == 1


@STAGES
def test_the_right_match_costs_what_the_autoencoder_loses(share, generator, monkeypatch):
    """A still clip, all of it the patch, and the affinity that leaves every cell at its place."""
    made = model(patch=64, shift=0.0)
    monkeypatch.setattr(made, "affinity", lambda a, b: torch.eye(64).expand(len(a), -1, -1))
    clips = clips_of(generator, 2, 64, 64)
    clips[:, 1] = clips[:, 0]
    losses = made.loss(clips, share=share)
    lab = scaled_lab(clips[:, 0])
    own = made.colours.autoencoder
    expected = lab_l1(own.decode(own.encode(lab)), lab).mean()
    torch.testing.assert_close(losses.colour, expected)
    torch.testing.assert_close(losses.cycle_colour, expected)
    assert losses.cycle_coordinates.abs() < 1e-5


def test_a_patch_is_localised_by_its_features(generator):
    made = model(temperature=0.01)
    frame = normalise(torch.randn(2, 16, 6, 9, generator=generator))
    patch = torch.stack([frame[0, :, 1:5, 2:6], frame[1, :, 2:6, 5:9]])
    located, boxes = made.localise(patch, frame)
    expected = torch.tensor([[15.5, 7.5, 47.5, 39.5], [39.5, 15.5, 71.5, 47.5]])
    torch.testing.assert_close(boxes, expected, atol=0.05, rtol=0)
    torch.testing.assert_close(located[0, :, 0, 0], torch.tensor([19.5, 11.5]), atol=0.05, rtol=0)


@pytest.mark.parametrize("context", [False, True])
def test_after_the_warm_up_a_patch_is_matched_where_it_went(context, generator, monkeypatch):
    """Features are the cells' own pixels, and frame 2 is frame 1 moved by whole cells."""
    made = model(autoencoder=None, temperature=0.001, context=context)
    monkeypatch.setattr(
        made.encoder, "encode", lambda grey, _: F.pixel_unshuffle(grey[:, :1] - 0.5, 8)
    )
    box = torch.tensor([[15.5, 7.5, 47.5, 39.5]])
    monkeypatch.setattr(made, "_draw", lambda clips, _: (clips[:, 0], (box, box)))
    boxes = []
    localise = made.localise
    monkeypatch.setattr(
        made, "localise", lambda *pair: boxes.append(localise(*pair)[1]) or localise(*pair)
    )
    frame = torch.rand(1, 3, 64, 80, generator=generator)
    costs = []
    for y, x in ((0, 0), (16, 24), (-8, 32)):
        clips = torch.stack([frame, frame.roll((y, x), dims=(2, 3))], dim=1)
        costs.append(made.loss(clips, share=0.8).colour)
        expected = box + torch.tensor([x, y, x, y])
        torch.testing.assert_close(boxes[-1], expected, atol=0.05, rtol=0)
        torch.testing.assert_close(costs[-1], costs[0], atol=0.01, rtol=0)
    other = torch.rand(1, 3, 64, 80, generator=generator)
    assert made.loss(torch.stack([frame, other], dim=1), share=0.8).colour > costs[0] + 0.1


@STAGES
def test_total_is_the_weighted_sum_and_gradients_reach_the_encoder_alone(share, generator):
    made = model().train()
    losses = made.loss(clips_of(generator), generator, share=share)
    expected = losses.colour + 0.3 * losses.concentration
    expected = expected + 0.1 * losses.cycle_colour + 0.1 * losses.cycle_coordinates
    torch.testing.assert_close(losses.total, expected)
    losses.total.backward()
    for name, parameter in made.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in made.colours.parameters())


def test_each_frame_is_encoded_once(generator):
    made = model()
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape))
    made.loss(clips_of(generator), generator, share=0.2)
    assert encoded == [(4, 3, 32, 32)]  # both patches of two clips
    encoded.clear()
    made.loss(clips_of(generator), generator, share=0.8)
    assert encoded == [(2, 3, 32, 32), (2, 3, 48, 64)]


def test_the_encoder_sees_lightness_only(generator):
    made = model()
    frames = torch.rand(1, 3, 40, 48, generator=generator)
    lab = rgb_to_lab(frames)
    seen = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = made.features(frames)
    torch.testing.assert_close(seen[0], (lab[:, :1] / 100).expand(-1, 3, -1, -1))
    assert features.shape == (1, 128, 5, 6)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1, 5, 6))
    plain = model(unit_features=False).features(frames)
    assert (plain.norm(dim=1) - 1).abs().max() > 0.1


@STAGES
@pytest.mark.parametrize("part", ["concentration", "orthogonal"])
def test_without_a_regulariser_only_it_is_gone(part, share, generator):
    clips = clips_of(generator)
    whole, lacking = model(), model()
    lacking.config = WITHOUT[part](whole.config)
    full, less = (made.loss(clips, seeded(), share=share)._asdict() for made in (whole, lacking))
    gone = {"concentration": {"concentration"}}.get(part, {"cycle_colour", "cycle_coordinates"})
    for name in full.keys() - {"total"}:
        if name in gone:
            assert full[name] > 0 and less[name] == 0, name
        else:
            torch.testing.assert_close(full[name], less[name])


def test_without_localisation_frame_2_is_never_seen_whole(generator):
    made = model()
    made.config = WITHOUT["localisation"](made.config)
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape))
    clips = clips_of(generator)
    late = made.loss(clips, seeded(), share=0.8)
    assert encoded == [(4, 3, 32, 32)]
    torch.testing.assert_close(tuple(late), tuple(made.loss(clips, seeded(), share=0.2)))


def test_without_the_autoencoder_words_are_copied():
    made = model(autoencoder=None)
    assert not any("autoencoder" in name for name in made.state_dict())
    losses = made.loss(torch.rand(1, 2, 3, 48, 64), share=0.8)
    assert losses.colour > 0 and losses.concentration > 0 and losses.cycle_colour > 0


def test_each_row_of_the_ablation_lacks_one_part():
    full = JointConfig()
    rows = {name: without(full) for name, without in WITHOUT.items()}
    assert rows == {
        "localisation": replace(full, localisation=False),
        "concentration": replace(full, concentration_weight=0.0),
        "orthogonal": replace(full, colour_cycle_weight=0.0, coordinate_cycle_weight=0.0),
        "autoencoder": replace(full, autoencoder=None),
    }


def flat(*colours: tuple[float, float, float]) -> torch.Tensor:
    """Frames of one colour each, ``(1, T, 3, 48, 64)``."""
    return torch.tensor(colours)[None, :, :, None, None].expand(-1, -1, -1, 48, 64)


RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


def test_a_patch_that_is_not_in_frame_2_is_dropped(generator):
    """One clip keeps its colour and one does not: only the first counts, at half the weight."""
    made = model(autoencoder=None, threshold=2.5).train()
    clips = torch.cat([flat(RED, RED), flat(RED, BLUE)])
    clips = (clips + 0.01 * torch.rand(clips.shape, generator=generator)).clamp(0, 1)
    early = made.loss(clips, seeded(), share=0.2)
    assert early.kept == 1 and early.colour.isfinite() and early.colour > 5
    late = made.loss(clips, seeded(), share=0.8)
    assert late.kept == 0.5 and late.colour < 0.01


def test_a_batch_without_any_sample_left_has_gradients_of_zero():
    made = model(autoencoder=None, threshold=2.5).train()
    losses = made.loss(flat(RED, BLUE), seeded(), share=0.8)
    assert losses.kept == 0 and losses.total == 0
    losses.total.backward()
    for name, parameter in made.encoder.named_parameters():
        assert parameter.grad is not None and (parameter.grad == 0).all(), name


def test_the_schedule(generator):
    """Concentration sets in first; localisation and dropping together, after the warm-up."""
    made = model(threshold=0.0, warm_up=0.5, concentration_start=0.25)
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    clips = clips_of(generator)
    found = [made.loss(clips, seeded(), share=share) for share in (0.0, 0.24, 0.25, 0.49, 0.5)]
    assert [bool(losses.concentration > 0) for losses in found[:4]] == [False, False, True, True]
    assert [losses.kept.item() for losses in found] == [1, 1, 1, 1, 0]
    assert encoded == [4, 4, 4, 4, 2, 2]


def test_piecewise_concentration_asks_where_the_patch_was_located(generator, monkeypatch):
    made = model(concentration="piecewise")
    assert made.loss(clips_of(generator), seeded(), share=0.2).concentration == 0
    located = 40 * torch.rand(2, 2, 4, 4, generator=generator)
    boxes = torch.tensor([[-0.5, -0.5, 31.5, 31.5]]).expand(2, 4)
    monkeypatch.setattr(made, "localise", lambda patch, frame: (located, boxes))
    found = made.loss(clips_of(generator), seeded(), share=0.8).concentration
    expected = concentration(located, (16, 16)).mean() / 8
    assert expected > 0
    torch.testing.assert_close(found, expected)


def test_a_collapsed_match_costs_more_than_the_right_one(generator, monkeypatch):
    """The orthogonal losses of an identity and of an affinity that takes one cell for all."""
    made = model(patch=64, shift=0.0)
    clips = clips_of(generator, 1, 64, 64)
    collapsed = torch.zeros(1, 64, 64)
    collapsed[:, 27] = 1
    costs = []
    for affinity in (torch.eye(64)[None], collapsed):
        monkeypatch.setattr(made, "affinity", lambda a, b, affinity=affinity: affinity)
        costs.append(made.loss(clips, share=0.2))
    assert costs[1].cycle_coordinates > costs[0].cycle_coordinates + 1


def test_only_in_training_patches_are_turned_and_enlarged(generator):
    made = model(rotation=10.0, zoom=1.2)
    clips = clips_of(generator)
    plain, boxes = made._draw(clips, seeded())
    assert torch.equal(plain, clips[:, 0])
    turned, same = made.train()._draw(clips, seeded())
    assert turned.shape == plain.shape and not torch.equal(turned, plain)
    assert all(map(torch.equal, boxes, same))
    made.config = replace(made.config, rotation=0.0, zoom=1.0)
    assert torch.equal(made._draw(clips, seeded())[0], plain)


def test_a_patch_is_turned_about_its_own_centre(generator):
    """What is radially symmetric about the patch's centre stays as it is when turned."""
    made = model(rotation=10.0, zoom=1.0).train()
    places = torch.arange(32) - 15.5
    bump = (-(places[:, None] ** 2 + places**2) / 50).exp()
    frames, _ = made._draw(bump.expand(1, 2, 3, 32, 32), seeded())
    inner = slice(8, 24)  # away from the corners, where a frame as small as the patch has no more
    torch.testing.assert_close(frames[0, 0, inner, inner], bump[inner, inner], atol=0.01, rtol=0)


def test_crops_of_the_warm_up_are_from_about_the_same_place(generator):
    made = model(shift=0.25)
    _, (first, second) = made._draw(clips_of(generator, 64, 96, 128), generator)
    for boxes in (first, second):
        torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], torch.full((64, 2), 32.0))
    apart = (second - first)[:, :2]
    assert apart.abs().max() <= 8 and apart.abs().max() > 4
    assert (apart.amin(dim=0) < 0).all() and (apart.amax(dim=0) > 0).all()
    corners = first[:, :2] + 0.5
    assert (corners % 8 == 0).all()  # on the cells' own grid
    assert corners[:, 0].amax() == 96 and corners[:, 1].amax() == 64 and corners.amin() == 0


def test_in_context_a_patch_has_the_features_that_it_has_in_its_frame(generator):
    """Each frame is encoded once, and the crops are those of the images."""
    made = model(context=True, shift=0.0)
    clips = clips_of(generator)
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape))
    first, boxes = made._draw(clips, seeded())
    features, lab, located = made._patches(first, clips[:, 1], boxes, False, torch.float32)
    assert encoded == [(4, 3, 48, 64)] and located is None
    for number, (box, image) in enumerate(zip(boxes, lab, strict=True)):
        whole = made.features(clips[:, number])
        frame = scaled_lab(clips[:, number])
        for sample, (x, y) in enumerate((box[:, :2] + 0.5).long().tolist()):
            own = whole[sample, :, y // 8 : y // 8 + 4, x // 8 : x // 8 + 4]
            torch.testing.assert_close(features[number][sample], own, atol=1e-5, rtol=1e-4)
            own = frame[sample, :, y : y + 32, x : x + 32]
            torch.testing.assert_close(image[sample], own, atol=1e-5, rtol=1e-4)
    encoded.clear()
    made.loss(clips, seeded(), share=0.8)
    assert encoded == [(4, 3, 48, 64)]


@STAGES
def test_processes_that_share_a_batch_have_its_loss(share, generator, monkeypatch):
    made = model().train()
    clips = clips_of(generator, 4)
    made.config = replace(
        made.config, threshold=made.loss(clips, seeded(), share=share).colour.item()
    )
    whole = made.loss(clips, seeded(), share=share)
    assert share < 0.5 or 0 < whole.kept < 1
    monkeypatch.setattr(sharding, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(sharding, "rank", lambda rank=rank: rank)
        with DealtDraws():
            parts.append(torch.stack(made.loss(clips[rank::2], seeded(), share=share)))
    torch.testing.assert_close(sum(parts) / 2, torch.stack(whole), rtol=1e-4, atol=1e-5)


def test_the_defaults_are_the_published_model():
    config, published = JointConfig(), JOINT_PROFILES["published"]
    assert published.model == config
    assert (config.encoder, config.temperature, config.unit_features) == (
        "resnet18-stride8-layer4",
        1.0,
        False,
    )
    assert (config.patch, published.clips.size, published.clips.length) == (256, 640, 2)
    assert (config.rotation, config.zoom, config.threshold) == (10, 1.2, 2.5)
    assert (config.warm_up, config.concentration_start) == (10 / 30, 1 / 30)
    weights = (config.concentration_weight, config.colour_cycle_weight)
    assert (*weights, config.coordinate_cycle_weight) == (0.3, 0.1, 0.1)
    assert (published.optimiser, published.learning_rate) == ("adam", 1e-4)
    assert published.clips.gap == (1, 50) and config.autoencoder == AutoencoderConfig(64)


@pytest.mark.parametrize(
    "shape", [(1, 3, 3, 48, 64), (1, 1, 3, 48, 64), (1, 2, 3, 50, 64), (1, 2, 3, 24, 64), (2, 3)]
)
def test_clips_that_do_not_fit_are_errors(shape):
    with pytest.raises(InputError, match="multiples of 8 and at least the patch's 32"):
        model().loss(torch.zeros(shape))


def test_models_that_do_not_fit_together_are_errors():
    with pytest.raises(InputError, match="multiple of 8"):
        model(patch=36)
    with pytest.raises(InputError, match="windowed or piecewise"):
        model(concentration="soft")
    with pytest.raises(InputError, match="stride 8"):
        model(encoder="resnet18-stride4")


# -- before, during and after training -------------------------------------------------------------


def test_preparing_loads_the_autoencoder(autoencoder, generator):
    made = model(autoencoder_weights=autoencoder)
    made.prepare(torch.rand(2, 3, 16, 16), generator)
    trained = load_weights(autoencoder).state_dict()
    for name, value in made.colours.autoencoder.state_dict().items():
        assert torch.equal(value, trained[name]), name
    other = model(autoencoder=AutoencoderConfig(16), autoencoder_weights=autoencoder)
    with pytest.raises(InputError, match=r"width=16.*holds AutoencoderConfig\(width=8\)"):
        other.prepare(torch.rand(2, 3, 16, 16), generator)
    with pytest.raises(InputError, match="nowhere"):
        model(autoencoder_weights="nowhere").prepare(torch.rand(2, 3, 16, 16), generator)


def test_preparing_finds_the_colour_words(generator):
    made = model(autoencoder=None)
    before = made.colours.quantiser.centroids.clone()
    made.prepare(torch.rand(2, 3, 32, 32, generator=generator), generator)
    assert made.colours.quantiser.centroids.shape == (16, 2)
    assert not torch.equal(made.colours.quantiser.centroids, before)


@pytest.mark.parametrize("colours", [SMALL, None])
def test_weights_round_trip(colours, tmp_path, generator):
    made = model(autoencoder=colours)
    save_weights(made, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert isinstance(loaded, Joint) and loaded.config == made.config
    assert JointConfig.of(asdict(made.config)) == made.config
    clips = clips_of(generator)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.features(clips[:, 0]), made.features(clips[:, 0]), rtol=2e-2, atol=2e-2
        )
        expected = made.loss(clips, seeded(), share=0.8)
        found = loaded.loss(clips, seeded(), share=0.8)
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=2e-2, atol=2e-2)


def test_adaptation_has_a_recipe():
    config = JOINT_PROFILES["laptop"].model
    recipe = adaptation_recipe(config)
    assert recipe.model == config and recipe.clips.length == 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FrameCache:
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(2):
        clip = synthetic_clip(frames=6, height=72, width=96, seed=seed)
        with VideoWriter(folder / f"clip{seed}.mp4", 12) as writer:
            for frame in clip.frames:
                writer.write(frame)
    paths = sorted(folder.glob("*.mp4"))
    return FrameCache.build(paths, folder / "cache", short_side=64, progress=False)


def test_a_run_resumed_is_the_run_that_was_not_interrupted(cache, autoencoder, tmp_path):
    fast = JOINT_PROFILES["fast"]
    colours = replace(fast.model, autoencoder=SMALL, autoencoder_weights=autoencoder)
    config = replace(fast, model=colours, steps=3)

    def trainer(name: str, resume: bool = False) -> Trainer:
        options = {"device": "cpu", "precision": "fp32", "resume": resume}
        return Trainer(config, cache, tmp_path / name, **options)

    whole = trainer("whole")
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    assert whole.run(progress=False)
    assert not trainer("parts").run(progress=False, stop_after=1)
    resumed = trainer("parts", resume=True)
    assert resumed.progress.step == 1 and resumed.run(progress=False)
    found = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, found[name]), name
        if name.startswith("colours."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(whole.model.encoder.conv1.weight, before["encoder.conv1.weight"])
    header = (tmp_path / "whole" / "log.csv").read_text().splitlines()[0]
    assert header.endswith("total,colour,concentration,cycle_colour,cycle_coordinates,kept")
    assert load_weights(whole.weights).config == config.model


def test_training_lowers_the_loss(generator):
    """From both stages, on patches that training did not draw."""
    clips = torch.stack(
        [synthetic_clip(frames=4, height=48, width=64, seed=seed).frames[::3] for seed in range(4)]
    )
    clips = clips.float() / 255
    made = model(autoencoder=None).train()
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-3)

    def costs() -> torch.Tensor:
        made.eval()
        with torch.no_grad():
            losses = [made.loss(clips, seeded(), share=share).colour for share in (0.2, 0.8)]
        made.train()
        return torch.stack(losses)

    before = costs()
    for step in range(16):
        optimiser.zero_grad()
        made.loss(clips, generator, share=step / 16).total.backward()
        optimiser.step()
    after = costs()
    assert (after < 0.95 * before).all(), (before, after)


def test_affinities_are_full(generator):
    reference, target = (torch.randn(1, 8, *size, generator=generator) for size in ((3, 4), (2, 2)))
    found = model(temperature=0.5).affinity(reference, target)
    torch.testing.assert_close(found, full_affinity(reference, target, 0.5))
