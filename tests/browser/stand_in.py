"""The widget in a page without Jupyter: the tests speak in the place of the kernel."""

import base64
import json
from pathlib import Path

from fluxnb import widgets

HERE = Path(__file__).parent
WIDGETS = Path(widgets.__file__).parent
SETTINGS = {
    "prompt": "a cat and a sunflower", "seed": 0, "num_steps": None, "shift": None, "cfg_weight": None,
    "live": True, "answers": 0,
}  # fmt: skip
STATUS = {"state": "done", "run": 1, "step": 6, "total": 6, "seconds": 1.234, "error": "", "note": ""}


class StandIn:
    """A page with one widget and no kernel.

    Args:
        page: A fresh page of the browser.
        folder: Where to write the page.
        settings: Of `_settings`, what differs from `SETTINGS`.
        status: Of `_status`, what differs from `STATUS`.
    """

    def __init__(self, page, folder, settings=(), status=()):
        state = {"_settings": {**SETTINGS, **dict(settings)}, "_status": {**STATUS, **dict(status)}}
        text = (HERE / "stand_in.html").read_text(encoding="utf-8")
        for name, value in {
            "css": (WIDGETS / "flux.css").read_text(encoding="utf-8"),
            "state": json.dumps(state),
            "esm": json.dumps((WIDGETS / "flux.js").read_text(encoding="utf-8")),
        }.items():
            text = text.replace("{{" + name + "}}", value)
        path = folder / "stand_in.html"
        path.write_text(text, encoding="utf-8")
        self.page = page
        page.goto(path.as_uri())
        page.locator(".fluxnb").wait_for()

    def hear(self, *messages):
        """Says these messages to the widget, as the kernel sends them."""
        for message in messages:
            buffers = [base64.b64encode(data).decode() for data in message.buffers]
            self.page.evaluate(
                "([content, buffers]) => model.hear(content, buffers)", [message.content, buffers]
            )

    def put(self, trait, **values):
        """Changes some values of a trait, as Python does."""
        old = self.page.evaluate("(trait) => model.get(trait)", trait)
        self.page.evaluate("([trait, value]) => model.put(trait, value)", [trait, {**old, **values}])

    def sent(self, kind=None):
        """What the widget has sent since the last call, of one type or all."""
        sent = self.page.evaluate("() => model.sent.splice(0)")
        return [message for message in sent if kind in (None, message["type"])]

    def shown(self):
        """The bytes of the picture that is on the page."""
        text = self.page.evaluate(
            """async () => {
                const img = document.querySelector(".fluxnb-frame img");
                await img.decode();
                const data = new Uint8Array(await (await fetch(img.src)).arrayBuffer());
                return btoa(String.fromCharCode(...data));
            }"""
        )
        return base64.b64decode(text)

    def heat(self):
        """The colours of the map that is on the page, rows of pixels of R, G, B; None if there is none."""
        return self.page.evaluate(
            """() => {
                const canvas = document.querySelector(".fluxnb-frame canvas");
                if (canvas.hidden) return null;
                const copy = new OffscreenCanvas(canvas.width, canvas.height);
                const paper = copy.getContext("2d", { willReadFrequently: true });
                paper.drawImage(canvas, 0, 0);
                const { data } = paper.getImageData(0, 0, canvas.width, canvas.height);
                const at = (x, y) => [0, 1, 2].map((c) => data[4 * (y * copy.width + x) + c]);
                return Array.from({ length: copy.height }, (_, y) =>
                    Array.from({ length: copy.width }, (_, x) => at(x, y)));
            }"""
        )

    def scrub(self, step):
        """Moves the slider under the picture."""
        self.page.get_by_label("step", exact=True).evaluate(
            "(node, step) => { node.value = step; node.dispatchEvent(new Event('input')); }",
            step,
        )

    def where(self):
        """What is said of the step that is shown."""
        return self.page.locator(".fluxnb-where").text_content()
