"""The architecture: who may import what, and what may be done in one place only."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "nodes", "folder_paths", "server", "execution"}
GEOMETRY = {
    "kept",
    "sphere",
    "camera",
    "rotation",
    "camera_path",
    "resample",
    "map_layout",
    "viewpoint_map",
    "views",
    "cubemap",
    "upright",
    "smoothstep",
    "compose",
    "composite",
    "partial",
    "reorient",
    "preview",
}
NEEDS_NOTHING = {"choices"}
THIRD_PARTY = {"torch", "einops", "safetensors", "tqdm"}
FOR_VIDEO = {"av", "numpy"}  # of these modules of the core alone; ComfyUI brings both
VIDEO_MODULES = {"video", "sound", "hdr", "bt709"}
WHEN_NEEDED = {"cv2", "scipy"}  # imported by the functions that use them
HALVES_THAT_ARE_NO_PIXEL = {
    "sphere.direction_to_erp",  # half a turn, and half the way from pole to pole
    "training.flow_matching.fixed_sigmas",  # the middles of equal parts of the noise levels
}
UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_BUILTINS = {"eval", "exec", "compile", "__import__"}
TORCH_PICKLES = {"load", "save"}
UNSAFE_CALLS = {
    *(f"torch.{name}" for name in TORCH_PICKLES),
    *("torch.jit.load", "jit.load"),
    *(f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")),
}

CORE_FILES = sorted((REPO / "viewpoint_core").rglob("*.py"))
NODE_FILES = sorted((REPO / "nodes").rglob("*.py"))
SCRIPT_FILES = sorted((REPO / "scripts").rglob("*.py"))
ALL_FILES = [REPO / "__init__.py", *CORE_FILES, *NODE_FILES, *SCRIPT_FILES]
BENCHMARK_FILES = sorted((REPO / "benchmarks").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    """A file's dotted name within the repository."""
    return ".".join(file.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str, file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a text imports, by its absolute dotted name where it is the repository's, and whether relative.

    `from a import b` gives a.b, since b may be a module.
    """
    package = file.relative_to(REPO).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = [*above, node.module] if node.module else list(above)
            yield from ((".".join([*start, alias.name]), node.level > 0) for alias in node.names)


def top(name: str) -> str:
    return name.split(".")[0]


def core_modules(names: Iterable[str]) -> set[str]:
    """Of dotted names, those modules of viewpoint_core that they stand for."""
    parts = [name.split(".") for name in names]
    known = {name_of(file) for file in CORE_FILES}
    found = {".".join(p[:end]) for p in parts for end in range(2, len(p) + 1)}
    return found & known


def needs(modules: set[str]) -> set[str]:
    """Modules of viewpoint_core with all modules of viewpoint_core that they import, directly or not."""
    reached, new = set(), set(modules)
    while new:
        reached |= new
        files = [file for file in CORE_FILES if name_of(file) in new]
        new = core_modules(name for file in files for name, _ in imported(file.read_text(), file)) - reached
    return reached


def used_by_nodes() -> set[str]:
    """The modules of viewpoint_core that the nodes need."""
    return needs(core_modules(name for file in NODE_FILES for name, _ in imported(file.read_text(), file)))


def where(source: str, module: str, is_it: Callable[[ast.AST], bool]) -> list[str]:
    """Names module.function of the functions in which a node of the syntax tree lies, once per such node."""

    def visit(node: ast.AST, scope: str) -> Iterator[str]:
        if is_it(node):
            yield scope
        inner = f"{module}.{node.name}" if isinstance(node, Function) and scope == module else scope
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    return list(visit(ast.parse(source), module))


def everywhere(files: list[Path], is_it: Callable[[ast.AST], bool]) -> list[str]:
    """`where` over files, by their names below viewpoint_core."""
    return [
        place
        for file in files
        for place in where(file.read_text(), name_of(file).removeprefix("viewpoint_core."), is_it)
    ]


def called(node: ast.AST) -> str:
    """The last part of the name that a node calls: grid_sample for F.grid_sample(...)."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_half(node: ast.AST) -> bool:
    """0.5, written out."""
    return ast.unparse(node) in {"0.5", "1 / 2"}


def adds_half(node: ast.AST) -> bool:
    """Something + 0.5, in any spelling of an addition."""
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Add) and is_half(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_half(node.left) or is_half(node.right)
    return called(node) in {"add", "add_", "arange"} and any(is_half(argument) for argument in node.args)


def adds_half_to_a_count(node: ast.AST) -> bool:
    """The same of something that counts pixels: arange(...) + 0.5."""
    return adds_half(node) and any(called(n) in {"arange", "linspace", "mgrid", "range"} for n in ast.walk(node))


def unsafe(source: str, file: Path) -> list[str]:
    """What a text does that runs code from data."""
    names = [name for name, _ in imported(source, file)]
    found = [name for name in names if top(name) in UNSAFE_MODULES or name in UNSAFE_CALLS]
    for node in ast.walk(ast.parse(source)):
        function = node.func if isinstance(node, ast.Call) else None
        if isinstance(function, ast.Name) and function.id in UNSAFE_BUILTINS:
            found.append(function.id)
        if isinstance(function, ast.Attribute) and ast.unparse(function) in UNSAFE_CALLS:
            found.append(ast.unparse(function))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True):
            found.append("allow_pickle")
    return found


def python(code: str, folder: Path = REPO) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Who imports what


@pytest.mark.parametrize("file", CORE_FILES, ids=name_of)
def test_the_core_imports_neither_host_nor_nodes_and_itself_relatively(file: Path) -> None:
    names = list(imported(file.read_text(), file))
    assert [name for name, _ in names if top(name) in HOST] == []
    assert [name for name, relative in names if top(name) == "viewpoint_core" and not relative] == []


@pytest.mark.parametrize("file", NODE_FILES, ids=name_of)
def test_nodes_import_the_core_relatively_and_training_never(file: Path) -> None:
    names = list(imported(file.read_text(), file))
    assert [name for name, relative in names if top(name) == "viewpoint_core" and not relative] == []
    assert [name for name, _ in names if name.startswith("viewpoint_core.training")] == []


@pytest.mark.parametrize("file", [*SCRIPT_FILES, *sorted((REPO / "tests").glob("*.py"))], ids=name_of)
def test_scripts_and_tests_import_absolutely(file: Path) -> None:
    assert [name for name, relative in imported(file.read_text(), file) if relative] == []


@pytest.mark.parametrize("module", sorted(GEOMETRY))
def test_geometry_needs_geometry_and_torch_alone(module: str) -> None:
    own = needs({f"viewpoint_core.{module}"})
    assert own <= {f"viewpoint_core.{name}" for name in GEOMETRY | NEEDS_NOTHING}
    files = [file for file in CORE_FILES if name_of(file) in own]
    names = {top(name) for file in files for name, _ in imported(file.read_text(), file)}
    assert names - sys.stdlib_module_names - WHEN_NEEDED - {"viewpoint_core"} == {"torch"}


def test_what_the_nodes_need_is_light() -> None:
    own = used_by_nodes()
    assert {"viewpoint_core.views", "viewpoint_core.checkpoint", "viewpoint_core.conditioning"} <= own
    assert [name for name in own if name.startswith("viewpoint_core.training")] == []
    for file in (file for file in CORE_FILES if name_of(file) in own):
        third = {top(name) for name, _ in imported(file.read_text(), file)} - sys.stdlib_module_names
        allowed = THIRD_PARTY | WHEN_NEEDED | (FOR_VIDEO if file.stem in VIDEO_MODULES else set())
        assert third <= allowed | {"viewpoint_core"}, file


def test_modules_of_the_core_import_each_other_without_a_circle() -> None:
    for file in CORE_FILES:
        below = core_modules(name for name, _ in imported(file.read_text(), file)) - {name_of(file)}
        assert name_of(file) not in needs(below), name_of(file)


# What an import brings along


def test_importing_the_core_brings_no_host_and_nothing_heavy() -> None:
    never = HOST | WHEN_NEEDED | {"diffusers", "transformers", "peft", "av"}
    light = used_by_nodes() - {f"viewpoint_core.{name}" for name in ("video", "sound", "bt709")}
    modules = sorted(light | {"viewpoint_core.inflate", *(f"viewpoint_core.{name}" for name in GEOMETRY)})
    code = f"""
import sys
import torch, einops, safetensors.torch, tqdm
before = set(sys.modules)
import viewpoint_core, {", ".join(modules)}
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {never}))
"""
    assert python(code) == "viewpoint_core"


def test_importing_the_package_alone_brings_nothing() -> None:
    code = "import sys; old = set(sys.modules); import viewpoint_core; print(*sorted(set(sys.modules) - old))"
    assert python(code) == "viewpoint_core"


def test_the_packs_root_imports_without_a_host_and_runs_nothing(tmp_path: Path) -> None:
    code = f"""
import importlib.util, sys
root = {str(REPO)!r}
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
old, path = set(sys.modules), list(sys.path)
spec.loader.exec_module(pack)
assert sys.path == path and callable(pack.comfy_entrypoint) and not hasattr(pack, "NODE_CLASS_MAPPINGS")
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - old}} - set(sys.stdlib_module_names)))
import pack.viewpoint_core.views, pack.viewpoint_core.checkpoint
assert "viewpoint_core" not in sys.modules and "pack.nodes" not in sys.modules
"""
    assert python(code, tmp_path) == ""


# What is done in one place only


def test_the_half_pixel_is_added_in_one_function() -> None:
    geometry = [file for file in CORE_FILES if file.stem in GEOMETRY and file.parent.name == "viewpoint_core"]
    found = everywhere(CORE_FILES + NODE_FILES, adds_half_to_a_count) + everywhere(geometry + NODE_FILES, adds_half)
    assert set(found) - HALVES_THAT_ARE_NO_PIXEL == {"sphere.pixel_centres"}


def test_images_are_sampled_in_one_function() -> None:
    assert everywhere(ALL_FILES, lambda node: called(node) == "grid_sample") == ["resample.sample"]
    assert everywhere(ALL_FILES, lambda node: called(node) in {"affine_grid", "map_coordinates", "remap"}) == []


@pytest.mark.parametrize("file", ALL_FILES + BENCHMARK_FILES, ids=name_of)
def test_no_code_is_run_from_data(file: Path) -> None:
    assert unsafe(file.read_text(), file) == []


# These tests can fail


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load('a')", "from torch import load as l"]
    + ["eval('1')", "exec('1')", "import numpy as np\nnp.load('a', allow_pickle=True)", "torch.save({}, 'a')"]
    + ["yaml.load(a, Loader=yaml.Loader)", "yaml.unsafe_load(a)", "from yaml import full_load", "torch.jit.load('a')"],
)
def test_code_from_data_is_found(source: str) -> None:
    assert unsafe(source, REPO / "nodes" / "a.py")


def test_what_runs_no_code_from_data_is_let_pass() -> None:
    source = "model.eval()\nre.compile('a')\nnp.load('a', allow_pickle=False)\nload_file('a')\njson.load(a)"
    source += "\nyaml.safe_load(a)"
    assert unsafe(source, REPO / "nodes" / "a.py") == []


@pytest.mark.parametrize("line", ["arange(9) + 0.5", "1 / 2 + x.arange(9)", "arange(9).add(0.5)", "arange(0.5, 9)"])
def test_a_second_half_pixel_is_found(line: str) -> None:
    assert where(f"def f():\n    return {line}", "m", adds_half_to_a_count) == ["m.f"]


def test_imports_are_resolved() -> None:
    file = REPO / "viewpoint_core" / "training" / "a.py"
    found = list(imported("from ..views import place_view\nfrom . import b\nimport comfy.sd", file))
    assert found == [
        ("viewpoint_core.views.place_view", True),
        ("viewpoint_core.training.b", True),
        ("comfy.sd", False),
    ]


def test_the_readme_says_what_every_module_of_the_core_is_for() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    lines = readme.partition("## What lies where")[2].partition("\n## ")[0].splitlines()
    entries = [re.split(r" {2,}", line.strip())[0] for line in lines if line.startswith(" " * 6)]
    named = {name for entry in entries for name in re.findall(r"\w+", entry)}
    modules = {file.stem for file in (REPO / "viewpoint_core").iterdir() if not file.name.startswith("_")}
    assert len(modules) > 30
    assert modules - named == set()
