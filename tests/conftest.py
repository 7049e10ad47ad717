"""Rules for all tests: nothing is downloaded, and in CI nothing that could be installed is skipped."""

import os
import tempfile
from importlib.util import find_spec

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{tempfile.gettempdir()}/fluxnb-no-cache"  # what the tester has in his is not seen

IN_CI = bool(os.environ.get("CI"))
PARITY = all(find_spec(name) for name in ("torch", "diffusers"))
LEFT_OUT = "tests of parity and training left out: they need pip install 'fluxnb[parity,train]'"
collect_ignore = [] if PARITY else ["parity", "training"]


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
