"""The checks of the exercises: they pass what is right, and know what is wrong."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import nbformat
import pytest
import torch

import corrlib.checks
from corrlib.checks import FAILED, PASSED, UNWRITTEN, Check, Mistake

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


def all_checks() -> dict[str, Check]:
    found = {}
    for info in pkgutil.iter_modules(corrlib.checks.__path__):
        module = importlib.import_module(f"corrlib.checks.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, Check):
                found[f"{info.name}.{name}"] = value
    return found


CHECKS = all_checks()
MISTAKES = {
    f"{name}-{index}": (check, mistake)
    for name, check in CHECKS.items()
    for index, mistake in enumerate(check.mistakes)
}

every_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


def test_the_first_lessons_have_checks():
    assert len(CHECKS) >= 2


@every_check
def test_the_solution_passes(check):
    verdict = check(check.solution)
    assert verdict.passed and verdict.status == PASSED, verdict


@every_check
def test_cases_are_several_and_not_square(check):
    cases = check.cases(torch.Generator().manual_seed(0))
    assert len(cases) >= 2
    for case in cases:
        maps = [a for a in case if isinstance(a, torch.Tensor) and a.dim() >= 2]
        assert not maps or any(a.shape[-1] != a.shape[-2] for a in maps)


@every_check
def test_cases_are_the_same_every_time(check):
    first, second = (check.cases(torch.Generator().manual_seed(0)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else True


@every_check
def test_a_stub_is_not_written_yet(check):
    def stub(*_):
        raise NotImplementedError

    assert check(stub).status == UNWRITTEN
    assert check(lambda *_: None).status == UNWRITTEN


@pytest.mark.parametrize(("check", "mistake"), MISTAKES.values(), ids=MISTAKES)
def test_a_planted_mistake_gets_its_own_hint(check, mistake):
    verdict = check(mistake.function)
    assert verdict.status == FAILED
    assert verdict.message == mistake.hint


@every_check
def test_mistakes_are_two_or_more_with_hints_of_their_own(check):
    hints = [mistake.hint for mistake in check.mistakes]
    assert len(hints) >= 2
    assert len(set(hints)) == len(hints)


@every_check
def test_a_change_of_the_inputs_is_caught(check):
    def student(*arguments):
        answer = check.solution(*[_clone(a) for a in arguments])
        for tensor in arguments:
            if isinstance(tensor, torch.Tensor):
                tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
        return answer

    verdict = check(student)
    assert verdict.status == FAILED
    assert "in place" in verdict.message


@every_check
def test_a_wrong_shape_is_reported(check):
    verdict = check(lambda *arguments: check.solution(*arguments).unsqueeze(0))
    assert verdict.status == FAILED
    assert "shape" in verdict.message


@every_check
def test_an_exception_is_reported(check):
    def student(*_):
        raise ValueError("oh no\nand more")

    verdict = check(student)
    assert verdict.status == FAILED
    assert "ValueError" in verdict.message and "oh no" in verdict.message
    assert "\n" not in verdict.message


@every_check
def test_a_wrong_number_of_arguments_is_reported(check):
    verdict = check(lambda: None)
    assert verdict.status == FAILED
    assert "TypeError" in verdict.message


@every_check
def test_no_tensor_is_reported(check):
    verdict = check(lambda *arguments: check.solution(*arguments).tolist())
    assert verdict.status == FAILED
    assert "expected a tensor" in verdict.message


@every_check
def test_nan_is_reported(check):
    verdict = check(lambda *arguments: check.solution(*arguments) * torch.nan)
    assert verdict.status == FAILED
    assert "NaN" in verdict.message


@every_check
def test_an_unknown_mistake_is_told_what_was_expected(check):
    verdict = check(lambda *arguments: check.solution(*arguments) * 0 + 77.5)
    assert verdict.status == FAILED
    assert "expected" in verdict.message and "77.5" in verdict.message


def test_a_verdict_is_shown_as_text_and_as_html():
    check = Check(
        name="double",
        solution=lambda x: 2 * x,
        cases=lambda g: [(torch.rand(2, 3, generator=g),)],
        mistakes=(Mistake("once <b>only</b>", lambda x: 1 * x),),
    )
    verdict = check(lambda x: x)
    assert repr(verdict) == "✘ not yet: once <b>only</b>"
    assert "once &lt;b&gt;only&lt;/b&gt;" in verdict._repr_html_()
    assert "✔" in repr(check(lambda x: x + x))


def ratio_check(*mistakes: Mistake) -> Check:
    """Of a function that gives 0 where others divide 0 by 0."""

    def cases(generator):
        below = torch.rand(3, generator=generator) + 1
        return [(torch.rand(3, generator=generator), below), (torch.zeros(3), torch.zeros(3))]

    return Check("ratio", lambda above, below: above / below.clamp(min=1e-8), cases, mistakes)


def test_a_mistake_may_be_nan_or_infinite():
    naive = Mistake("0 / 0 is NaN", lambda above, below: above / below)
    other = Mistake("turned round", lambda above, below: (below + 1) / above)
    check = ratio_check(naive, other)
    assert check(lambda above, below: above / below).message == naive.hint
    assert check(lambda above, below: (below + 1) / above).message == other.hint
    # NaN elsewhere, or infinity where the mistake has a number, is not that mistake.
    assert "NaN" in check(lambda above, below: 0 * above / 0).message
    assert "inf" in check(lambda above, below: (above + 1) / 0).message


def test_arguments_are_called_by_the_students_names():
    check = ratio_check()
    assert "for above (3,), below (3,): " in check(lambda above, below: above + 7).message
    assert "for a tensor (3,), a tensor (3,): " in check(lambda *both: both[0] + 7).message
    single = Check("sum", lambda x, k: (x * k).sum(), lambda g: [(torch.ones(2, 3), 0.5)], ())
    assert single(lambda x, k: x.sum()).message == "for x (2, 3), k 0.5: expected 3, got 6"


def _clone(argument):
    return argument.clone() if isinstance(argument, torch.Tensor) else argument


# -- the exercises in the notebooks ----------------------------------------------------------------


def _code_cells(path: Path) -> list:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def exercises() -> dict[str, tuple[Path, int]]:
    """Every solution cell: notebook, and its place among the code cells."""
    found = {}
    for path in NOTEBOOKS:
        cells = _code_cells(path)
        for index, cell in enumerate(cells):
            if "check" in cell.metadata:
                found[f"{path.stem}-{cell.metadata['check']}"] = (path, index)
    return found


EXERCISES = exercises()


def _namespace(path: Path) -> dict:
    """What the notebook's import statements define, in whatever cell they stand."""
    namespace: dict = {"__name__": "__main__"}
    for cell in _code_cells(path)[1:]:  # the first one is the bootstrap
        for statement in ast.parse(cell.source).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                code = compile(ast.Module([statement], []), str(path), "exec")
                exec(code, namespace)
    return namespace


def _functions(source: str) -> list[str]:
    return [s.name for s in ast.parse(source).body if isinstance(s, ast.FunctionDef)]


@pytest.mark.parametrize(("path", "index"), EXERCISES.values(), ids=EXERCISES)
def test_a_notebooks_solution_passes_and_its_stub_waits(path, index):
    cells = _code_cells(path)
    solution, test, stub = cells[index], cells[index - 1], cells[index - 2]
    reference = solution.metadata["check"]
    assert reference in CHECKS
    check = CHECKS[reference]

    solved = [name for name in _functions(solution.source) if name.startswith("solution_")]
    assert len(solved) == 1, "a solution cell defines one function solution_<name>"
    name = solved[0].removeprefix("solution_")
    assert _functions(stub.source) == [name]
    assert name in test.source
    assert solved[0] in solution.source.strip().splitlines()[-1]

    namespace = _namespace(path)
    exec(compile(solution.source, str(path), "exec"), namespace)
    verdict = check(namespace[solved[0]])
    assert verdict.passed, verdict

    exec(compile(stub.source, str(path), "exec"), namespace)
    assert check(namespace[name]).status == UNWRITTEN
    assert inspect.getdoc(namespace[name]), "the stub's docstring says what goes in and out"
    asked, given = (inspect.signature(namespace[n]) for n in (name, solved[0]))
    assert list(asked.parameters) == list(given.parameters)

    shown = eval(test.source.strip().splitlines()[-1], namespace)
    assert isinstance(shown, corrlib.checks.Verdict) and shown.status == UNWRITTEN


@pytest.mark.parametrize(("path", "index"), EXERCISES.values(), ids=EXERCISES)
def test_a_notebooks_check_cell_knows_right_from_wrong(path, index):
    """The cell as it stands, with the stub's name given to the solution and to every mistake."""
    cells = _code_cells(path)
    check = CHECKS[cells[index].metadata["check"]]
    assert len(check.mistakes) >= 2
    (name,) = _functions(cells[index - 2].source)
    namespace = _namespace(path)

    def verdict(function):
        namespace[name] = function
        return eval(cells[index - 1].source.strip().splitlines()[-1], namespace)

    assert verdict(check.solution).status == PASSED
    for mistake in check.mistakes:
        wrong = verdict(mistake.function)
        assert (wrong.status, wrong.message) == (FAILED, mistake.hint)


def test_every_check_belongs_to_one_exercise():
    used = [_code_cells(path)[index].metadata["check"] for path, index in EXERCISES.values()]
    assert sorted(used) == sorted(CHECKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_checks_run_in_the_notebook_that_says_so(path):
    """The check cell and the solution cell name the check that the metadata names."""
    cells = _code_cells(path)
    namespace = _namespace(path)
    for index, cell in enumerate(cells):
        if "check" not in cell.metadata:
            continue
        for source in (cells[index - 1].source, cell.source):
            call = ast.parse(source.strip().splitlines()[-1], mode="eval").body
            assert isinstance(call, ast.Call)
            called = eval(compile(ast.Expression(call.func), str(path), "eval"), namespace)
            assert called is CHECKS[cell.metadata["check"]]
