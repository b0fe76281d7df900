"""Does this environment do what the course needs? What ``corrlib doctor`` shows.

Nothing heavy is imported with this module, and every check runs in its own guard: the report is
complete whatever is missing or broken. ``fail`` means that a part of the course will not work;
``warn`` that it will, with less than it could have.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from corrlib.files import atomic_path

Status = Literal["ok", "warn", "fail"]

MINIMUM_PYTHON = (3, 10)
DISK_GIB = 2.0  # video, checkpoints and figures of a few runs
MEMORY_GIB = 4.0  # training on 256x256 frames, or 480p propagation with its references

PIP = f'"{sys.executable}" -m pip'
INSTALL = f'in the course\'s folder run: {PIP} install -c constraints.txt -e ".[dev]"'
REINSTALL_PAIR = (
    f"in the course's folder run: {PIP} uninstall -y torch torchvision, "
    f"then: {PIP} install -c constraints.txt torch torchvision"
)
WRONG_BUILD = "operator torchvision::nms does not exist"

# Distribution name: the module it installs.
PACKAGES = {
    "numpy": "numpy",
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "ipywidgets": "ipywidgets",
    "jupyterlab": "jupyterlab",
}


@dataclass(frozen=True)
class Check:
    """One line of the report: ``remedy`` says what to do, and is empty when all is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        label = f"[{self.status.upper()}]"
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return " ".join(f"{label:<6} {self.name}: {self.detail}{remedy}".splitlines())


def check_python() -> Check:
    detail = f"{platform.python_version()} on {platform.platform()}"
    if sys.version_info < MINIMUM_PYTHON:
        remedy = f"install Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer, then set up anew"
        return Check("python", "fail", detail, remedy)
    return Check("python", "ok", detail)


def check_torch() -> Check:
    torch = import_module("torch")
    detail = f"{torch.__version__}, {torch.get_num_threads()} CPU threads"
    return _with_lower_bound(Check("torch", "ok", detail), "torch", torch.__version__)


def check_torchvision() -> Check:
    """torchvision's compiled operators load only beside the torch they were built for."""
    try:
        torchvision = import_module("torchvision")
        torch = import_module("torch")
        # Some versions only warn when the compiled part does not load: use it.
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:
        if WRONG_BUILD not in str(error):
            raise
        detail = (
            f"{WRONG_BUILD}: torchvision {_version('torchvision')} was built for another kind of "
            f"torch than the {_version('torch')} beside it"
        )
        return Check("torchvision", "fail", detail, REINSTALL_PAIR)

    from packaging.requirements import Requirement

    check = Check("torchvision", "ok", torchvision.__version__)
    for line in metadata.requires("torchvision") or []:
        wanted = Requirement(line)
        if wanted.name == "torch" and not wanted.specifier.contains(
            torch.__version__, prereleases=True
        ):
            detail = f"{check.detail} asks for {wanted}, but torch is {torch.__version__}"
            return Check("torchvision", "warn", detail, REINSTALL_PAIR)
    return _with_lower_bound(check, "torchvision", torchvision.__version__)


def check_device() -> Check:
    """The device that ``auto`` picks multiplies two matrices and gets them right."""
    torch = import_module("torch")
    if torch.cuda.is_available():
        device = "cuda"
        major, minor = torch.cuda.get_device_capability()
        half = "bf16" if major >= 8 else "fp16"
        detail = f"cuda: {torch.cuda.get_device_name()}, capability {major}.{minor}, {half}"
        remedy = "update the NVIDIA driver, or use --device cpu"
    elif torch.backends.mps.is_available():
        device, detail, remedy = "mps", "mps: Apple GPU", "use --device cpu"
    else:
        device, detail, remedy = "cpu", f"cpu: {torch.get_num_threads()} threads", REINSTALL_PAIR

    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 128, 128, generator=generator)
    try:
        product = (left.to(device) @ right.to(device)).cpu()
    except Exception as error:
        detail = f"{detail}; a matrix product fails with {type(error).__name__}: {error}"
        return Check("device", "fail", detail, remedy)
    # Loose enough for the 10-bit mantissa that some GPUs multiply with.
    if not torch.allclose(product, left @ right, atol=0.2):
        return Check("device", "fail", f"{detail}; a matrix product comes out wrong", remedy)
    if device == "cpu" and shutil.which("nvidia-smi"):
        detail = f"{detail}; there is an NVIDIA driver, but this torch sees no GPU"
        remedy = "see that nvidia-smi lists a GPU, and that torch is not a CPU-only build"
        return Check("device", "warn", detail, remedy)
    return Check("device", "ok", detail)


def check_package(distribution: str) -> Check:
    module = import_module(PACKAGES[distribution])
    version = _version(distribution)
    if version == "unknown":  # conda's OpenCV, for one, goes by another name
        version = getattr(module, "__version__", version)
    return _with_lower_bound(Check(distribution, "ok", version), distribution, version)


def check_kernel() -> Check:
    """The notebooks' kernel must be this Python, or it will not find what is installed here."""
    import_module("ipykernel")
    spec = import_module("jupyter_client.kernelspec").KernelSpecManager().get_kernel_spec("python3")
    command = spec.argv[0]
    # jupyter_client reads a bare "python" as the Python it runs in itself.
    if Path(command).is_absolute() and not _same_file(command, sys.executable):
        detail = f"the kernel 'python3' starts {command}, not {sys.executable}"
        remedy = f'run: "{sys.executable}" -m ipykernel install --sys-prefix'
        return Check("kernel", "warn", detail, remedy)
    return Check("kernel", "ok", "notebooks run in this Python")


def check_nbval() -> Check:
    try:
        import_module("nbval")
    except Exception as error:
        detail = f"{type(error).__name__}: {error}; only the tests need it"
        return Check("nbval", "warn", detail, INSTALL)
    return Check("nbval", "ok", _version("nbval"))


def check_video() -> Check:
    """Three frames through h264 and back, in memory."""
    av = import_module("av")
    np = import_module("numpy")
    levels = (40, 120, 200)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in levels:
            picture = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        encoder = stream.codec_context.codec.name
    file.seek(0)
    with av.open(file) as container:
        decoder = container.streams.video[0].codec_context.codec.name
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    detail = f"av {av.__version__} writes h264 with {encoder} and reads it with {decoder}"
    if len(means) != 3 or any(abs(m - level) > 10 for m, level in zip(means, levels, strict=True)):
        return Check("video", "fail", f"{detail}, but three frames come back changed", INSTALL)
    return _with_lower_bound(Check("video", "ok", detail), "av", av.__version__)


def check_clips() -> Check:
    remedy = "clone the repository anew, or run: git checkout -- data/clips"
    try:
        clips = import_module("corrlib.clips").shipped_clips()
    except (OSError, ValueError) as error:
        return Check("clips", "fail", str(error), remedy)
    missing = [clip.name for clip in clips if not Path(clip.path).is_file()]
    if missing:
        return Check("clips", "fail", f"no video for {', '.join(missing)}", remedy)
    if not clips:
        return Check("clips", "fail", "none in data/clips", remedy)
    return Check("clips", "ok", f"{len(clips)} in data/clips: {', '.join(c.name for c in clips)}")


def check_weights() -> Check:
    folder = Path(__file__).resolve().parent.parent / "data" / "weights"
    names = sorted(p.name for p in folder.glob("*") if p.suffix in {".pt", ".pth", ".safetensors"})
    if not names:
        return Check("weights", "ok", "none in data/weights; the course trains its own")
    return Check("weights", "ok", f"{len(names)} in data/weights: {', '.join(names)}")


def check_outputs() -> Check:
    folder = Path.cwd() / "outputs"
    existing = folder if folder.is_dir() else folder.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        detail = f"cannot write in {existing}: {error.strerror or error}"
        return Check("outputs", "fail", detail, "run from a folder that you may write in")
    return Check("outputs", "ok", "the current folder can be written")


def check_disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    detail = f"{free:.1f} GiB free"
    if free < DISK_GIB:
        return Check("disk", "warn", detail, f"free {DISK_GIB:.0f} GiB for runs and outputs")
    return Check("disk", "ok", detail)


def check_memory() -> Check:
    try:
        memory = import_module("psutil").virtual_memory()
    except ImportError as error:
        return Check("memory", "warn", f"cannot be read: {error}", INSTALL)
    detail = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"
    if memory.available < MEMORY_GIB * 2**30:
        remedy = f"close other programs until {MEMORY_GIB:.0f} GiB are free, or use smaller frames"
        return Check("memory", "warn", detail, remedy)
    return Check("memory", "ok", detail)


def checks() -> list[Check]:
    """Run every check, in the order of the report. Never raises, whatever is missing."""
    table: dict[str, Callable[[], Check]] = {
        "python": check_python,
        "torch": check_torch,
        "torchvision": check_torchvision,
        "device": check_device,
    }
    for distribution in PACKAGES:
        table[distribution] = lambda name=distribution: check_package(name)
    table |= {
        "kernel": check_kernel,
        "nbval": check_nbval,
        "video": check_video,
        "clips": check_clips,
        "weights": check_weights,
        "outputs": check_outputs,
        "disk": check_disk,
        "memory": check_memory,
    }
    return [_guarded(name, check) for name, check in table.items()]


def run(report: Callable[[str], None], json_file: Path | None = None) -> bool:
    """Report every check, one line each, and a closing line; True if none of them failed.

    ``json_file`` receives the same as a list of ``{"name", "status", "detail", "remedy"}``.
    """
    results = checks()
    for check in results:
        report(str(check))
    failed = [check.name for check in results if check.status == "fail"]
    if failed:
        report(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")
    else:
        report(f"All {len(results)} checks passed: this environment is ready for the course.")
    if json_file is not None:
        with atomic_path(json_file) as path:
            text = json.dumps([asdict(check) for check in results], indent=2)
            path.write_text(text + "\n", encoding="utf-8")
    return not failed


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ModuleNotFoundError as error:
        return Check(name, "fail", str(error), INSTALL)
    except Exception as error:
        remedy = REINSTALL_PAIR if name in {"torch", "torchvision", "device"} else INSTALL
        return Check(name, "fail", f"{type(error).__name__}: {error}", remedy)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _with_lower_bound(check: Check, distribution: str, version: str) -> Check:
    """``check``, or a failure where corrlib's own requirements ask for a newer version."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("corrlib") or []
    except metadata.PackageNotFoundError:  # run from the checkout, not installed
        return check
    for wanted in map(Requirement, lines):
        known = version != "unknown" and wanted.name == distribution
        if known and not wanted.specifier.contains(version, prereleases=True):
            return Check(check.name, "fail", f"{check.detail}; needed: {wanted.specifier}", INSTALL)
    return check


def _same_file(one: str, other: str) -> bool:
    # Not samefile: a virtual environment's python is a link to the one it was made from.
    return os.path.abspath(one) == os.path.abspath(other)
