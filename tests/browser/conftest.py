"""Chromium for the browser tests: found on the machine, never downloaded by a test."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
)
PATIENCE = 60_000  # milliseconds: what takes one second here may take twenty on a loaded machine


def find_chromium(playwright):
    """The path of a Chromium: FLUXNB_CHROMIUM, the system's, or playwright's own; None if there is none."""
    for path in (os.environ.get("FLUXNB_CHROMIUM"), *map(shutil.which, NAMES)):
        if path and os.access(path, os.X_OK):
            return path
    own = playwright.chromium.executable_path
    return own if os.path.exists(own) else None


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            pytest.skip("no Chromium: install it or set FLUXNB_CHROMIUM to its path")
        with playwright.chromium.launch(executable_path=path, args=ARGS) as browser:
            yield browser


@pytest.fixture
def page(browser):
    """A page that fails the test on any error or warning in its console."""
    with browser.new_context(viewport={"width": 1100, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.troubles = []
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on(
            "console",
            lambda message: message.type in ("error", "warning") and page.troubles.append(message.text),
        )
        yield page
