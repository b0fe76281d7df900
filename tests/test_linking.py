"""Two pictures linked: identity, shifts, crops of one picture; masks copied; lines drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corrlib.baselines import colour_patch, random_features
from corrlib.errors import InputError
from corrlib.linking import Matches, draw_matches, link, transfer_mask
from corrlib.metrics import region_similarity
from corrlib.propagation import PropagationConfig


def noise(generator, height: int, width: int, grain: int = 6) -> torch.Tensor:
    coarse = torch.rand(1, 3, height // grain + 1, width // grain + 1, generator=generator)
    return (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).to(torch.uint8)


@pytest.mark.parametrize("size", [(96, 128), (61, 83)])
def test_a_frame_with_itself_is_the_identity(size, generator):
    frame = noise(generator, *size)
    matches = link(frame, frame, colour_patch())
    assert len(matches.score) == -(-size[0] // 8) * -(-size[1] // 8)
    torch.testing.assert_close(matches.points_a, matches.points_b, atol=0.01, rtol=0)
    torch.testing.assert_close(matches.score, torch.ones_like(matches.score))


@pytest.mark.parametrize("shift", [(16, 0), (-8, 24)])
def test_a_shifted_frame_gives_the_shift(shift, generator):
    world = noise(generator, 160, 192)
    x, y = shift
    a, b = world[:, 32:128, 32:160], world[:, 32 - y : 128 - y, 32 - x : 160 - x]
    matches = link(a, b, colour_patch())
    moved = matches.points_b - matches.points_a
    right = ((moved - torch.tensor(shift)).abs() < 0.5).all(dim=1)
    assert right.float().mean() > 0.8
    assert right[:20].all()  # the most similar come first
    assert (matches.score.diff() <= 0).all()


def test_two_crops_of_one_picture(generator):
    """Of other sizes, and shifted by part of a cell."""
    world = noise(generator, 120, 200, grain=16)
    a, b = world[:, :96, :120], world[:, 11:115, 22:182]
    matches = link(a, b, random_features(), PropagationConfig(short_side=None), cycle=1.0)
    moved = matches.points_b - matches.points_a
    assert len(moved) > 20
    torch.testing.assert_close(
        moved.median(dim=0)[0], torch.tensor([-22.0, -11.0]), atol=1.5, rtol=0
    )


def test_a_wider_cycle_keeps_more(generator):
    a, b = noise(generator, 64, 80), noise(generator, 64, 80)
    counts = [len(link(a, b, colour_patch(), cycle=c).score) for c in (0, 1.5, 100)]
    assert counts[0] < counts[1] < counts[2] == 80


def test_matches_are_mutual_nearest_neighbours(generator):
    a, b = noise(generator, 64, 80), noise(generator, 72, 56)
    there, back = link(a, b, colour_patch()), link(b, a, colour_patch())

    def cells(first, second):
        return {
            (*(x // 8).int().tolist(), *(y // 8).int().tolist())
            for x, y in zip(first, second, strict=True)
        }

    def starts(points):
        return {tuple((point // 8).int().tolist()) for point in points}

    assert starts(there.points_a) and len(there.score) == len(back.score)
    torch.testing.assert_close(there.score, back.score)
    assert len(cells(there.points_a, there.points_b)) == len(there.score)


def test_points_stay_within_frames_made_larger(generator):
    a, b = noise(generator, 50, 61), noise(generator, 41, 77)
    matches = link(a, b, colour_patch(), PropagationConfig(short_side=90), cycle=50)
    for points, (height, width) in ((matches.points_a, (50, 61)), (matches.points_b, (41, 77))):
        assert (points >= -0.5).all()
        assert (points <= torch.tensor([width, height]) - 0.5).all()


def test_a_mask_is_copied_to_another_picture(generator):
    world = noise(generator, 160, 200)
    labels = torch.zeros(160, 200, dtype=torch.uint8)
    labels[48:96, 64:120] = 1
    labels[80:120, 130:160] = 2
    a, b = world[:, 8:136, 16:176], world[:, 24:144, 40:192]
    found = transfer_mask(a, labels[8:136, 16:176], b, colour_patch(), PropagationConfig(topk=1))
    truth = labels[24:144, 40:192]
    assert found.shape == truth.shape and found.dtype == torch.uint8
    for number in (1, 2):
        assert region_similarity(found == number, truth == number) > 0.85


def test_lines_join_the_two_frames():
    a = torch.full((3, 60, 80), 40, dtype=torch.uint8)
    b = torch.full((3, 40, 50), 90, dtype=torch.uint8)
    matches = Matches(
        torch.tensor([[10.0, 20.0]]), torch.tensor([[30.0, 20.0]]), torch.tensor([1.0])
    )
    drawn = draw_matches(a, b, matches)
    assert drawn.shape == (3, 60, 130) and drawn.dtype == torch.uint8
    assert torch.equal(drawn[:, :10, :80], a[:, :10])
    assert torch.equal(drawn[:, :10, 80:], b[:, :10])
    assert (drawn[:, 50:, 80:] == 0).all()
    assert (
        (drawn[:, 20, 10:110] != torch.cat([a, b[:, :1].expand(-1, 60, -1)], 2)[:, 20, 10:110])
        .any(dim=0)
        .all()
    )
    none = Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
    assert torch.equal(draw_matches(a, b, none)[:, :, :80], a)


def test_what_cannot_be_linked(generator):
    frame = noise(generator, 48, 48)
    with pytest.raises(InputError, match="uint8 frames"):
        link(frame, frame.float(), colour_patch())
    with pytest.raises(InputError, match="cycle"):
        link(frame, frame, colour_patch(), cycle=-1)
    with pytest.raises(InputError, match="mask"):
        transfer_mask(frame, torch.ones(5, 5, dtype=torch.uint8), frame, colour_patch())
