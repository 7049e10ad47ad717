"""A private JupyterLab on loopback, and the handful of things that the tests do in it."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 180  # seconds for a server or a notebook; a loaded machine is slow

# Through Lab's own objects: its menu drops "Run All" without a word while the kernel is not there yet.
OPEN = """async (name) => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = await app.commands.execute("docmanager:open", { path: name });
    await panel.revealed;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    await app.commands.execute("application:set-mode", { mode: "single-document" });
}"""
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
SAVE = "() => window.jupyterapp.commands.execute('docmanager:save')"
THEME = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
PYTHON = """async (code) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({ code });
    let said = "";
    future.onIOPub = ({ header, content }) => {
        if (header.msg_type === "stream") said += content.text;
        if (header.msg_type === "error") said += `${content.ename}: ${content.evalue}`;
    };
    await future.done;
    return said.trim();
}"""


@contextlib.contextmanager
def server(home: Path, root: Path, dark: bool = False):
    """Runs JupyterLab on `root` with settings of its own below `home`; yields its address with the token.

    Raises:
        RuntimeError: With the end of its log, if it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, url = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    theme = {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}
    (settings / "themes.jupyterlab-settings").write_text(json.dumps(theme))
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "run",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
        *("--ServerApp.terminals_enabled=False", "--LabApp.expose_app_in_browser=True"),
    ]
    with open(home / "lab.log", "w") as log:
        environment = {**os.environ, **{name: str(home / folder) for name, folder in places.items()}}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await(process, f"{url}/api/status?token={token}", home / "lab.log")
        yield f"{url}/lab?token={token}&reset"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _await(process, url, log):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.2)  # between two knocks at the door; nothing tells when it opens
    raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-3000:]}")


def open_notebook(page, url, name):
    """Opens a notebook in Lab and waits for its kernel."""
    page.goto(url)
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate(OPEN, name)


def run_all(page):
    """Runs all cells; false if one failed."""
    return page.evaluate(RUN_ALL)


def python(page, code):
    """Runs code in the notebook's kernel; returns what it printed, or the error."""
    return page.evaluate(PYTHON, code)
