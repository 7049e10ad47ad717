"""Takes the README's picture of the widget, in a real JupyterLab with a real kernel.

    python tests/browser/screenshots.py [--checkpoint FOLDER] [--prompt TEXT] [--word WORD] [--step K]

Writes examples/images/widget.png. Nothing in it is drawn by hand: who types the same sees the same.
"""

import argparse
import io
import json
import tempfile
from pathlib import Path

import lab  # beside this script
from conftest import ARGS, find_chromium
from PIL import Image
from playwright.sync_api import expect, sync_playwright

TARGET = Path(__file__).parents[2] / "examples" / "images" / "widget.png"
SIZE = {"width": 1180, "height": 1000}  # CSS pixels of the window
SCALE = 2  # device pixels to a CSS pixel


def write_notebook(path, prompt, seed, checkpoint):
    """Writes a notebook of one cell that shows the widget."""
    session = f"FluxSession.from_pretrained(local_ckpt={checkpoint!r}), " if checkpoint else ""
    source = (
        "from fluxnb import FluxSession, FluxWidget\n\n"
        f"widget = FluxWidget({session}prompt={prompt!r}, seed={seed})\nwidget"
    )
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": kernel,
        "cells": [{**cell, "source": source}],
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")


def shoot(page, address, word, step):
    """Opens the notebook, waits for the picture, looks at a word; returns the PNG of the widget."""
    page.set_default_timeout(1000 * lab.PATIENCE)
    expect.set_options(timeout=1000 * lab.PATIENCE)
    lab.open_notebook(page, address, "widget.ipynb")
    if not lab.run_all(page):
        raise RuntimeError(page.locator("[data-mime-type$=error]").all_text_contents())
    expect(page.locator(".fluxnb-status")).to_contain_text("steps in")
    lab.python(page, "widget.wait()")
    if word:
        page.get_by_role("radio", name=word, exact=True).first.click()
        expect(page.locator(".fluxnb-mass")).to_contain_text("the picture looks at")
    page.get_by_label("step", exact=True).evaluate(
        "(node, step) => { node.value = step; node.dispatchEvent(new Event('input')); }", step
    )
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(0, 0)
    return page.locator(".fluxnb-host").screenshot(animations="disabled")


def main():
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="folder in the place of the demo model")
    parser.add_argument("--prompt", default="a photo of a cat")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--word", default="cat", help="whose attention is shown; '' for none")
    parser.add_argument("--step", type=int, default=14)
    parser.add_argument("--dark", action="store_true", help="JupyterLab's dark theme")
    parser.add_argument("--target", type=Path, default=TARGET)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home, root = Path(folder) / "home", Path(folder) / "notebooks"
        home.mkdir()
        root.mkdir()
        write_notebook(root / "widget.ipynb", given.prompt, given.seed, given.checkpoint)
        browser = playwright.chromium.launch(executable_path=find_chromium(playwright), args=ARGS)
        page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE)
        with lab.server(home, root, dark=given.dark) as address:
            picture = Image.open(io.BytesIO(shoot(page, address, given.word, given.step))).convert("RGB")
        browser.close()
    given.target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(given.target, optimize=True)
    print(f"{given.target}: {picture.width} x {picture.height}, {given.target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
