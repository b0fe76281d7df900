"""The exercises of lesson 10, answered as a student might."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from corrlib.checks import FAILED
from corrlib.checks import training as checks
from corrlib.frames import FrameCache
from corrlib.recipes import PROFILES
from corrlib.synthetic import synthetic_clip
from corrlib.training import Trainer
from corrlib.video import VideoWriter


def test_other_right_answers_pass():
    def rate_by_loops(step, batch, rate, halve_at):
        rates = []
        for number in step.tolist():
            value = rate
            for at in halve_at:
                if number * batch >= at:
                    value /= 2
            rates.append(value)
        return torch.tensor(rates)

    def cost_by_steps(seconds, batch, gflops, peak, clips):
        steps = clips / batch
        return torch.stack([steps * seconds / 3600, batch * gflops / seconds / peak]).T

    def run_by_torch(weights, velocity, step, gradients, total, rate, momentum):
        parameter = torch.nn.Parameter(weights.clone())
        optimiser = torch.optim.SGD([parameter], lr=rate, momentum=momentum)
        optimiser.state[parameter]["momentum_buffer"] = velocity.clone()
        for number, gradient in enumerate(gradients, start=step):
            optimiser.param_groups[0]["lr"] = rate * (1 - number / total)
            parameter.grad = gradient.clone()
            optimiser.step()
        return parameter.detach()

    assert checks.learning_rate_at(rate_by_loops).passed
    assert checks.cost(cost_by_steps).passed
    assert checks.rest_of_run(run_by_torch).passed


def test_an_object_that_counts_its_calls_is_told_so():
    class Counting:
        def __init__(self):
            self.calls = 0

        def __call__(self, step, batch, rate, halve_at):
            rates = []
            self.calls = 0
            for _ in step:
                rates.append(rate * 0.5 ** sum(self.calls * batch >= at for at in halve_at))
                self.calls += 1
            return torch.tensor(rates)

    verdict = checks.learning_rate_at(Counting())
    assert verdict.status == FAILED
    assert "resumed" in verdict.message


@pytest.mark.parametrize(
    ("compare", "power", "hint"),
    [
        (torch.gt, True, ">="),
        (torch.ge, False, "power"),
    ],
)
def test_wrong_rates_get_their_hint(compare, power, hint):
    def student(step, batch, rate, halve_at):
        marks = compare((step * batch).unsqueeze(1), torch.tensor(halve_at)).sum(dim=1)
        return rate / 2.0**marks if power else rate / (marks + 1.0)

    verdict = checks.learning_rate_at(student)
    assert verdict.status == FAILED
    assert hint in verdict.message


@pytest.mark.parametrize(
    ("hours", "share", "hint"),
    [
        (lambda s, b, c: c * s / 3600, lambda s, b, g, p: b * g / s / p, "clips / batch"),
        (lambda s, b, c: c * s / b / 3600, lambda s, b, g, p: g / s / p, "gflops"),
        (lambda s, b, c: c * s / b / 60, lambda s, b, g, p: b * g / s / p, "minutes"),
        (lambda s, b, c: c * s / b / 3600, lambda s, b, g, p: p * s / b / g, "turned round"),
        (lambda s, b, c: c * s / b / 3600, lambda s, b, g, p: 100 * b * g / s / p, "percent"),
    ],
)
def test_wrong_costs_get_their_hint(hours, share, hint):
    def student(seconds, batch, gflops, peak, clips):
        columns = hours(seconds, batch, clips), share(seconds, batch, gflops, peak)
        return torch.stack(columns, dim=1)

    verdict = checks.cost(student)
    assert verdict.status == FAILED
    assert hint in verdict.message


@pytest.mark.parametrize(
    ("keep_velocity", "keep_step", "hint"),
    [
        (False, True, "optimiser's state"),
        (True, False, "start of its schedule"),
        (False, False, "a new run"),
    ],
)
def test_what_a_resumed_run_forgot_is_named(keep_velocity, keep_step, hint):
    def student(weights, velocity, step, gradients, total, rate, momentum):
        v = velocity if keep_velocity else torch.zeros_like(velocity)
        n = step if keep_step else 0
        w = weights.clone()
        for i in range(len(gradients)):
            v = momentum * v + gradients[i]
            w = w - rate * (1 - (n + i) / total) * v
        return w

    verdict = checks.rest_of_run(student)
    assert verdict.status == FAILED
    assert hint in verdict.message


def test_the_solution_in_two_parts_is_the_solution_in_one(generator):
    """A checkpoint in the middle changes nothing."""
    gradients = torch.randn(7, 4, generator=generator)
    weights, velocity = torch.zeros(4), torch.zeros(4)
    whole = checks.continued(weights, velocity, 0, gradients, 7, 0.3, 0.9)
    for step, gradient in enumerate(gradients[:3]):
        velocity = 0.9 * velocity + gradient
        weights = weights - 0.3 * (1 - step / 7) * velocity
    parts = checks.continued(weights, velocity, 3, gradients[3:], 7, 0.3, 0.9)
    torch.testing.assert_close(parts, whole)


def test_the_learning_rate_is_the_one_that_training_uses(tmp_path):
    clip = synthetic_clip(frames=4, height=72, width=96, seed=0)
    with VideoWriter(tmp_path / "clip.mp4", 12) as writer:
        for frame in clip.frames:
            writer.write(frame)
    cache = FrameCache.build([tmp_path / "clip.mp4"], tmp_path / "cache", 64, progress=False)
    config = replace(PROFILES["fast"], halve_at=(2, 4, 6))
    trainer = Trainer(config, cache, tmp_path / "run", device="cpu", precision="fp32")
    trainer.LOG_EVERY = 1
    trainer.run(progress=False)
    used = [record.learning_rate for record in trainer.progress.history]
    expected = checks.halved(torch.arange(4), config.batch, config.learning_rate, config.halve_at)
    assert used == pytest.approx(expected.tolist())
