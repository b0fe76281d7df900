"""The reconstruction loss, by closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from corrlib.errors import InputError
from corrlib.reconstruction import LAB_SCALE, colour_loss, lab_loss, reduce_labels


@pytest.fixture
def labels(generator):
    return torch.randint(16, (2, 8, 12), generator=generator)


def one_hot(labels):
    return F.one_hot(labels, 16).movedim(-1, 1).float()


def test_a_guess_costs_the_logarithm_of_the_number_of_words(labels):
    uniform = torch.full((2, 16, 2, 3), 1 / 16)
    assert colour_loss(uniform, labels).item() == pytest.approx(math.log(16), abs=1e-5)


def test_certainty_costs_nothing_when_right_and_is_finite_when_wrong(labels):
    assert colour_loss(one_hot(labels), labels).item() == pytest.approx(0, abs=1e-6)
    wrong = colour_loss(one_hot((labels + 1) % 16), labels).item()
    assert wrong == pytest.approx(-math.log(1e-8), rel=1e-4)


def test_equals_cross_entropy_at_full_size(labels, generator):
    scores = torch.randn(2, 16, 8, 12, generator=generator)
    expected = F.cross_entropy(scores, labels)
    assert colour_loss(scores.softmax(dim=1), labels).item() == pytest.approx(expected.item(), 1e-4)


def test_distributions_are_upsampled_bilinearly():
    copied = torch.zeros(1, 2, 1, 2)
    copied[0, 0, 0, 0] = copied[0, 1, 0, 1] = 1  # word 0 on the left, word 1 on the right
    labels = torch.zeros(1, 4, 8, dtype=torch.int64)
    # Cell centres lie at pixels 1.5 and 5.5, with straight lines between them and flat outside.
    left = torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])
    expected = -(left + 1e-8).log().mean()
    assert colour_loss(copied, labels).item() == pytest.approx(expected.item(), 1e-5)


def test_gradient(generator):
    labels = torch.randint(4, (1, 4, 6), generator=generator)
    copied = 0.1 + torch.rand(1, 4, 2, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: colour_loss(p, labels), copied.requires_grad_())


def test_gradient_raises_the_true_word(labels):
    copied = torch.full((2, 16, 8, 12), 1 / 16, requires_grad=True)
    colour_loss(copied, labels).backward()
    assert torch.equal(copied.grad < 0, one_hot(labels).bool())


@pytest.mark.parametrize("shape", [(1, 8, 12), (2, 1, 8, 12), (8, 12)])
def test_labels_that_do_not_belong_are_refused(shape):
    with pytest.raises(InputError, match=r"expected labels \(B, H, W\)"):
        colour_loss(torch.rand(2, 16, 2, 3), torch.zeros(shape, dtype=torch.int64))


def test_reduced_labels_are_shares_of_each_cell(labels):
    shares = reduce_labels(one_hot(labels), 4)
    assert shares.shape == (2, 16, 2, 3)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2, 2, 3))
    cell = labels[1, 4:8, 8:12].flatten()
    assert torch.equal(shares[1, :, 1, 2], torch.bincount(cell, minlength=16) / 16)
    assert torch.equal(reduce_labels(one_hot(labels), 1), one_hot(labels))


def test_lab_loss_is_quadratic_near_zero_and_linear_beyond():
    true = torch.zeros(1, 3, 2, 2)
    assert lab_loss(true, true) == 0
    near, far = 0.05, 2.0  # in units of LAB_SCALE; the two meet at 0.1
    assert lab_loss(true + near * LAB_SCALE, true).item() == pytest.approx(near**2 / 0.2, 1e-5)
    assert lab_loss(true + far * LAB_SCALE, true).item() == pytest.approx(far - 0.05, 1e-5)
