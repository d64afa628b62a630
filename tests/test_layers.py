"""The house: imports go down the layers only, and heavy parts load on first use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "stability"
LAYERS = {
    "_array": 0, "_check": 0, "_divided": 0, "_expression": 0, "_fast": 0, "_program": 0, "_special": 0, "_streaming": 0, "_control": 0, "results": 0,
    "_orthogonal": 0, "_unpickle": 0,
    "objectives": 1, "noise": 1, "lowrank": 1, "datasets": 1,
    "_spectral": 2, "methods": 2, "gallery": 2, "_local": 2,
    "flow": 3,
    "_moments": 4, "_modal": 4, "linear": 4, "_law": 4, "exact": 4, "escape": 4, "_chain_exit": 4,
    "critical": 4, "_flowlines": 4, "trajectory": 4, "fokker_planck": 4,
    "_steps": 4, "_planar": 4, "_engine": 4, "_fleet": 4, "_gather": 4, "_request": 4, "ensemble": 4,
    "_batches": 4, "_descent": 4, "_auto": 4, "_run": 4, "history": 4, "_scipy": 4,
    "simulate": 5, "first_exit": 5, "minimize": 5, "spectrum": 5, "lyapunov": 5, "tails": 5,
    "compare": 6, "bounds": 6, "portrait": 6, "profile": 6, "symbolic": 6,
    "sweep": 7,
    "plot": 8,
    "claims": 9, "cli": 9, "torch": 9, "_train": 9, "__main__": 9, "__init__": 9,
}  # fmt: skip


def imports(path):
    """The names inside `stability` that a file imports, function-level imports included."""
    inside = len(path.relative_to(ROOT).parts)  # 1 at the top, 2 in a folder
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("stability."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == inside:
                yield from [module.split(".")[0]] if module else [a.name for a in node.names]
            elif node.level == 0 and module.startswith("stability."):
                yield module.split(".")[1]


def files():
    return sorted(ROOT.rglob("*.py"))


def layer(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0], LAYERS[parts[0]]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_from_its_own_layer_or_below(path):
    name, own = layer(path)
    upward = {other for other in imports(path) if LAYERS[other] > own}
    assert not upward, f"{name} (layer {own}) imports {upward}"


def test_no_two_files_of_one_layer_import_each_other():
    edges = {layer(path)[0]: {o for o in imports(path) if o != layer(path)[0]} for path in files()}
    assert not [(a, b) for a in edges for b in edges[a] if a in edges.get(b, ())]


def test_only_plot_imports_matplotlib():
    users = {layer(path)[0] for path in files() if "matplotlib" in path.read_text() and "import" in path.read_text() and any(
        line.strip().startswith(("import matplotlib", "from matplotlib")) for line in path.read_text().splitlines())}  # fmt: skip
    assert users == {"plot"}


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["scipy", "sympy", "mpmath", "matplotlib", "pandas", "sklearn", "rich", "click", "sdeint", "torch", "numba"]
    code = f"import sys, stability; print(sorted(m for m in sys.modules if m.split('.')[0] in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_runs_a_users_text(path):
    forbidden = {"eval", "exec", "sympify", "parse_expr", "pickle"}
    names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not names & forbidden


def test_public_names_are_documented():
    import stability

    for name in stability.__all__:
        assert (getattr(stability, name).__doc__ or "").strip(), name
