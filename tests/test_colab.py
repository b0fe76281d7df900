"""What a first cell says on Colab."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch

from corrlib import colab, doctor
from corrlib.doctor import Check


@pytest.fixture
def installed(monkeypatch):
    """The versions that this runtime claims to have, to be changed."""
    versions = {}
    real = metadata.version

    def version(name: str) -> str:
        found = versions.get(name) or real(name)
        if found == "none":
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    return versions


def one_line(colour: str) -> str:
    line = colab.report()
    assert line.startswith(colour) and line.endswith(colab.PLAIN) and "\n" not in line
    return line


def test_a_gpu_is_named_in_green(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = Check("device", "ok", "cuda: Tesla T4, capability 7.5, fp16")
    monkeypatch.setattr(doctor, "check_device", lambda: found)
    monkeypatch.delenv("CORRLIB_PROFILE", raising=False)
    line = one_line(colab.GREEN)
    assert "ready" in line and "Tesla T4" in line and "profile gpu" in line


def test_without_a_gpu_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = one_line(colab.GREEN)
    assert "ready" in line and "T4 GPU" in line


def test_a_gpu_that_does_not_compute_is_red(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    broken = Check("device", "fail", "cuda: a matrix product fails", "update the driver")
    monkeypatch.setattr(doctor, "check_device", lambda: broken)
    assert "delete runtime" in one_line(colab.RED)


@pytest.mark.parametrize("package", colab.COLABS_OWN)
def test_what_colab_brings_is_never_to_be_installed(package, installed):
    installed[package] = "0.1"
    line = one_line(colab.RED)
    assert f"{package}>=" in line and "0.1" in line and "Change runtime type" in line
    assert "pip install" not in line


@pytest.mark.parametrize("found", ["none", "0.1"])
def test_what_is_missing_comes_with_its_command(found, installed):
    installed["av"] = found
    line = one_line(colab.RED)
    assert found in line and "!pip install --no-deps 'av>=" in line


def test_a_course_that_pip_could_not_install_is_told(monkeypatch):
    assert colab.missing() == ""

    def requires(name: str):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert "run this cell again" in one_line(colab.RED)


def test_never_raises(monkeypatch):
    def fail():
        raise OSError("two\nlines")

    monkeypatch.setattr(torch.cuda, "is_available", fail)
    assert "two lines" in one_line(colab.RED)
