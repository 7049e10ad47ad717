"""One journey through the first example in a real JupyterLab, with a real kernel and the demo model."""

import json
import os
from pathlib import Path

import pytest
from browser import lab

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect
EXAMPLE = Path(__file__).parents[2] / "examples" / "01_first_picture.ipynb"
CHECKPOINT = os.environ.get("FLUXNB_TEST_CHECKPOINT")  # a folder to use in the place of the demo model
SHOTS = os.environ.get("FLUXNB_TEST_SHOTS")  # a folder that keeps the screenshots

LISTEN = """() => {
    window.said = [];
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    kernel.anyMessage.connect((_, { msg, direction }) => {
        if (direction === "send" && msg.header.msg_type === "comm_msg") said.push(msg.content.data);
    });
}"""
CELLS = "() => window.jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.type).join(' ')"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    notebook = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
        if CHECKPOINT:
            other = (
                f"FluxWidget(__import__('fluxnb').FluxSession.from_pretrained(local_ckpt={CHECKPOINT!r}), "
            )
            cell["source"] = "".join(cell["source"]).replace("FluxWidget(", other)
    (root / "first.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with lab.server(tmp_path_factory.mktemp("lab"), root) as address:
        yield address


@pytest.fixture
def shoot(page, tmp_path):
    folder = Path(SHOTS) if SHOTS else tmp_path
    folder.mkdir(exist_ok=True)

    def shoot(name):
        page.locator(".fluxnb").scroll_into_view_if_needed()
        page.screenshot(path=folder / f"{name}.png")

    yield shoot
    shoot("lab-end")  # also of a failure


@pytest.mark.timeout(1500)
def test_a_stranger_opens_the_first_example_and_plays_with_it(page, address, shoot):
    page.set_default_timeout(1000 * lab.PATIENCE)
    expect.set_options(timeout=1000 * lab.PATIENCE)
    where, status = page.locator(".fluxnb-where"), page.locator(".fluxnb-status")

    # open, run all: the picture is there
    lab.open_notebook(page, address, "first.ipynb")
    assert lab.run_all(page), page.locator(
        ".jp-OutputArea-error, [data-mime-type$=stderr]"
    ).all_text_contents()
    expect(where).to_have_text("step 20 of 20 · σ 0.000")
    expect(status).to_contain_text("20 steps in")
    shoot("lab-done")

    # scrub by keys and by the marker: nothing reaches the kernel, no key the notebook
    page.evaluate(LISTEN)
    cells = page.evaluate(CELLS)
    page.get_by_label("step", exact=True).focus()
    for key in ("Home", "ArrowRight", "m", "ArrowUp", "d", "d"):
        page.keyboard.press(key)
    expect(where).to_contain_text("step 2 of 20")
    curve = page.locator(".fluxnb-curve").bounding_box()
    page.mouse.move(curve["x"] + curve["width"] * 0.3, curve["y"] + curve["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(curve["x"] + curve["width"] * 0.52, curve["y"] + curve["height"] * 0.5, steps=6)
    page.mouse.up()
    expect(where).to_contain_text("step 10 of 20")
    assert page.evaluate("() => said") == []
    assert page.evaluate(CELLS) == cells

    # choose a word: its maps come once, for all steps
    page.get_by_role("radio", name="cat", exact=True).click()
    expect(page.locator(".fluxnb-mass")).to_contain_text("In step 10 the picture looks at")
    expect(page.locator(".fluxnb-frame canvas")).to_be_visible()
    shoot("lab-word")
    page.get_by_label("step", exact=True).press("Home")
    expect(page.locator(".fluxnb-mass")).to_contain_text("In step 0 the picture looks at")
    assert [message["content"]["type"] for message in page.evaluate("() => said")] == ["maps"]

    # move the shift: a new picture at once, looked at from the same step, with the same word
    page.get_by_label("shift slider").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    shift = float(page.get_by_label("shift", exact=True).input_value())
    assert shift > 1.2
    lab.python(page, "widget.wait()")
    assert float(lab.python(page, "print(widget.run.shift)")) == shift
    expect(where).to_have_text("step 0 of 20 · σ 1.000")
    expect(page.locator(".fluxnb-mass")).to_contain_text("In step 0 the picture looks at")

    # stop a long run: its steps stay
    page.get_by_label("steps", exact=True).fill("1000")
    page.get_by_label("steps", exact=True).press("Enter")
    expect(status).to_contain_text("of 1000")
    page.get_by_role("button", name="Stop").click()
    expect(status).to_contain_text("stopped after")
    lab.python(page, "widget.wait()")
    made, done = lab.python(page, "print(len(widget.run.steps), widget.run.done)").split()
    assert 0 < int(made) < 1000 and done == "False"
    page.get_by_label("step", exact=True).press("End")
    expect(where).to_contain_text(f"step {int(made) - 1} of 1000")

    # bad input is one sentence, and the next picture comes
    page.get_by_label("steps", exact=True).fill("0")
    page.get_by_label("steps", exact=True).press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("num_steps is 0")
    expect(status).to_have_text("not drawn: see below")
    page.get_by_label("steps", exact=True).fill("")
    page.get_by_label("prompt").fill("xyzzy plugh <b>qwerty</b>")
    page.get_by_label("prompt").press("Enter")
    expect(where).to_have_text("step 20 of 20 · σ 0.000")
    lab.python(page, "widget.wait()")
    assert lab.python(page, "print(widget.run.prompt)") == "xyzzy plugh <b>qwerty</b>"
    expect(page.locator(".fluxnb-error")).to_be_hidden()
    shoot("lab-nonsense")

    # the page is loaded anew: the pictures come back from the kernel
    page.evaluate(lab.SAVE)
    lab.open_notebook(page, address, "first.ipynb")
    expect(where).to_have_text("step 20 of 20 · σ 0.000")
    expect(page.get_by_label("prompt")).to_have_value("xyzzy plugh <b>qwerty</b>")
    page.evaluate(lab.THEME, "JupyterLab Dark")
    page.get_by_label("prompt").fill("a photo of a cat")
    page.get_by_label("prompt").press("Enter")
    page.get_by_role("radio", name="cat", exact=True).click()
    expect(page.locator(".fluxnb-mass")).to_contain_text("the picture looks at")
    shoot("lab-dark")
