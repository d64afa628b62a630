"""Source files, each read and parsed once for all tests that look at them."""

import ast
import functools
from pathlib import Path

import stability

ROOT = Path(stability.__file__).parent
FILES = tuple(sorted(ROOT.rglob("*.py")))


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes(path):
    """All nodes of a file, as `ast.walk` meets them."""
    return tuple(ast.walk(tree(path)))
