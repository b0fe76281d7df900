from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from corrlib import doctor

NMS = RuntimeError("operator torchvision::nms does not exist")


def break_imports(monkeypatch: pytest.MonkeyPatch, errors: dict[str, Exception]) -> None:
    def fake(name: str):
        if name in errors:
            raise errors[name]
        return import_module(name)

    monkeypatch.setattr(doctor, "import_module", fake)


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_a_whole_environment_has_no_failure(capsys):
    pytest.importorskip("jupyterlab")
    lines: list[str] = []
    assert doctor.run(lines.append), "\n".join(lines)
    assert lines[0].startswith("[OK]   python: 3.")
    for name in ("torch", "torchvision", "device", "jupyterlab", "ipywidgets", "video", "clips"):
        assert any(line.startswith(("[OK]", "[WARN]")) and f" {name}: " in line for line in lines)
    assert all("\n" not in line for line in lines)
    assert capsys.readouterr().out == "", "only the command line prints"


def test_torchvision_beside_the_wrong_torch_is_recognised(monkeypatch):
    break_imports(monkeypatch, {"torchvision": NMS})
    check = by_name(doctor.checks())["torchvision"]
    assert check.status == "fail"
    assert "operator torchvision::nms does not exist" in check.detail
    assert "uninstall -y torch torchvision" in check.remedy
    assert "install -c constraints.txt torch torchvision" in check.remedy
    assert str(check).startswith("[FAIL] torchvision: operator torchvision::nms does not exist")


def test_torchvision_that_imports_but_has_no_operators_is_recognised(monkeypatch):
    def nms(*_):
        raise NMS

    broken = SimpleNamespace(__version__="0.29.2", ops=SimpleNamespace(nms=nms))
    monkeypatch.setattr(
        doctor, "import_module", lambda n: broken if n == "torchvision" else import_module(n)
    )
    check = doctor.check_torchvision()
    assert (check.status, check.remedy) == ("fail", doctor.REINSTALL_PAIR)


def test_a_pair_that_works_but_was_not_made_for_each_other_is_a_warning(monkeypatch):
    requires = metadata.requires
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda name: ["numpy", "torch==1.0.0"] if name == "torchvision" else requires(name),
    )
    check = doctor.check_torchvision()
    assert check.status == "warn"
    assert "torch==1.0.0" in check.detail


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "torch"),
        ("torchvision", "torchvision"),
        ("numpy", "numpy"),
        ("jupyterlab", "jupyterlab"),
        ("ipywidgets", "ipywidgets"),
        ("av", "video"),
    ],
)
def test_a_missing_package_fails_with_its_remedy(monkeypatch, module, name):
    missing = ModuleNotFoundError(f"No module named '{module}'")
    break_imports(monkeypatch, {module: missing})
    lines: list[str] = []
    assert not doctor.run(lines.append)
    (line,) = [line for line in lines if line.startswith(f"[FAIL] {name}: ")]
    assert f"No module named '{module}'" in line
    assert "-> in the course's folder run: " in line
    assert "checks failed: " in lines[-1] and name in lines[-1]


def test_the_report_is_complete_when_everything_is_broken(monkeypatch):
    names = [check.name for check in doctor.checks()]

    def nothing(name: str):
        raise OSError(f"{name}: cannot open shared object file\nsecond line")

    monkeypatch.setattr(doctor, "import_module", nothing)
    lines: list[str] = []
    assert not doctor.run(lines.append)
    assert len(lines) == len(names) + 1
    assert all("\n" not in line for line in lines)
    assert any(line.startswith("[FAIL] torch: OSError: torch: cannot open") for line in lines)


def test_only_the_tests_miss_nbval(monkeypatch):
    break_imports(monkeypatch, {"nbval": ModuleNotFoundError("No module named 'nbval'")})
    assert doctor.check_nbval().status == "warn"


def test_a_version_below_the_lower_bound_fails(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy>=999"])
    check = doctor.check_package("numpy")
    assert check.status == "fail"
    assert ">=999" in check.detail


def test_a_kernel_of_another_python_is_a_warning(monkeypatch, tmp_path):
    spec = SimpleNamespace(argv=[str(tmp_path / "python3"), "-m", "ipykernel_launcher"])
    manager = SimpleNamespace(get_kernel_spec=lambda name: spec)
    fake = SimpleNamespace(KernelSpecManager=lambda: manager)
    monkeypatch.setattr(
        doctor,
        "import_module",
        lambda name: fake if name == "jupyter_client.kernelspec" else import_module(name),
    )
    check = doctor.check_kernel()
    assert check.status == "warn"
    assert str(tmp_path) in check.detail
    spec.argv[0] = "python"  # the client puts its own Python in its place
    assert doctor.check_kernel().status == "ok"


@pytest.mark.parametrize("clips", [[], [SimpleNamespace(name="box", path=Path("absent.mp4"))]])
def test_missing_clips_fail(monkeypatch, clips):
    fake = SimpleNamespace(shipped_clips=lambda: clips)
    monkeypatch.setattr(doctor, "import_module", lambda name: fake)
    check = doctor.check_clips()
    assert check.status == "fail"
    assert "git checkout" in check.remedy


def test_a_folder_that_cannot_be_written_fails(monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = doctor.check_outputs()
    assert check.status == "fail"
    assert "Permission denied" in check.detail


def test_writing_is_tried_without_leaving_anything(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert doctor.check_outputs().status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_little_memory_and_little_disk_are_warnings(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert doctor.check_disk().status == "warn"
    memory = SimpleNamespace(available=2**30, total=2**31)
    fake = SimpleNamespace(virtual_memory=lambda: memory)
    monkeypatch.setattr(doctor, "import_module", lambda name: fake)
    assert doctor.check_memory().status == "warn"


def test_json_says_what_the_lines_say(monkeypatch, tmp_path):
    break_imports(monkeypatch, {"torchvision": NMS})
    lines: list[str] = []
    file = tmp_path / "new" / "doctor.json"
    assert not doctor.run(lines.append, file)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [str(doctor.Check(**entry)) for entry in written] == lines[:-1]
    assert {entry["status"] for entry in written} <= {"ok", "warn", "fail"}


def test_importing_the_module_imports_nothing_heavy():
    """So that the doctor can be called when torch cannot be imported."""
    code = (
        "import sys, corrlib.doctor; "
        "print({'torch', 'torchvision', 'numpy', 'av', 'cv2', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
