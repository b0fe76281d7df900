"""The files that describe the project agree with each other, and its commands fail readably."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import corrlib

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {
    "torch": "pytorch",
    "opencv-python-headless": "py-opencv",
    "playwright": "playwright-python",
}
PYTHONS = ("3.10.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0")  # 3.11.2 is Debian 12's


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PYPROJECT = tomllib.loads(read("pyproject.toml"))
ENVIRONMENT = yaml.safe_load(read("environment.yml"))


def direct() -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in [*project["dependencies"], *sum(extras, [])]]


def pins(python: str) -> dict[str, str]:
    """Package: version, as constraints.txt has them for that Python."""
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
    }
    found: dict[str, str] = {}
    for line in read("constraints.txt").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"not a pin: {line}"
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"two pins of {pin.name} for Python {python}"
            found[pin.name] = specifier.version
    return found


def test_pyproject_has_lower_bounds_only():
    assert PYPROJECT["project"]["requires-python"] == ">=3.10"
    for requirement in direct():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == [">="], f"{requirement} should have one lower bound and no other"


def test_no_package_is_named_twice():
    names = [requirement.name for requirement in direct()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_tested_version_above_its_lower_bound(python):
    tested = pins(python)
    for requirement in direct():
        assert requirement.name in tested, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(tested[requirement.name]), requirement


def test_the_tested_pair():
    tested = pins("3.11.2")
    assert (tested["torch"], tested["torchvision"]) == ("2.15.0", "0.29.2")


def test_constraints_leave_gpu_packages_to_torch():
    names = pins("3.10.0").keys() | pins("3.11.2").keys()
    assert not [name for name in names if re.match(r"nvidia|cuda|triton", name)]


def test_conda_environment_has_the_same_dependencies_and_bounds():
    *named, pip = ENVIRONMENT["dependencies"]
    assert pip["pip"][-1] == "-e ."  # before it, what conda-forge does not have
    requirements = [Requirement(line) for line in [*named, *pip["pip"][:-1]]]
    conda = {requirement.name: requirement.specifier for requirement in requirements}
    assert conda.pop("python") == SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert "pip" in conda and not conda.pop("pip")
    assert conda == {CONDA_NAMES.get(r.name, r.name): r.specifier for r in direct()}
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def test_the_command_is_the_package_s_own():
    assert PYPROJECT["project"]["scripts"] == {"corrlib": "corrlib.cli:main"}
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"] == {"include": ["corrlib*"]}
    for folder in {path.parent for path in (ROOT / "corrlib").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder.name} would not be installed"


def test_citation():
    citation = yaml.safe_load(read("CITATION.cff"))
    for key in ("cff-version", "message", "title", "type", "authors", "license"):
        assert citation[key], key
    assert str(citation["version"]) == corrlib.__version__
    assert citation["license"] == PYPROJECT["project"]["license"] == "MIT"


def test_licences_are_there():
    assert read("LICENSE").startswith("MIT License")
    assert "CC BY 4.0" in read("LICENSE-lessons.md")
    for name in PYPROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file()


def test_a_bug_report_asks_for_the_doctor():
    assert "corrlib doctor" in read(".github/ISSUE_TEMPLATE/bug_report.md")


def test_continuous_integration_runs_the_test_command():
    lines = read(".ci/run").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"


def test_make_runs_the_tests_and_all_notebooks_at_once():
    makefile = read("Makefile")
    assert "CORRLIB_PROFILE=fast OMP_NUM_THREADS=1" in makefile
    command = makefile[makefile.index("-m pytest") :].split("\n\n")[0]
    for part in (
        "--dist loadfile",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout",
        " tests notebooks",
    ):
        assert part in command


def test_no_file_names_a_home_folder():
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" in content:
            continue
        found = re.search(rb"/(?:home|root|Users)/\w[^\s\"']*", content)
        assert not found, f"{name} names {found.group().decode(errors='replace')}"


def test_the_code_is_lint_free():
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


# A Python that only notes what it is asked to do: the set-up itself is tested in an instant.
STAND_IN = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
    "--version") echo "Python 3.9.1" ;;
    *version_info*) exit {old} ;;
    *ensurepip*) exit {no_venv} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install"*) [ ! -e "{fail}" ] ;;
esac
"""


class Checkout:
    """The files that ``make setup`` reads, in a folder of their own, and a stand-in for Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.python = folder.parent / "python stand-in"
        self.log = folder.parent / "log"
        self.fail = folder.parent / "fail"
        self.stand_in()

    def stand_in(self, old: int = 0, no_venv: int = 0) -> None:
        text = STAND_IN.format(log=self.log, fail=self.fail, old=old, no_venv=no_venv)
        self.python.write_text(text)
        self.python.chmod(0o755)

    def make(self, *arguments: str, python: str | None = None) -> subprocess.CompletedProcess:
        self.log.write_text("")
        # Not what a make that runs these tests tells the ones under it.
        told = ("MAKE", "MFLAGS", "JOBS", "PYTHON")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(told)}
        command = ["make", *arguments, f"PYTHON={python or self.python}"]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if os.name == "nt" or not shutil.which("make"):
        pytest.skip("make is absent")
    return Checkout(tmp_path / "a folder with spaces")


INSTALL = "-m pip install --disable-pip-version-check -c constraints.txt -e .[dev]"


def test_setup_installs_once(checkout):
    run = checkout.make("setup")
    assert run.returncode == 0, run.stderr
    assert INSTALL in checkout.asked()
    assert checkout.make("setup").returncode == 0
    assert checkout.asked() == []


def test_setup_runs_again_when_the_dependencies_change(checkout):
    checkout.make("setup")
    later = (checkout.folder / ".venv" / ".set-up").stat().st_mtime + 10
    os.utime(checkout.folder / "constraints.txt", (later, later))
    checkout.make("setup")
    assert INSTALL in checkout.asked()
    assert not [line for line in checkout.asked() if line.startswith("-m venv")]


def test_setup_runs_again_when_the_folder_has_moved(checkout, tmp_path):
    checkout.make("setup")
    checkout.folder = checkout.folder.rename(tmp_path / "moved")
    checkout.make("setup")
    assert INSTALL in checkout.asked()


def test_setup_runs_again_when_its_python_is_gone(checkout):
    checkout.make("setup")
    (checkout.folder / ".venv" / "bin" / "python").unlink()
    checkout.make("setup")
    assert "-m venv .venv" in checkout.asked()
    assert INSTALL in checkout.asked()


def test_a_failed_setup_is_not_taken_for_a_good_one(checkout):
    checkout.fail.touch()
    assert checkout.make("test").returncode != 0
    assert not [line for line in checkout.asked() if "pytest" in line]
    checkout.fail.unlink()
    assert checkout.make("test").returncode == 0
    assert INSTALL in checkout.asked()
    assert "-m pytest -n 2 --dist loadfile" in checkout.asked()[-1]


def test_an_update_that_fails_spoils_the_stamp(checkout):
    checkout.make("setup")
    checkout.fail.touch()
    later = (checkout.folder / ".venv" / ".set-up").stat().st_mtime + 10
    os.utime(checkout.folder / "pyproject.toml", (later, later))
    assert checkout.make("setup").returncode != 0
    checkout.fail.unlink()
    os.utime(checkout.folder / "pyproject.toml", (0, 0))
    checkout.make("setup")
    assert INSTALL in checkout.asked()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"old": 1}, "Python 3.10 or newer is needed, but '{}' is Python 3.9.1"),
        ({"no_venv": 1}, "sudo apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_told_in_one_line(checkout, options, message):
    checkout.stand_in(**options)
    run = checkout.make("tour")
    assert run.returncode != 0
    told = [line for line in run.stderr.splitlines() if not line.startswith("make")]
    assert len(told) == 1 and message.format(checkout.python) in told[0]
    assert not (checkout.folder / ".venv").exists()


def test_a_missing_python_is_told_in_one_line(checkout):
    run = checkout.make("setup", python="no-such-python")
    assert run.returncode != 0
    assert "there is no 'no-such-python' here" in run.stderr


def test_make_alone_lists_the_targets_and_sets_nothing_up(checkout):
    run = checkout.make()
    assert run.returncode == 0
    for target in (
        *("help", "setup", "tour", "test", "lab", "handout", "slides", "site", "colab"),
        *("timing", "lint", "clean"),
    ):
        assert re.search(rf"^  make {target}\s+\w", run.stdout, re.MULTILINE), target
    assert checkout.asked() == []


def test_a_fork_is_one_word_whatever_it_is_called(checkout):
    checkout.make("setup")
    assert checkout.make("colab", "REPO=a/b'; touch \"x").returncode == 0
    assert checkout.asked()[-1] == "-m corrlib course colab a/b'; touch \"x"
    assert checkout.make("colab").returncode == 0  # refused by the command
    assert checkout.asked()[-1] == "-m corrlib course colab "


def test_clean_leaves_results_alone(checkout):
    checkout.make("setup")
    kept = checkout.folder / "outputs" / "tour" / "report.html"
    kept.parent.mkdir(parents=True)
    kept.touch()
    for name in ("corrlib", "tests", "notebooks"):
        (checkout.folder / name / "__pycache__").mkdir(parents=True)
    assert checkout.make("clean").returncode == 0
    assert kept.exists()
    assert not (checkout.folder / ".venv").exists()
    assert not list(checkout.folder.rglob("__pycache__"))
    assert (checkout.folder / "corrlib").is_dir()
