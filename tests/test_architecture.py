"""The house keeps its floors: who may import whom, and what `import fluxnb` may bring in."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fluxnb"
FLOORS = (
    ("errors", "version"),
    ("images", "checks", "disk", "backend", "brief", "interrupts", "trust"),
    ("model",),
    ("flow", "checkpoints", "source", "texts"),
    ("probe", "maps", "altered"),
    ("interventions", "listen"),
    ("concepts", "asked"),
    ("settings", "trajectory"),
    ("recipe", "advice"),
    ("adapting", "decoding", "given"),
    ("memory",),
    ("drawing",),
    ("diffusionkit",),
    ("pipeline",),
    ("identity", "family", "bisection", "effect", "look"),
    ("saved",),
    ("questions",),
    ("run",),
    ("sweep",),
    ("session",),
    ("plots", "widgets", "commands"),
    ("cli",),
    ("training",),  # sees everything, is seen by nobody
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAY_SEE = {  # rooms that see less than all the floors below them
    "model": {"errors", "checks", "backend"},
    "widgets": {"errors", "checks", "disk", "given", "images", "maps", "probe", "run", "session"},
    "cli": {"errors", "version", "commands"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    """`fluxnb/model/vae.py` -> `fluxnb.model.vae`; a package stands for its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in MODULES}


def imports(path):
    """Every module that a file imports, late imports too; what only type checkers see is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full, from fluxnb..."
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = children & NAMES
            found |= modules
            if len(modules) < len(children):
                found.add(node.module)
    return found


def ours(path):
    """The imports of a file that lie in fluxnb; `from fluxnb import __version__` counts as `fluxnb`."""
    return {name for name in imports(path) if name.split(".")[0] == "fluxnb"}


def room(name):
    """`fluxnb.model.vae` -> `model`; the front door, `fluxnb` itself, has no room."""
    return name.split(".")[1] if "." in name else None


def modules(*, leave_out=(), only=None):
    """(room, path) of each file; the front door's room is None."""
    for path in MODULES:
        here = room(dotted(path))
        if here not in leave_out and only in (None, here):
            yield here, path


def roots(path):
    """The packages that a file imports from: `mlx`, `numpy`, `fluxnb`, ..."""
    return {name.split(".")[0] for name in imports(path)}


def test_every_file_stands_on_a_known_floor():
    assert [dotted(path) for here, path in modules(leave_out=[None]) if here not in FLOOR] == []


def test_the_guide_names_every_module_once():
    guide = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    there = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    there |= {f"{path.parent.name}/" for path in PACKAGE.glob("*/*") if path.suffix in (".py", ".json")}
    named = re.findall(r"(?<![\w/])[a-z_]+(?:\.py|/)(?!\w)", guide)
    assert sorted(named) == sorted(there)


def test_imports_go_down_only():
    upward = [
        f"{dotted(path)} imports {name}"
        for here, path in modules(leave_out=[None])
        for name in ours(path)
        if room(name) not in (here, None)
        and not (FLOOR[room(name)] < FLOOR[here] and room(name) in MAY_SEE.get(here, FLOOR))
    ]
    assert upward == []


def test_no_room_leans_on_the_front_door():
    users = [
        dotted(path)
        for _, path in modules(leave_out=[None, "cli", "commands", "training"])
        if "fluxnb" in ours(path)
    ]
    assert users == []


def test_nothing_imports_training():
    users = [
        f"{dotted(path)} imports {name}"
        for _, path in modules(leave_out=["training"])
        for name in ours(path)
        if room(name) == "training"
    ]
    assert users == []


def test_imports_form_no_circle():
    graph = {dotted(path): ours(path) & NAMES - {"fluxnb", dotted(path)} for path in MODULES}
    open_, done = [], set()

    def visit(name):
        assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
        if name not in done:
            open_.append(name)
            for other in sorted(graph[name]):
                visit(other)
            open_.pop()
            done.add(name)

    for name in sorted(graph):
        visit(name)


def test_widgets_never_touch_mlx():
    assert [dotted(path) for _, path in modules(only="widgets") if "mlx" in roots(path)] == []


def test_images_need_numpy_and_pillow_only():
    (path,) = [path for _, path in modules(only="images")]
    assert roots(path) <= {*sys.stdlib_module_names, "numpy", "PIL", "fluxnb"}


def test_torch_stays_in_training():
    users = [path for _, path in modules(leave_out=["training"]) if roots(path) & {"torch", "diffusers"}]
    assert users == []


def test_a_file_holds_one_idea():
    lengths = {dotted(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_the_package_prints_nothing():
    calls = [
        f"{dotted(path)}:{node.lineno}"
        for _, path in modules(leave_out=["cli", "commands", "training"])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert calls == []


def loaded_after(code, **environment):
    """The modules in memory after a fresh interpreter ran the code."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_import_brings_in_nothing_heavy():
    heavy = {"ipywidgets", "anywidget", "IPython", "transformers", "tokenizers", "huggingface_hub"}
    heavy |= {"matplotlib", "PIL", "safetensors", "torch", "fluxnb.pipeline", "fluxnb.widgets"}
    assert not heavy & loaded_after("import fluxnb")


def test_the_command_line_brings_in_no_networks():
    heavy = {"PIL", "tokenizers", "huggingface_hub", "tqdm", "fluxnb.pipeline", "fluxnb.checkpoints.store"}
    assert not heavy & loaded_after("import fluxnb.cli")


def test_pipeline_and_session_bring_in_no_widgets():
    heavy = {"ipywidgets", "anywidget", "IPython", "matplotlib", "torch", "transformers", "huggingface_hub"}
    assert not heavy & loaded_after("from fluxnb import FluxPipeline, FluxSession")


def test_every_public_name_exists():
    import fluxnb

    assert [name for name in fluxnb.__all__ if not hasattr(fluxnb, name)] == []


def test_public_names_and_their_homes_agree():
    import fluxnb

    lazy = set(fluxnb._HOMES)
    assert lazy <= set(fluxnb.__all__)
    assert {name for name in fluxnb.__all__ if name not in vars(fluxnb)} <= lazy


def test_an_unknown_name_is_an_attribute_error():
    import fluxnb

    with pytest.raises(AttributeError, match="FluxPipe"):
        fluxnb.FluxPipe  # noqa: B018


def test_without_mlx_the_import_says_what_to_install(tmp_path):
    broken = tmp_path / "mlx"
    broken.mkdir()
    (broken / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')")
    program = "import fluxnb"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith("fluxnb.errors.BackendError: ")
    assert 'pip install "fluxnb[cpu]"' in last
