"""The house: imports go down the floors only, no circle at any level, and heavy parts load on first use.

`python tests/test_layers.py` writes the table of floors in CONTRIBUTING.md anew.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from sources import FILES, ROOT, nodes

CONTRIBUTING = ROOT.parent / "CONTRIBUTING.md"
FLOORS = (
    ("_display", "_files", "_frames", "_interrupts"),
    ("_archive",),
    ("_saving",),
    ("_array", "_check", "_cores", "_estimate", "_fast", "_progress", "_special", "_streams"),
    ("methods", "objectives", "datasets", "noise", "lowrank", "_law"),
    ("flow", "spectra", "exact"),
    ("linear",),
    ("advice",),
    ("ensembles", "training", "lyapunov", "torch"),
    ("trajectories", "densities", "exits"),
    ("symbolic", "portraits", "comparison"),
    ("pictures", "sweeps"),
    ("claims", "gallery", "results"),
    ("__init__", "cli"),
    ("__main__",),
)
"""From the ground up: a room imports from floors below its own, never from another room of its floor."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module(path):
    """The parts of a file's dotted name below `stability`; a folder's face is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


MODULES = {module(path): path for path in FILES}


def imports(path):
    """The modules of `stability` that a file imports, also inside functions and for type checkers."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("stability."))
        elif isinstance(node, ast.ImportFrom):
            named = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                named = package[: len(package) - node.level + 1] + named
            elif named[:1] == ("stability",):
                named = named[1:]
            else:
                continue
            submodules = {(*named, a.name) for a in node.names} & MODULES.keys()
            yield from submodules
            if len(submodules) < len(node.names):  # the rest are names that the module itself defines
                yield named or ("__init__",)


def room(path):
    return module(path)[0]


def purpose(name):
    """What a room says of itself: the first line of its face, or of the module."""
    face = ROOT / name / "__init__.py"
    path = face if face.exists() else ROOT / f"{name}.py"
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def in_words():
    """The floors as a table, from the top down, each room in its own words."""
    lines = ["| floor | room | what lives there |", "|---|---|---|"]
    for floor in reversed(range(len(FLOORS))):
        for name in FLOORS[floor]:
            path = f"{name}/" if (ROOT / name).is_dir() else f"{name}.py"
            lines.append(f"| {floor + 1} | `{path}` | {purpose(name)} |")
    return "\n".join(lines) + "\n"


def around_the_table():
    """What stands in CONTRIBUTING.md before the table, and from its end."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    begin, end = "<!-- floors -->\n", "<!-- /floors -->"
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def test_contributing_describes_the_house_as_it_is():
    before, after = around_the_table()
    written = CONTRIBUTING.read_text(encoding="utf-8") == before + in_words() + after
    assert written, "CONTRIBUTING.md is behind the code: python tests/test_layers.py writes its table anew"


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} == FLOOR.keys()


def test_a_file_imports_from_its_own_room_or_from_floors_below():
    wrong = {
        f"{path.relative_to(ROOT)} (floor {FLOOR[room(path)] + 1})": other[0]
        for path in FILES
        for other in imports(path)
        if other[0] != room(path) and FLOOR[other[0]] >= FLOOR[room(path)]
    }
    assert not wrong


def test_no_circle_of_imports_at_any_level():
    graph = {name: set(imports(path)) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(".".join(name) for name in circle.args[1]))


def test_only_the_pictures_import_matplotlib():
    def draws(path):
        names = [a.name for node in nodes(path) if isinstance(node, ast.Import) for a in node.names]
        names += [node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom)]
        return any(name.split(".")[0] == "matplotlib" for name in names)

    assert {room(path) for path in FILES if draws(path)} == {"pictures"}


def test_importing_the_package_loads_nothing_heavy():
    heavy = [
        "scipy",
        "sympy",
        "mpmath",
        "matplotlib",
        "pandas",
        "sklearn",
        "rich",
        "click",
        "sdeint",
        "torch",
        "numba",
        "xarray",
        "joblib",
        "distributed",
        "IPython",
    ]
    code = f"import sys, stability; print(sorted(m for m in sys.modules if m.split('.')[0] in {heavy}))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_nothing_that_runs_a_users_text():
    forbidden = {"eval", "exec", "sympify", "parse_expr", "pickle"}
    for path in FILES:
        names = {node.id for node in nodes(path) if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
        assert not names & forbidden, path


def test_public_names_are_documented():
    import stability

    for name in stability.__all__:
        assert (getattr(stability, name).__doc__ or "").strip(), name


if __name__ == "__main__":
    before, after = around_the_table()
    CONTRIBUTING.write_text(before + in_words() + after, encoding="utf-8")
