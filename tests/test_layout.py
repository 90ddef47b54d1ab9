"""The package's layout: two rings, imports that only go down, and families that stay in their folders.

No test here keeps a list of modules: every file of the package is read or imported.
"""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import maskconver

ROOT = Path(maskconver.__file__).parent
TORCH = ("models", "training", "export")  # the ring that needs PyTorch
GIVEN_TENSORS = {"merge.tensor", "inference.torch"}  # import it when they are given a tensor or a model file
# What a folder may import stands before it.
ORDER = (
    "errors",
    "core",
    "recipes",
    "io",
    "data",
    "merge",
    "metrics",
    "models",
    "inference",
    "analysis",
    "serve",
    "training",
)
ORDER += ("export", "cli")
FAMILIES = {path.parent.name for path in (ROOT / "models").glob("*/config.py")}

FILES = sorted(path for path in ROOT.rglob("*.py"))


def module(path: Path) -> str:
    """The dotted name below the package; "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """The modules of this package that a file imports, also in functions and for types only if `lazy`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = module(path).split(".") if module(path) else []
    package = own if path.name == "__init__.py" else own[:-1]
    nodes = ast.walk(tree) if lazy else tree.body
    found = set()
    for node in nodes:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for name in node.names:
            whole = ".".join([*base, name.name])
            found.add(whole if whole in MODULES else ".".join(base))
    return found - {module(path), ""}


def without_torch() -> list[str]:
    """The modules of the first ring; the server's only where its framework is installed."""
    names = [m for m in sorted(MODULES) if m.split(".")[0] not in TORCH and m not in GIVEN_TENSORS]
    return (
        names
        if find_spec("starlette")
        else [m for m in names if not m.startswith(("serve.app", "serve.server"))]
    )


def test_no_module_outside_the_torch_ring_needs_torch() -> None:
    code = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "lightning", "scipy", "tensorboard"}:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    try:
        importlib.import_module(f"maskconver.{name}".rstrip("."))
    except ImportError as error:
        print(f"maskconver.{name}: {error}")
"""
    core = without_torch()
    core = [m for m in core if not m.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", code, *core], capture_output=True, text=True, timeout=120)
    assert done.stdout + done.stderr == ""


def test_no_module_outside_the_torch_ring_loads_torch_where_it_is_installed() -> None:
    core = without_torch()
    names = "; ".join(f"import maskconver.{m}" for m in core if m and not m.endswith("__main__"))
    code = f"import sys; {names}; print(*({{'torch', 'scipy', 'lightning'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_there_is_no_import_circle() -> None:
    graph = {module(path): imports(path) for path in FILES}
    done: set[str] = set()

    def visit(node: str, way: tuple[str, ...]) -> None:
        assert node not in way, " -> ".join((*way[way.index(node) :], node))
        if node in done:
            return
        for target in sorted(graph.get(node, ())):
            visit(target, (*way, node))
        done.add(node)

    for node in sorted(graph):
        visit(node, ())


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_only_go_down(path: Path) -> None:
    own = module(path).split(".")[0]
    if not own:
        return
    up = [m for m in imports(path) if ORDER.index(m.split(".")[0]) > ORDER.index(own)]
    assert not up


@pytest.mark.parametrize("path", FILES, ids=module)
def test_only_the_registry_and_a_familys_own_folder_name_a_family(path: Path) -> None:
    name = module(path)
    if name.startswith(tuple(f"models.{family}" for family in FAMILIES)) or name == "models.registry":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    named |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    named |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    families = ("KMaX", "kMaX", "ReMaX", "MaskConver")
    assert not {n for n in named if n.startswith(families) and n != "MaskconverError"}


def test_the_root_and_the_folders_stay_small() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "errors"}
    for folder in {path.parent for path in FILES}:
        assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= 16, folder


# Ids and segments of two sides; files and folders of two sides; and a hook of Lightning.
MORE_THAN_THREE = {"update", "panoptic_quality_files", "on_validation_batch_end"}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_what_follows_the_third_argument_is_given_by_keyword(path: Path) -> None:
    """But a fourth that is always needed may be given by place."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]
    for function in functions:
        arguments = [a.arg for a in function.args.posonlyargs + function.args.args]
        number = len(arguments) - (arguments[:1] in (["self"], ["cls"], ["ctx"]))
        private = function.name.startswith("_") and function.name != "__init__"
        if not private and function.name not in MORE_THAN_THREE:
            assert number <= 3 + (not function.args.defaults), function.name


def test_no_test_imports_another_test() -> None:
    """What several tests need lies in modules that are no tests."""
    for path in Path(__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("tests")):
                modules |= {(node.module or "").rpartition(".")[2], *(name.name for name in node.names)}
        assert not [name for name in modules if name.startswith("test_")], path
