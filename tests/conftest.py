"""Rules for all tests: nothing is downloaded, and in CI nothing that could be installed is skipped."""

import os
import tempfile
import time
from importlib.util import find_spec

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{tempfile.gettempdir()}/fluxnb-no-cache"  # what the tester has in his is not seen

IN_CI = bool(os.environ.get("CI"))
PARITY = all(find_spec(name) for name in ("torch", "diffusers", "peft"))
LEFT_OUT = "tests of parity and training left out: they need pip install 'fluxnb[parity,train]'"
collect_ignore = [] if PARITY else ["parity", "training"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub, and a client that takes it for the real one, with an empty cache and without waits."""
    import hub_server
    import huggingface_hub  # late, as it takes a while
    from huggingface_hub import constants

    with hub_server.start() as running:
        for name, value in {
            "ENDPOINT": running.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
            "DOWNLOAD_CHUNK_SIZE": 1000,  # instead of 10 MB: what of a file is kept is whole chunks
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between a client's attempts
        huggingface_hub.close_session()
        yield running
        huggingface_hub.close_session()


def pytest_report_header():
    """Says what is left out, since a folder that is not collected leaves no trace."""
    return None if PARITY else LEFT_OUT


def _fail_if_skipped(report):
    """In CI a skip is a failure, unless its reason begins with `hardware:` (no Metal, no CUDA)."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith("hardware:"):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, which should install what is missing: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Looks at each skipped test."""
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Looks at each module skipped as a whole."""
    return _fail_if_skipped((yield))
