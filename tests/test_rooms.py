"""Which module may import which: every arrow points downwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from posegan import posegan

# What each imports of ours, on import or inside its functions.
ROOMS = {
    "posegan": {
        *("reid", "photo", "scoring", "training", "checkpoints", "metrics", "datasets", "pairs"),
        *("poses", "files", "terminal", "recipes"),
    },
    "reid": {"checkpoints", "pairs", "poses", "files", "terminal"},
    "photo": {"checkpoints", "metrics", "pairs", "features", "body", "augment", "demo", "poses"},
    "scoring": {"checkpoints", "metrics", "pairs", "augment", "poses", "files", "terminal"},
    "training": {
        *("losses", "checkpoints", "metrics", "pairs", "models", "features", "augment", "poses"),
        *("files", "terminal", "recipes"),
    },
    "losses": {"metrics", "models", "augment", "poses"},
    "checkpoints": {
        *("datasets", "pairs", "models", "features", "augment", "files", "terminal", "recipes"),
    },
    "metrics": {"features", "poses"},
    "datasets": {"pairs", "features", "demo", "poses", "files"},
    "pairs": {"augment", "poses", "files"},
    "models": {"features", "augment", "poses"},
    "features": {"poses", "files"},
    "body": {"augment", "poses"},
    "augment": {"poses", "recipes"},
    "demo": set(),
    "poses": {"files"},
    "terminal": {"files", "recipes"},
    "files": set(),
    "recipes": set(),
}
ROOT = Path(posegan.__file__).parent


def imports(name: str, lazy: bool = True) -> set[str]:
    """The modules that a module imports, ours as posegan.NAME; `lazy`: in functions as well."""
    tree = ast.parse((ROOT / f"{name}.py").read_text())
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}.py: line {node.lineno} imports relatively"
            ours = node.module == "posegan"
            found |= {f"posegan.{a.name}" for a in node.names} if ours else {node.module}
    return found


def test_every_module_has_its_room():
    assert {file.stem for file in ROOT.glob("*.py")} - {"__init__", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_a_module_imports_what_is_below_it_and_nothing_else(name):
    order = list(ROOMS)
    found = {one.removeprefix("posegan.") for one in imports(name) if one.startswith("posegan.")}
    assert found == ROOMS[name]
    assert all(order.index(one) > order.index(name) for one in found)
    flat = imports(name) & set(ROOMS)
    assert not flat, f"{name}.py imports {flat} from outside the package"


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_and_functions_are_small(name):
    text = (ROOT / f"{name}.py").read_text()
    assert text.count("\n") <= 800
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = 100 if (name, node.name) == ("training", "train") else 40  # the loop
            assert node.end_lineno - node.lineno < most, node.name


@pytest.mark.parametrize("name", ["files", "poses", "demo", "terminal", "recipes"])
def test_joints_and_drawn_people_need_no_torch(name):
    assert not {one.split(".")[0] for one in imports(name)} & {"torch", "torchvision"}


@pytest.mark.parametrize("name", ["posegan", "scoring", "datasets", "poses", "demo"])
def test_torch_is_not_imported_before_it_is_needed(name):
    code = f"import sys; from posegan import {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_sets_import_networks_only_to_find_poses():
    assert "posegan.features" not in imports("datasets", lazy=False)
