"""One self-contained HTML page from a film: the widget's own script and style, no kernel, no network.

The page runs flux.js as a notebook does, with a stand-in for the kernel (page.html) that knows this one
film. Its content policy forbids every request.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from fluxnb import disk
from fluxnb.widgets.film import Film, Message
from fluxnb.widgets.status import Status

HERE = Path(__file__).parent


def write_page(path: Path, settings: dict, film: Film) -> Path:
    """Writes a film as a page.

    Args:
        path: Where to write; an existing file is replaced in one go.
        settings: The widget's settings as the browser knows them; those of the film's run take their place.
        film: Pictures and maps; what is not there yet will be missing.

    Returns:
        The path.
    """
    run = {name: value for name, value in film.opening().content.items() if name in settings}
    made = film.run.steps
    seconds = sum(step.seconds for step in made)
    status = Status("saved", film.number, len(made), film.run.num_steps, seconds, note=film.note)
    state = {"_settings": {**settings, **run}, "_status": asdict(status)}
    disk.write(path, page(state, film.messages(), title=film.facts.prompt).encode())
    return path


def page(state: dict, messages: Iterable[Message], title: str) -> str:
    """Returns the page.

    Args:
        state: The widget's traits by name.
        messages: What the stand-in answers to `hello`, in this order.
        title: Of the page.
    """
    film = {
        "esm": (HERE / "flux.js").read_text(encoding="utf-8"),
        "state": state,
        "messages": [
            {"content": one.content, "buffers": [base64.b64encode(data).decode() for data in one.buffers]}
            for one in messages
        ],
    }
    # Within <script> only "<" can end or nest the element; in JSON it occurs in strings alone.
    parts = {
        "title": html.escape(title),
        "css": (HERE / "flux.css").read_text(encoding="utf-8"),
        "film": json.dumps(film, allow_nan=False).replace("<", "\\u003c"),
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    first, *rest = template.split("{{")
    filled = [first]
    for piece in rest:  # each begins with a name; what is filled in is never looked at again
        name, after = piece.split("}}", 1)
        filled += [parts[name], after]
    return "".join(filled)
