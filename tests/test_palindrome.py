"""The palindrome walk."""

from __future__ import annotations

import math

import pytest
import torch

from corrlib.crw import CRW, CRWConfig, cut_patches, random_boxes
from corrlib.errors import InputError
from corrlib.palindrome import palindrome_loss, transition
from corrlib.recipes import CRW_PROFILES


def distinct(cells: int, length: int = 1) -> torch.Tensor:
    """Orthogonal nodes ``(1, T, n, 1, n)``, the same in every frame."""
    return torch.eye(cells).view(1, 1, cells, 1, cells).repeat(1, length, 1, 1, 1)


def test_probabilities_of_stepping_sum_to_one_with_and_without_dropped_edges(generator):
    one, other = torch.randn(2, 2, 8, 3, 5, generator=generator)
    for dropped in (0.0, 0.3):
        step = transition(one, other, 0.1, dropped, generator)
        assert step.shape == (2, 15, 15)
        torch.testing.assert_close(step.sum(dim=1), torch.ones(2, 15))


def test_dropped_edges_are_not_taken(generator):
    one = torch.randn(1, 8, 4, 4, generator=generator)
    step = transition(one, one, 1.0, 0.25, generator)
    assert (step == 0).float().mean().item() == pytest.approx(0.25, abs=0.08)


def test_unmistakable_nodes_come_home_even_when_they_move(generator):
    nodes = distinct(6, 4)
    for t in range(4):
        nodes[:, t] = nodes[:, t, :, :, torch.randperm(6, generator=generator)]
    assert palindrome_loss(nodes, temperature=0.05).item() == pytest.approx(0, abs=1e-5)


def test_equal_nodes_cost_the_logarithm_of_their_number():
    nodes = torch.ones(2, 3, 4, 2, 5)
    assert palindrome_loss(nodes, 0.07).item() == pytest.approx(math.log(10), abs=1e-4)


def test_the_loss_is_the_mean_over_walks_written_out(generator):
    nodes = torch.nn.functional.normalize(torch.randn(2, 3, 6, 2, 3, generator=generator), dim=2)
    cells = nodes.flatten(3)

    def step(reference, target):
        return (cells[:, reference].transpose(1, 2) @ cells[:, target] / 0.3).softmax(dim=1)

    short = step(0, 1) @ step(1, 0)
    long = step(0, 1) @ step(1, 2) @ step(2, 1) @ step(1, 0)
    expected = [-torch.diagonal(walk, dim1=1, dim2=2).log().mean() for walk in (short, long)]
    torch.testing.assert_close(palindrome_loss(nodes, 0.3), sum(expected) / 2)


def test_gradcheck(generator):
    nodes = torch.randn(1, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda features: palindrome_loss(features, 0.5), nodes.requires_grad_()
    )


SMALL = CRWConfig(patch=32, spacing=16)


def test_the_method_encodes_each_patch_once_and_reaches_every_parameter(generator):
    made = CRW(SMALL, generator).train()
    encoded = []
    made.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape))
    losses = made.loss(torch.rand(2, 3, 3, 48, 64, generator=generator), generator)
    losses.total.backward()
    assert encoded == [(2 * 3 * 2 * 3, 3, 32, 32)]
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        if name != "projection.bias":  # moves all nodes alike; unit vectors hardly notice
            assert parameter.grad.abs().sum() > 0, name


def test_patches_overlap_and_are_cut_where_they_say(generator):
    frames = torch.rand(1, 2, 3, 48, 64, generator=generator)
    patches = cut_patches(frames, 32, 16)
    assert patches.shape == (1, 2, 2, 3, 3, 32, 32)
    for row in range(2):
        for column in range(3):
            own = frames[..., 16 * row : 16 * row + 32, 16 * column : 16 * column + 32]
            assert torch.equal(patches[:, :, row, column], own)


@pytest.mark.parametrize("training", [False, True])
def test_a_node_knows_nothing_but_its_patch(training, generator):
    """Neither of what is around it, nor of where it is: the map of a frame tells both."""
    made = CRW(SMALL, generator).train(training)
    plain = torch.full((1, 1, 3, 64, 64), 0.3)
    nodes = made.nodes(plain, generator)[0, 0].flatten(1)
    torch.testing.assert_close(nodes, nodes[:, :1].expand_as(nodes), atol=1e-5, rtol=1e-4)
    features = made.features(plain[0])[0].flatten(1)
    assert (features - features[:, :1]).abs().max() > 0.01

    made.eval()
    frames = torch.rand(1, 1, 3, 64, 64, generator=generator)
    changed = frames.clone()
    changed[..., 32:] = 0
    before, after = (made.nodes(one)[0, 0, :, :, 0] for one in (frames, changed))
    torch.testing.assert_close(before, after)


def test_each_patch_is_seen_through_a_crop_of_its_own(generator):
    boxes = random_boxes((2, 50, 4), CRWConfig(), generator) + 0.5
    sides = boxes[..., 2:] - boxes[..., :2]
    assert boxes.shape == (2, 50, 4, 4) and boxes.min() >= 0 and boxes.max() <= 64
    shares = sides.prod(dim=-1) / 64**2
    assert shares.min() > 0.6 and shares.max() < 0.9
    assert len(boxes.flatten(0, 2).unique(dim=0)) == 400
    assert boxes[..., :2].amin() < 1 and boxes[..., 2:].amax() > 63  # anywhere in the patch


def test_a_step_down_the_gradient_lowers_the_loss(generator):
    made = CRW(CRW_PROFILES["fast"].model, generator).train()
    clips = torch.rand(2, 3, 3, 64, 64, generator=generator)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.01)
    before = None
    for _ in range(4):
        loss = made.loss(clips, torch.Generator().manual_seed(1)).total
        before = before or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert made.loss(clips, torch.Generator().manual_seed(1)).total < before


@pytest.mark.parametrize("shape", [(1, 1, 96, 96), (1, 3, 80, 96), (1, 3, 32, 96), (1, 3, 64, 64)])
def test_clips_of_one_frame_one_patch_or_odd_sides_are_errors(shape, generator):
    shape = (*shape[:2], 3, *shape[2:])
    with pytest.raises(InputError, match="multiple of 32 pixels"):
        CRW(CRWConfig(), generator).loss(torch.rand(shape))
