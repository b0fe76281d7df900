"""The synthetic clip is the oracle of other tests, so it is held to its own definition here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corrlib import synthetic
from corrlib.errors import InputError
from corrlib.synthetic import synthetic_clip

STILL = {"speed": 0, "rotation": 0, "scaling": 0, "nonrigid": 0}


def grid(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).float()


def sample(frame: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear values of ``(3, H, W)`` at ``(2, H, W)`` pixel positions."""
    size = torch.tensor(frame.shape[:0:-1]).view(2, 1, 1)
    where = (2 * points / (size - 1) - 1).permute(1, 2, 0)[None]
    return F.grid_sample(frame.float()[None], where, align_corners=True, padding_mode="border")[0]


def away_from_edges(mask: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Where a window around the pixel holds a single id; the rim of the image counts as an edge."""
    window = 2 * pixels + 1
    ids = F.pad(mask.float()[None], (pixels,) * 4, value=-1)
    return (F.max_pool2d(ids, window, 1) == -F.max_pool2d(-ids, window, 1))[0]


def at_edges(mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Whether rounded positions come near an edge of ``mask``; positions outside count as such."""
    height, width = mask.shape
    x, y = points.round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    near = ~away_from_edges(mask)[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return near | ~inside


CASES = [
    {"seed": 0},
    {"seed": 1, "objects": 3, "height": 80, "width": 70, "speed": 2.0},
    {"seed": 2, "objects": 1, "nonrigid": 2.5, "frames": 12},
    {"seed": 3, "objects": 0, "rotation": 5.0, "scaling": 0.03},
]


@pytest.mark.parametrize("case", CASES)
def test_shapes_and_the_first_frame(case):
    clip = synthetic_clip(**case)
    frames, height, width = case.get("frames", 8), case.get("height", 96), case.get("width", 128)
    assert clip.frames.shape == (frames, 3, height, width) and clip.frames.dtype == torch.uint8
    assert clip.masks.shape == (frames, height, width) and clip.masks.dtype == torch.uint8
    assert clip.correspondence.shape == (frames, 2, height, width)
    assert clip.correspondence.dtype == torch.float32
    assert clip.visible.shape == (frames, height, width) and clip.visible.dtype == torch.bool
    assert clip.masks[0].unique().tolist() == list(range(case.get("objects", 2) + 1))
    assert torch.equal(clip.correspondence[0], grid(height, width))
    assert clip.visible[0].all()


def test_without_motion_nothing_changes():
    clip = synthetic_clip(frames=3, **STILL)
    for t in (1, 2):
        assert torch.equal(clip.frames[t], clip.frames[0])
        assert torch.equal(clip.masks[t], clip.masks[0])
        assert torch.equal(clip.correspondence[t], clip.correspondence[0])
    assert clip.visible.all()


@pytest.mark.parametrize("velocity", [(3, 0), (0, -2), (-4, 1)])
def test_a_shift_by_whole_pixels_is_exact(velocity):
    dx, dy = velocity
    clip = synthetic_clip(frames=4, height=60, width=80, velocity=velocity)
    for t in range(4):
        x, y = dx * t, dy * t
        place = grid(60, 80) + torch.tensor([x, y]).view(2, 1, 1)
        assert torch.allclose(clip.correspondence[t], place, atol=1e-4)
        inside = (place[0] >= 0) & (place[0] <= 79) & (place[1] >= 0) & (place[1] <= 59)
        assert torch.equal(clip.visible[t], inside)
        shown = clip.frames[t][:, max(0, y) : 60 + min(0, y), max(0, x) : 80 + min(0, x)]
        before = clip.frames[0][:, max(0, -y) : 60 + min(0, -y), max(0, -x) : 80 + min(0, -x)]
        assert torch.equal(shown, before)


@pytest.mark.parametrize("case", CASES)
def test_colours_follow_the_correspondence(case):
    clip = synthetic_clip(**case)
    first = clip.frames[0].float()
    for t in range(1, len(clip.frames)):
        place = clip.correspondence[t]
        sure = clip.visible[t] & away_from_edges(clip.masks[0]) & ~at_edges(clip.masks[t], place)
        assert sure.float().mean() > 0.3
        error = (sample(clip.frames[t], place) - first).abs().mean(0)[sure]
        for shift in ([2, 0], [0, -2]):
            wrong = place + torch.tensor(shift).view(2, 1, 1)
            other = (sample(clip.frames[t], wrong) - first).abs().mean(0)[sure]
            assert other.mean() > 4 * error.mean()
        assert error.mean() < 2.5
        assert error.quantile(0.99) < 12


@pytest.mark.parametrize("case", CASES)
def test_masks_follow_the_correspondence(case):
    clip = synthetic_clip(**case)
    height, width = clip.masks.shape[1:]
    for t, mask in enumerate(clip.masks):
        x, y = clip.correspondence[t].round().long()
        sure = clip.visible[t] & away_from_edges(clip.masks[0], 1)
        found = mask[y.clamp(0, height - 1), x.clamp(0, width - 1)]
        assert (found == clip.masks[0])[sure].float().mean() > 0.99


def test_what_is_covered_is_not_visible():
    clip = synthetic_clip(seed=4)
    t = -1
    height, width = clip.masks.shape[1:]
    x, y = clip.correspondence[t].round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    there = clip.masks[t][y.clamp(0, height - 1), x.clamp(0, width - 1)]
    sure = inside & ~at_edges(clip.masks[t], clip.correspondence[t])
    covered = sure & (there > clip.masks[0])
    assert covered.sum() > 50  # objects meet by design
    assert not clip.visible[t][covered].any()
    assert clip.visible[t][sure & (there == clip.masks[0])].float().mean() > 0.99
    assert not clip.visible[t][~inside & ((x < -1) | (x > width) | (y < -1) | (y > height))].any()
    nearest = clip.masks[0] == clip.masks[0].max()
    assert clip.visible[t][nearest & sure].all()  # nothing covers the nearest object


@pytest.mark.parametrize("seed", range(6))
def test_farther_objects_get_covered(seed):
    clip = synthetic_clip(seed=seed)
    assert (clip.masks[0] == 1).sum() > 300
    assert (~clip.visible[-1])[clip.masks[0] == 1].float().mean() > 0.05


def test_the_motion_maps_invert():
    random = synthetic._Random(0)
    short = 96
    most = synthetic.MAX_SLOPE * synthetic._wavelength(short) / (2 * torch.pi)
    motions = synthetic._motions(random, 12, short, 128, 3, 3.0, 4.0, 0.02, 0.999 * most, None)
    points = synthetic._pixel_grid(short, 128)
    for motion in motions:
        assert torch.equal(motion.forward(0, points), points)
        for t in range(12):
            assert (motion.inverse(t, motion.forward(t, points)) - points).abs().max() < 1e-6
            assert (motion.forward(t, motion.inverse(t, points)) - points).abs().max() < 1e-6


def test_nonrigid_motion_is_not_affine():
    def residual(**case):
        clip = synthetic_clip(seed=1, **case)
        inside = clip.masks[0] == 1
        before = clip.correspondence[0][:, inside].T.double()
        after = clip.correspondence[6][:, inside].T.double()
        basis = torch.cat([before, torch.ones(len(before), 1)], 1)
        return (basis @ torch.linalg.lstsq(basis, after).solution - after).abs().max()

    assert residual(nonrigid=0) < 1e-3
    assert 0.3 < residual(nonrigid=2.5) < 3


def test_speed_is_pixels_per_frame():
    clip = synthetic_clip(frames=30, **{**STILL, "speed": 2.0})
    step = (clip.correspondence[1] - clip.correspondence[0]).norm(dim=0)
    assert step[clip.masks[0] > 0].mean() == pytest.approx(2, rel=0.05)
    assert step[clip.masks[0] == 0].mean() == pytest.approx(0.5, rel=0.05)


def test_seeds():
    one, same, other = (synthetic_clip(frames=3, seed=seed) for seed in (5, 5, 6))
    for name in ("frames", "masks", "correspondence", "visible"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.frames, other.frames)
    assert not torch.equal(one.correspondence, other.correspondence)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    synthetic_clip(frames=2)
    assert torch.equal(torch.rand(3), expected)


def test_light_changes_colours_and_nothing_else():
    plain, lit = synthetic_clip(seed=7), synthetic_clip(seed=7, lighting=0.3)
    assert torch.equal(plain.frames[0], lit.frames[0])
    assert torch.equal(plain.masks, lit.masks)
    assert torch.equal(plain.correspondence, lit.correspondence)
    assert torch.equal(plain.visible, lit.visible)
    change = (plain.frames[-1].float() - lit.frames[-1].float()).abs()
    assert change.mean() > 10
    assert (plain.frames[1].float() - lit.frames[1].float()).abs().mean() < change.mean()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frames": 0}, "at least 1 frame"),
        ({"height": 8}, "16..4096"),
        ({"objects": -1}, "number of objects"),
        ({"objects": 99}, "number of objects"),
        ({"speed": -1}, "speed"),
        ({"lighting": float("nan")}, "lighting"),
        ({"nonrigid": 50}, "the most is"),
        ({"velocity": (0, float("inf"))}, "velocity"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        synthetic_clip(**arguments)


def test_small_and_many():
    assert synthetic_clip(frames=1, height=16, width=16, objects=1).frames.shape == (1, 3, 16, 16)
    assert synthetic_clip(frames=2, objects=synthetic.MAX_OBJECTS).masks.max() == 12
