"""Exercises of notebook 10: the learning rate of any step, the cost of a schedule, checkpoints."""

from __future__ import annotations

import torch

from corrlib.checks import Check, Mistake

# -- the learning rate --


def halved(step: torch.Tensor, batch: int, rate: float, halve_at: tuple[int, ...]) -> torch.Tensor:
    """The learning rate of steps, from their numbers alone.

    Args:
        step: steps done before, ``(N,)`` integers in any order.
        batch: clips a step.
        rate: at the start.
        halve_at: numbers of clips, once seen, after each of which the rate is half of what it was.

    Returns:
        ``(N,)``.
    """
    return rate * 0.5 ** _passed(step * batch, halve_at)


def _passed(seen: torch.Tensor, halve_at: tuple[int, ...]) -> torch.Tensor:
    """How many of the marks have been reached: ``(N,)`` -> ``(N,)``."""
    return (seen[:, None] >= torch.tensor(halve_at)).sum(dim=1)


def _rate_cases(generator: torch.Generator) -> list[tuple]:
    """Steps on each side of every mark, on the marks themselves, and in between, mixed."""
    cases = []
    for batch, rate, halve_at in ((6, 2e-4, (600, 900, 1200, 1500)), (4, 1e-3, (400, 2000))):
        marks = torch.tensor(halve_at) // batch
        between = torch.randint(0, int(marks[-1]) + 50, (5,), generator=generator)
        steps = torch.cat([marks - 1, marks, marks + 1, between, torch.tensor([0])])
        order = torch.randperm(len(steps), generator=generator)
        cases.append((steps[order], batch, rate, halve_at))
    return cases


def _by_calls(step, batch, rate, halve_at):
    """A rate that is halved on the way, as an object that counts does."""
    rates = []
    for number in range(len(step)):
        rates.append(rate * 0.5 ** sum(number * batch >= at for at in halve_at))
    return torch.tensor(rates)


def _lowered_in_a_loop(step, batch, rate, halve_at):
    """Goes through the steps in the order given and never raises the rate again."""
    return halved(step.cummax(dim=0)[0], batch, rate, halve_at)


learning_rate_at = Check(
    name="learning_rate_at",
    solution=halved,
    cases=_rate_cases,
    tolerance=1e-8,
    mistakes=(
        Mistake(
            "halve_at counts clips, and a step is `batch` of them",
            lambda step, batch, rate, halve_at: halved(step, 1, rate, halve_at),
        ),
        Mistake(
            "the rate is lowered by the order of the calls; a resumed run asks for step 400 first: "
            "compute it from the number of the step",
            _by_calls,
        ),
        Mistake(
            "the rate is lowered on the way through the steps and not raised again, so it depends "
            "on which steps were asked for before; compute each from its own number",
            _lowered_in_a_loop,
        ),
        Mistake(
            "it is halved as soon as that many clips have been seen, not one step later: >=",
            lambda step, batch, rate, halve_at: halved(
                (step - 1).clamp(min=0), batch, rate, halve_at
            ),
        ),
        Mistake(
            "it is halved once and then stays; every mark halves it again",
            lambda step, batch, rate, halve_at: halved(step, batch, rate, halve_at[:1]),
        ),
        Mistake(
            "after k marks the rate is divided by 2 to the power of k, not by k + 1",
            lambda step, batch, rate, halve_at: rate / (1 + _passed(step * batch, halve_at)),
        ),
    ),
)


# -- what a schedule costs --


def hours_and_share(
    seconds: torch.Tensor,
    batch: torch.Tensor,
    gflops: float,
    peak: float,
    clips: int,
) -> torch.Tensor:
    """How long a schedule takes, and how well a device is used.

    Args:
        seconds: of one step, of N devices or settings, ``(N,)``.
        batch: clips a step, ``(N,)``.
        gflops: multiplications and additions that one clip takes, in 10⁹.
        peak: speed of the device's large matrix product, in 10⁹ of them a second.
        clips: length of the schedule.

    Returns:
        Hours for the schedule, and the achieved share of the peak (0 to 1): ``(N, 2)``.
    """
    clips_per_second = batch / seconds
    return torch.stack([clips / clips_per_second / 3600, clips_per_second * gflops / peak], dim=1)


def _cost_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for count, gflops, peak, clips in ((3, 40.0, 900.0, 100_000), (4, 7.5, 250.0, 30_000)):
        seconds = 0.5 + torch.rand(count, generator=generator)
        batch = torch.randint(3, 9, (count,), generator=generator)
        cases.append((seconds, batch, gflops, peak, clips))
    return cases


def _with(hours=None, share=None):
    """The right answer but for one of its columns."""

    def mistaken(*arguments):
        right = hours_and_share(*arguments).unbind(dim=1)
        return torch.stack(
            [
                right[0] if hours is None else hours(*arguments),
                right[1] if share is None else share(*arguments),
            ],
            dim=1,
        )

    return mistaken


def _shares(*arguments):
    return hours_and_share(*arguments)[:, 1]


cost = Check(
    name="cost",
    solution=hours_and_share,
    cases=_cost_cases,
    tolerance=1e-3,
    mistakes=(
        Mistake(
            "the schedule is counted in clips; a step does `batch` of them",
            lambda seconds, batch, *rest: hours_and_share(seconds, torch.ones_like(batch), *rest),
        ),
        Mistake(
            "the hours count a step for every clip: a schedule of `clips` has clips / batch steps",
            _with(hours=lambda seconds, batch, gflops, peak, clips: clips * seconds / 3600),
        ),
        Mistake(
            "gflops are those of one clip; a step computes batch times as many",
            _with(share=lambda seconds, batch, gflops, peak, clips: gflops / seconds / peak),
        ),
        Mistake(
            "the first column is in minutes; an hour has 3600 seconds",
            _with(hours=lambda seconds, batch, gflops, peak, clips: clips / (batch / seconds) / 60),
        ),
        Mistake(
            "the share is turned round: what was achieved, over what the device can do",
            _with(share=lambda *arguments: 1 / _shares(*arguments)),
        ),
        Mistake(
            "the share is in percent; it is a fraction, 0 to 1",
            _with(share=lambda *arguments: 100 * _shares(*arguments)),
        ),
    ),
)


# -- what a checkpoint has to hold --


def continued(
    weights: torch.Tensor,
    velocity: torch.Tensor,
    step: int,
    gradients: torch.Tensor,
    total: int,
    rate: float,
    momentum: float,
) -> torch.Tensor:
    """The rest of a run of gradient descent with momentum, from its checkpoint.

    The learning rate of step n (of ``total``, the first is 0) is ``rate · (1 - n / total)``.

    Args:
        weights: ``(D,)``, after ``step`` steps.
        velocity: the optimiser's running sum, ``(D,)``.
        step: steps done.
        gradients: of the steps that are left, ``(R, D)``.

    Returns:
        The weights at the end, ``(D,)``.
    """
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        weights = weights - rate * (1 - step / total) * velocity
        step += 1
    return weights


def _run_cases(generator: torch.Generator) -> list[tuple]:
    cases = []
    for size, done, left, rate, momentum in ((5, 6, 4, 0.5, 0.9), (3, 2, 6, 0.2, 0.8)):
        weights, velocity = (torch.randn(size, generator=generator) for _ in range(2))
        gradients = torch.randn(left, size, generator=generator)
        cases.append((weights, velocity, done, gradients, done + left, rate, momentum))
    return cases


def _rate_stands_still(weights, velocity, step, gradients, total, rate, momentum):
    return continued(weights, velocity, 0, gradients, 10**9, rate * (1 - step / total), momentum)


def _one_step_late(weights, velocity, step, gradients, total, rate, momentum):
    return continued(weights, velocity, step + 1, gradients, total, rate, momentum)


def _velocity_used_before(weights, velocity, step, gradients, total, rate, momentum):
    for gradient in gradients:
        weights = weights - rate * (1 - step / total) * velocity
        velocity = momentum * velocity + gradient
        step += 1
    return weights


def _no_momentum(weights, velocity, step, gradients, total, rate, momentum):
    return continued(weights, 0 * velocity, step, gradients, total, rate, 0.0)


rest_of_run = Check(
    name="rest_of_run",
    solution=continued,
    cases=_run_cases,
    mistakes=(
        Mistake(
            "the velocity starts at zero again: the optimiser's state belongs to the checkpoint, "
            "and it is there, so begin with it",
            lambda weights, velocity, *rest: continued(weights, 0 * velocity, *rest),
        ),
        Mistake(
            "the learning rate begins again at the start of its schedule: go on from `step`",
            lambda weights, velocity, step, *rest: continued(weights, velocity, 0, *rest),
        ),
        Mistake(
            "velocity and schedule both begin again: these are good weights and a new run",
            lambda weights, velocity, step, *rest: continued(weights, 0 * velocity, 0, *rest),
        ),
        Mistake(
            "the learning rate stays what it was at the checkpoint; every step has its own",
            _rate_stands_still,
        ),
        Mistake(
            "the rate is that of the step after: `step` steps are done, so the next has the "
            "number `step`, the first being 0",
            _one_step_late,
        ),
        Mistake(
            "the velocity takes in the gradient first; the step is made with the new velocity",
            _velocity_used_before,
        ),
        Mistake(
            "there is no momentum: the velocity is momentum * velocity + gradient",
            _no_momentum,
        ),
    ),
)
