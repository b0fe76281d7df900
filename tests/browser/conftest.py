"""A real JupyterLab and a real browser, for tests of what students see."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NOT_TESTED = (
    "NOT TESTED: the widgets in a real browser ({}). Install Chromium, or run: "
    "python -m pip install playwright && python -m playwright install chromium"
)
# Nothing that the browser would fetch for itself.
OPTIONS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps"),
)
START_SECONDS = 90

# No question about news or kernels, no look for updates, and cells stay in the page out of sight.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyterlab/notebook-extension/tracker": {
        "windowingMode": "none",
        "autoStartDefaultKernel": True,
    },
}


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window and, as playwright starts it for any user, without a sandbox."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip(NOT_TESTED.format("there is no playwright here"))
    program = next((path for path in map(shutil.which, NAMES) if path), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        except Error as error:
            pytest.skip(NOT_TESTED.format(str(error).strip().splitlines()[0]))
        yield started
        started.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory, browser):
    """Address and token of a JupyterLab whose folder holds copies of all notebooks, not yet run,
    and which shares nothing with the person's own."""
    folder = tmp_path_factory.mktemp("lab")
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        (folder / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    own = folder / ".own"
    for name, content in SETTINGS.items():
        path = own / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    token = secrets.token_hex(16)
    environment = {
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
        "PYTHONPATH": str(REPOSITORY),
        "CORRLIB_PROFILE": "fast",
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "ServerApp.root_dir": folder,
        "ServerApp.port": 0,  # any that is free
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.extension_manager": "readonly",
    }
    with (own / "log").open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield _address(server, own, token), token
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels, too
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _address(server: subprocess.Popen, own: Path, token: str) -> str:
    """Where the server listens, once it answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        for path in (own / "runtime").glob("jpserver-*.json"):
            try:
                about = json.loads(path.read_text())
                address = f"http://127.0.0.1:{about['port']}"
                urlopen(f"{address}/api/status?token={token}", timeout=5).close()
                return address
            except (ValueError, URLError):  # half written, or not listening yet
                pass
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start: {(own / 'log').read_text()[-2000:]}")
