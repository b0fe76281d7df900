"""Checks of the exercises: is it right, and if not, which mistake is it?

A check holds the library's own solution, random cases (non-square, more than one sample) and the
mistakes that are usually made. A wrong answer that computes just what a known mistake computes
gets the hint for that mistake; any other is told what was expected and what came.

    >>> from corrlib.checks.affinity import full_affinity
    >>> full_affinity(my_function)
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

PASSED, FAILED, UNWRITTEN = "passed", "not yet", "not written yet"
_COLOURS = {PASSED: "#00664d", FAILED: "#a03800", UNWRITTEN: "#555555"}
_SIGNS = {PASSED: "✔", FAILED: "✘", UNWRITTEN: "…"}


class Mistake(NamedTuple):
    """A wrong answer that many give, and what to tell them."""

    hint: str
    function: Callable


@dataclass(frozen=True)
class Verdict:
    """What a check found; a notebook shows it as a coloured line."""

    status: str
    message: str

    @property
    def passed(self) -> bool:
        return self.status == PASSED

    def __repr__(self) -> str:
        return f"{_SIGNS[self.status]} {self.status}: {self.message}"

    def _repr_html_(self) -> str:
        style = f"border-left:4px solid {_COLOURS[self.status]};padding:4px 10px"
        return f'<div style="{style}"><b>{html.escape(repr(self))}</b></div>'


@dataclass(frozen=True)
class Check:
    """Compares a student's function with the library's.

    Attributes:
        name: of the exercise.
        solution: the right function.
        cases: makes lists of arguments from a generator; tensors are cloned for each call.
        mistakes: in the order in which they are recognised.
        tolerance: largest absolute difference that passes.
    """

    name: str
    solution: Callable
    cases: Callable[[torch.Generator], Sequence[tuple]]
    mistakes: tuple[Mistake, ...]
    tolerance: float = 1e-4

    def __call__(self, student: Callable) -> Verdict:
        cases = self.cases(torch.Generator().manual_seed(0))
        for arguments in cases:
            expected = self.solution(*_copies(arguments))
            given = _copies(arguments)
            try:
                answer = student(*given)
            except NotImplementedError:
                return Verdict(UNWRITTEN, f"{self.name} is waiting for you")
            except Exception as error:  # the student's code may raise anything
                return Verdict(
                    FAILED,
                    f"{type(error).__name__} for {_shapes(student, arguments)}: "
                    f"{(str(error).splitlines() or [''])[0]}",
                )
            if answer is None:
                return Verdict(UNWRITTEN, f"{self.name} returns nothing yet")
            problem = self._compare(answer, expected)
            if problem is None and not _same(given, arguments):
                problem = "the result is right, but the inputs were changed in place"
                return Verdict(FAILED, problem)
            if problem is not None:
                hint = self._hint(student, cases)
                return Verdict(FAILED, hint or f"for {_shapes(student, arguments)}: {problem}")
        return Verdict(PASSED, f"{self.name} agrees with corrlib on {len(cases)} random cases")

    def _compare(self, answer: object, expected: torch.Tensor) -> str | None:
        """What is wrong with an answer, or ``None``."""
        if not isinstance(answer, torch.Tensor):
            return f"expected a tensor, got {type(answer).__name__}"
        if answer.shape != expected.shape:
            return f"expected shape {tuple(expected.shape)}, got {tuple(answer.shape)}"
        answer, expected = answer.detach().double(), expected.detach().double()
        if (answer.isnan() & ~expected.isnan()).any():
            return f"{int(answer.isnan().sum())} of {answer.numel()} values are NaN"
        # A known mistake may give NaN or infinity; an answer that does so in its places is like it.
        alike = (answer == expected) | (answer.isnan() & expected.isnan())
        difference = (answer - expected).abs().masked_fill(alike, 0.0)
        if difference.max() <= self.tolerance:
            return None
        if not difference.dim():
            return f"expected {expected:.4g}, got {answer:.4g}"
        place = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        return (
            f"expected {expected[place]:.4g} at {place}, got {answer[place]:.4g} "
            f"({int((difference > self.tolerance).sum())} of {answer.numel()} values differ)"
        )

    def _hint(self, student: Callable, cases: Sequence[tuple]) -> str | None:
        """The hint of the first mistake that gives the student's answer in every case."""
        for mistake in self.mistakes:
            try:
                if all(
                    self._compare(student(*_copies(case)), mistake.function(*_copies(case))) is None
                    for case in cases
                ):
                    return mistake.hint
            except Exception:  # a mistake may not be defined where the answer is, and vice versa
                continue
        return None


def _copies(arguments: tuple) -> tuple:
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in arguments)


def _same(left: tuple, right: tuple) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else True
        for a, b in zip(left, right, strict=True)
    )


def _shapes(student: Callable, arguments: tuple) -> str:
    """What the function was called with, under the names that it has for its arguments."""
    try:
        names = list(inspect.signature(student).bind(*arguments).arguments)
    except (TypeError, ValueError):  # it takes another number of arguments, or hides them
        names = []
    if len(names) != len(arguments):
        names = ["a tensor" if isinstance(a, torch.Tensor) else "a value" for a in arguments]
    return ", ".join(
        f"{name} {tuple(a.shape)}" if isinstance(a, torch.Tensor) else f"{name} {a!r}"
        for name, a in zip(names, arguments, strict=True)
    )
