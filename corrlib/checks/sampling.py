"""Exercises of notebook 05: ε over the training, whose labels come next, copies of copies."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake
from corrlib.sampling import ScheduledSampling

# -- the schedule --


def schedule(share: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """ε after each of the shares of the training: ``(N,)`` in 0..1 -> ``(N,)``."""
    return ScheduledSampling(start, end).probability(share)


def _share_cases(generator: torch.Generator) -> list[tuple]:
    return [
        (torch.rand(count, generator=generator), start, end)
        for count, start, end in ((7, 0.9, 0.6), (5, 1.0, 0.25), (6, 0.3, 0.8))
    ]


epsilon_after = Check(
    name="epsilon_after",
    solution=schedule,
    cases=_share_cases,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "start and end are exchanged: a share of 0 gives the start",
            lambda share, start, end: schedule(share, end, start),
        ),
        Mistake(
            "ε goes towards the end, it does not lose all of it: the change over the whole "
            "training is end - start",
            lambda share, start, end: start - end * share,
        ),
        Mistake(
            "the sign of the change is turned round: at a share of 1 the result is the end",
            lambda share, start, end: start - (end - start) * share,
        ),
        Mistake(
            "this falls by equal factors; a linear schedule changes by equal amounts",
            lambda share, start, end: start * (end / start) ** share,
        ),
        Mistake(
            "ε stays at its start: let it follow the share",
            lambda share, start, end: torch.full_like(share, start),
        ),
    ),
)


# -- the choice --


def chosen(
    truth: torch.Tensor, own: torch.Tensor, draws: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Each clip's true labels where its draw lies below ε, else the model's own copies.

    Args:
        truth, own: ``(B, K, h, w)``.
        draws: one number of each clip, uniform in [0, 1), ``(B,)``.
        epsilon: probability of the truth.
    """
    return torch.where(draws.view(-1, 1, 1, 1) < epsilon, truth, own)


def _choice_cases(generator: torch.Generator) -> list[tuple]:
    """Both answers occur in each case, and its first clip has another one in either."""
    cases = []
    for words, height, width, draws, epsilon in (
        (3, 5, 7, (0.95, 0.05, 0.7, 0.35, 0.5), 0.9),
        (4, 6, 2, (0.05, 0.95, 0.7, 0.35, 0.5), 0.6),
    ):
        draws = torch.tensor(draws)
        truth, own = (
            torch.rand(len(draws), words, height, width, generator=generator).softmax(dim=1)
            for _ in range(2)
        )
        cases.append((truth, own, draws, epsilon))
    return cases


def _all_follow_the_first(truth, own, draws, epsilon):
    return truth if draws[0] < epsilon else own


def _mixed(truth, own, draws, epsilon):
    return epsilon * truth + (1 - epsilon) * own


def _by_cell(truth, own, draws, epsilon):
    """A draw for every column of the map in place of one for every clip, as broadcasting does."""
    cells = truth.shape[2] * truth.shape[3]
    repeated = draws.repeat(-(-cells // len(draws)))[:cells]
    return torch.where(repeated.view(1, 1, *truth.shape[2:]) < epsilon, truth, own)


next_labels = Check(
    name="next_labels",
    solution=chosen,
    cases=_choice_cases,
    mistakes=(
        Mistake(
            "ε is the probability of the *true* labels, taken where the draw lies below it; here "
            "it is that of the model's own",
            lambda truth, own, draws, epsilon: chosen(own, truth, draws, epsilon),
        ),
        Mistake(
            "one draw decides for the whole batch; every clip has its own",
            _all_follow_the_first,
        ),
        Mistake(
            "the two are blended; scheduled sampling decides for one of them, as a blend is "
            "something the model never meets when it propagates",
            _mixed,
        ),
        Mistake(
            "the draws are spread over the cells; one decision holds for a whole clip: "
            "draws.view(-1, 1, 1, 1)",
            _by_cell,
        ),
        Mistake(
            "every clip gets its true labels: compare the draws with ε",
            lambda truth, own, draws, epsilon: 1 * truth,
        ),
        Mistake(
            "every clip gets its own copies: compare the draws with ε",
            lambda truth, own, draws, epsilon: 1 * own,
        ),
    ),
)


# -- copies of copies --


def copies_along(
    labels: torch.Tensor, affinities: torch.Tensor, true_next: torch.Tensor
) -> torch.Tensor:
    """Labels copied along a clip, from true ones or from the copies before.

    Args:
        labels: true shares of the words in each frame, ``(T, K, n)``.
        affinities: ``(T - 1, n, n)``; number t copies frame t to frame t + 1, its columns sum
            to 1.
        true_next: ``(T - 2,)`` bool: whether frame 1, 2, ... is copied on from its true labels,
            or else from its copy. Frame 0 is always true.

    Returns:
        Copies at frames 1, 2, ... T - 1: ``(T - 1, K, n)``.
    """
    source, copies = labels[0], []
    for t, affinity in enumerate(affinities):
        copies.append(source @ affinity)
        if t < len(true_next):
            source = labels[t + 1] if true_next[t] else copies[-1]
    return torch.stack(copies)


def _copy_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for words, cells, decisions in ((3, 8, (True, False, False)), (4, 7, (False, True, False))):
        frames = len(decisions) + 2
        labels = torch.randn(frames, words, cells, generator=generator).softmax(dim=1)
        affinities = (2 * torch.randn(frames - 1, cells, cells, generator=generator)).softmax(dim=1)
        cases.append((labels, affinities, torch.tensor(decisions)))
    return cases


def _always(value: bool):
    return lambda labels, affinities, true_next: copies_along(
        labels, affinities, torch.full_like(true_next, value)
    )


def _from_frame_0(labels, affinities, true_next):
    return torch.stack([labels[0] @ affinity for affinity in affinities])


def _transposed(labels, affinities, true_next):
    return copies_along(labels, affinities.transpose(1, 2), true_next)


def _hard(labels, affinities, true_next):
    source, copies = labels[0], []
    for t, affinity in enumerate(affinities):
        copies.append(source @ affinity)
        if t < len(true_next):
            decided = torch.zeros_like(copies[-1]).scatter_(
                0, copies[-1].argmax(dim=0, keepdim=True), 1.0
            )
            source = labels[t + 1] if true_next[t] else decided
    return torch.stack(copies)


def _truth_reported(labels, affinities, true_next):
    copies = copies_along(labels, affinities, true_next)
    for t, true in enumerate(true_next):
        if true:
            copies[t] = labels[t + 1]
    return copies


def _one_behind(labels, affinities, true_next):
    source, copies = labels[0], []
    for t, affinity in enumerate(affinities):
        copies.append(source @ affinity)
        if t < len(true_next):
            source = labels[t] if true_next[t] else copies[-1]
    return torch.stack(copies)


copy_along = Check(
    name="copy_along",
    solution=copies_along,
    cases=_copy_cases,
    mistakes=(
        Mistake(
            "the decisions are turned round: where true_next says True, go on from the true labels",
            lambda labels, affinities, true_next: copies_along(labels, affinities, ~true_next),
        ),
        Mistake(
            "every step copies true labels; where true_next says False it copies the last copy",
            _always(True),
        ),
        Mistake(
            "every step copies the last copy; where true_next says True it starts afresh from the "
            "true labels",
            _always(False),
        ),
        Mistake(
            "every step copies frame 0, although the affinity belongs to the frame before",
            _from_frame_0,
        ),
        Mistake(
            "the affinity is transposed: columns are targets and sum to 1, so values @ affinity",
            _transposed,
        ),
        Mistake(
            "the words were decided by argmax before they were copied on; keep the shares, as an "
            "argmax passes no gradient",
            _hard,
        ),
        Mistake(
            "the true labels are only what is copied *next*; what comes back at that frame is "
            "still its copy, or the loss would compare the truth with itself",
            _truth_reported,
        ),
        Mistake(
            "the true labels are those of the frame before: affinity number t copies from frame t, "
            "so after step t the source is frame t + 1",
            _one_behind,
        ),
    ),
)
