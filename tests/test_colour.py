"""Lab against a published table and scikit-image; the colour words against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch

from corrlib.checks import colour as exercises
from corrlib.colour import ColourQuantiser, lab_to_rgb, rgb_to_lab
from corrlib.errors import InputError

# CIE Lab (D65, 2°) of the corners of the sRGB cube, as colour tables print them.
TABLE = {
    (0, 0, 0): (0, 0, 0),
    (1, 1, 1): (100, 0, 0),
    (1, 0, 0): (53.24, 80.09, 67.20),
    (0, 1, 0): (87.73, -86.18, 83.18),
    (0, 0, 1): (32.30, 79.19, -107.86),
    (0, 1, 1): (91.11, -48.09, -14.13),
    (1, 0, 1): (60.32, 98.23, -60.82),
    (1, 1, 0): (97.14, -21.55, 94.48),
}


def pixel(*channels):
    return torch.tensor(channels, dtype=torch.float64).view(3, 1, 1)


@pytest.mark.parametrize("rgb", TABLE)
def test_corners_of_the_cube_are_where_tables_put_them(rgb):
    assert rgb_to_lab(pixel(*rgb)).flatten().tolist() == pytest.approx(TABLE[rgb], abs=0.03)


def test_greys_have_no_colour():
    grey = torch.linspace(0, 1, 50).expand(3, 1, 50)
    lab = rgb_to_lab(grey)
    assert lab[1:].abs().max() < 1e-3
    assert (lab[0].diff() > 0).all()


@pytest.mark.parametrize("direction", ["to", "from"])
def test_agrees_with_scikit_image(direction, generator):
    color = pytest.importorskip("skimage.color")
    rgb = torch.rand(2, 3, 9, 11, generator=generator, dtype=torch.float64)
    rgb[..., :4] *= 0.05  # the linear part of the curve
    numpy = rgb.movedim(1, -1).numpy()
    lab = torch.from_numpy(color.rgb2lab(numpy)).movedim(-1, 1)
    if direction == "to":
        torch.testing.assert_close(rgb_to_lab(rgb), lab, rtol=0, atol=0.02)
    else:
        torch.testing.assert_close(lab_to_rgb(lab), rgb, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-4), (torch.float64, 1e-6)])
def test_there_and_back_again(dtype, tolerance, generator):
    rgb = torch.rand(2, 4, 3, 8, 9, generator=generator, dtype=dtype)
    lab = rgb_to_lab(rgb)
    assert lab.shape == rgb.shape and lab.dtype == dtype
    torch.testing.assert_close(lab_to_rgb(lab), rgb, rtol=0, atol=tolerance)


def test_colours_no_screen_can_show_are_clipped():
    for lab in itertools.product((0, 50, 100), (-127, 127), (-127, 127)):
        rgb = lab_to_rgb(pixel(*lab))
        assert rgb.isfinite().all() and rgb.min() >= 0 and rgb.max() <= 1
    outside = torch.tensor([-0.5, 0.3, 1.5]).view(3, 1, 1)
    torch.testing.assert_close(rgb_to_lab(outside), rgb_to_lab(outside.clamp(0, 1)))


def test_gradients_are_right_and_finite_even_for_black_and_white(generator):
    rgb = 0.1 + 0.8 * torch.rand(1, 3, 2, 2, generator=generator, dtype=torch.float64)
    lab = rgb_to_lab(rgb)
    assert torch.autograd.gradcheck(rgb_to_lab, rgb.requires_grad_())
    assert torch.autograd.gradcheck(lab_to_rgb, lab.requires_grad_())
    for value in (0.0, 1.0):
        flat = torch.full((3, 2, 2), value, requires_grad=True)
        lab_to_rgb(rgb_to_lab(flat)).sum().backward()
        assert flat.grad.isfinite().all()


@pytest.mark.parametrize("images", [torch.rand(4, 4), torch.rand(2, 4, 4), torch.rand(1, 4, 3, 3)])
@pytest.mark.parametrize("convert", [rgb_to_lab, lab_to_rgb])
def test_other_shapes_and_types_are_refused(convert, images):
    with pytest.raises(InputError, match="expected float images"):
        convert(images)
    with pytest.raises(InputError, match="uint8"):
        convert(torch.zeros(3, 2, 2, dtype=torch.uint8))


@pytest.fixture
def clusters(generator):
    """16 well separated colours, 50 samples around each; returns centres and samples."""
    centres = torch.tensor(list(itertools.product((-60.0, -20, 20, 60), repeat=2))) + 5
    spread = torch.randn(16, 50, 2, generator=generator)
    return centres, (centres[:, None] + spread).flatten(0, 1)


def matched(one, other):
    """Whether each row of one has its own row of the other within 1 unit."""
    nearest = torch.cdist(one, other).min(dim=1)
    return bool((nearest.values < 1).all()) and len(set(nearest.indices.tolist())) == len(one)


def test_k_means_finds_separated_clusters(clusters, generator):
    centres, colours = clusters
    assert matched(ColourQuantiser.fit(colours, generator).centroids, centres)


def test_k_means_is_reproducible_and_does_not_depend_on_the_order(clusters, generator):
    _, colours = clusters
    first, again = (
        ColourQuantiser.fit(colours, torch.Generator().manual_seed(5)).centroids for _ in range(2)
    )
    assert torch.equal(first, again)
    shuffled = colours[torch.randperm(len(colours), generator=generator)]
    other = ColourQuantiser.fit(shuffled, torch.Generator().manual_seed(6)).centroids
    torch.testing.assert_close(other, first, rtol=0, atol=1e-3)


def test_centroids_are_fixed_points_and_sorted_by_hue(generator):
    colours = 40 * torch.randn(2000, 2, generator=generator)
    quantiser = ColourQuantiser.fit(colours, generator, count=5, steps=200)
    member = torch.cdist(colours, quantiser.centroids).argmin(dim=1)
    means = torch.stack([colours[member == k].mean(dim=0) for k in range(5)])
    torch.testing.assert_close(quantiser.centroids, means, rtol=0, atol=0.5)
    hue = torch.atan2(quantiser.centroids[:, 1], quantiser.centroids[:, 0])
    assert (hue.diff() > 0).all()


@pytest.mark.parametrize("distinct", [1, 2, 15])
def test_too_few_colours_are_refused(distinct, generator):
    colours = torch.arange(distinct).float()[:, None].expand(-1, 2).repeat(20, 1)
    with pytest.raises(InputError, match=f"16 distinct colours, found {distinct}"):
        ColourQuantiser.fit(colours, generator)
    with pytest.raises(InputError, match=r"expected ab colours \(N, 2\)"):
        ColourQuantiser.fit(torch.rand(30, 3), generator)


def test_exactly_as_many_colours_as_words(generator):
    colours = torch.randn(16, 2, generator=generator).repeat(3, 1)
    centroids = ColourQuantiser.fit(colours, generator).centroids
    torch.testing.assert_close(torch.cdist(colours, centroids).min(dim=1).values, torch.zeros(48))


def test_labels_are_the_nearest_centroids(generator):
    quantiser = ColourQuantiser(40 * torch.randn(16, 2, generator=generator))
    lab = rgb_to_lab(torch.rand(2, 3, 6, 9, generator=generator))
    labels = quantiser(lab)
    assert labels.shape == (2, 6, 9) and labels.dtype == torch.int64
    ab = lab[:, 1:].movedim(1, -1)
    distance = (ab[..., None, :] - quantiser.centroids).square().sum(dim=-1)
    assert torch.equal(labels, distance.argmin(dim=-1))
    lab[:, 0] += 30  # lightness plays no part
    assert torch.equal(quantiser(lab), labels)


def test_one_hot_and_back_to_colours(generator):
    quantiser = ColourQuantiser(40 * torch.randn(16, 2, generator=generator))
    labels = torch.randint(16, (2, 5, 7), generator=generator)
    hot = quantiser.one_hot(labels)
    assert hot.shape == (2, 16, 5, 7) and hot.dtype == torch.float32
    assert torch.equal(hot.sum(dim=1), torch.ones(2, 5, 7))
    assert torch.equal(hot.argmax(dim=1), labels)
    colours = quantiser.colours(hot)
    assert torch.equal(colours, quantiser.centroids[labels].movedim(-1, 1))
    mixture = quantiser.colours(torch.full((1, 16, 1, 1), 1 / 16)).flatten()
    torch.testing.assert_close(mixture, quantiser.centroids.mean(dim=0))


def test_centroids_travel_in_the_state_dict(generator):
    quantiser = ColourQuantiser(torch.randn(16, 2, generator=generator))
    empty = ColourQuantiser()
    empty.load_state_dict(quantiser.state_dict())
    assert torch.equal(empty.centroids, quantiser.centroids)


def test_exercise_is_the_librarys_quantiser(generator):
    quantiser = ColourQuantiser(40 * torch.randn(16, 2, generator=generator))
    lab = rgb_to_lab(torch.rand(2, 3, 6, 9, generator=generator))
    words = exercises.nearest_word.solution(lab[:, 1:], quantiser.centroids)
    assert torch.equal(words, quantiser(lab))
