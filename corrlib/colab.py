"""What the first cell of a lesson says on Colab: ready, in green, or what to do.

Colab brings torch, torchvision and numpy that fit its driver and each other. Nothing here, and
nothing that is said here, replaces them.
"""

from __future__ import annotations

from importlib import metadata

GREEN, YELLOW, RED, PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[0m"

NEWER = "choose Runtime > Change runtime type > the newest version, and run this cell again"
AGAIN = (
    "run this cell again; if it ends here again, Runtime > Disconnect and delete runtime, "
    "and begin anew"
)
GPU = "Runtime > Change runtime type > T4 GPU, then run all cells again"
COLABS_OWN = ("torch", "torchvision", "numpy")


def report() -> str:
    """One line, with its colour: this runtime is ready, or what stands in the way and what to do.

    Never raises: it is the last thing that a first cell does.
    """
    try:
        if trouble := missing():
            return f"{RED}✗ {trouble}{PLAIN}"
        return _ready()
    except Exception as error:  # a broken installation may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{RED}✗ the course does not load here ({reason}): {AGAIN}{PLAIN}"


def missing(distribution: str = "corrlib") -> str:
    """The first requirement that is not met, and what to do about it; empty if there is none."""
    from packaging.requirements import Requirement

    try:
        needs = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return f"pip could not install the course, the reason is above: {AGAIN}"
    for need in map(Requirement, needs):
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            found = "none"
        if found == "none" or not need.specifier.contains(found, prereleases=True):
            remedy = NEWER if need.name in COLABS_OWN else f"!pip install --no-deps '{need}'"
            run = "" if need.name in COLABS_OWN else "in a cell of its own run: "
            return f"the course needs {need}, and this runtime has {found}: {run}{remedy}"
    return ""


def _ready() -> str:
    import torch

    from corrlib import __version__, doctor, profiles

    parts = [f"corrlib {__version__}", f"torch {torch.__version__}"]
    with_gpu = torch.cuda.is_available()
    if with_gpu:
        device = doctor.check_device()
        if device.status != "ok":
            return f"{RED}✗ {device.detail}: {AGAIN}{PLAIN}"
        parts.append(device.detail)
    ready = f"{GREEN}✓ ready: {', '.join(parts)}, {profiles.current()}{PLAIN}"
    return ready if with_gpu else f"{ready}{YELLOW}, without a GPU; for one: {GPU}{PLAIN}"
