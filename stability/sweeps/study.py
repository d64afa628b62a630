"""Studies: functions that workers import by name, and a digest of all code of the user's that they run."""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import textwrap
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _check, _saving

OWN = "rng"
"""The parameter that a study is given by the sweep: its own random numbers."""
_WITH_DOCSTRING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
_HERE: dict[Reference, Callable[..., Any]] = {}
_loading = threading.local()


class Reference(NamedTuple):
    """How a worker finds a study, and knows that it is the same.

    Attributes
    ----------
    module, name : str
    folder : str
        Where its module lies, for workers that do not find it by themselves.
    digest : str
        Of its source.
    """

    module: str
    name: str
    folder: str
    digest: str


class NotThere(Exception):
    """A worker has not the study that it is asked to compute."""


@dataclass(frozen=True)
class StudyFunction:
    """A study: what is called at each point.

    Attributes
    ----------
    call : function
    reference : Reference
        Without a folder and a module where it cannot be imported.
    """

    call: Callable[..., Any]
    reference: Reference

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What it takes, by name."""
        return inspect.signature(self.call).parameters

    @property
    def draws(self) -> bool:
        """Whether it takes random numbers."""
        return OWN in self.parameters

    @property
    def title(self) -> str:
        """Its name in messages and provenance."""
        return f"{self.reference.module}:{self.reference.name}" if self.importable else self.reference.name

    @property
    def importable(self) -> bool:
        """Whether a worker finds it by its name."""
        return bool(self.reference.module)

    def passed(self, name: str) -> bool:
        """Whether a parameter of the grid is given to it: the seed of repeats may be for `rng` alone."""
        takes_all = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        return takes_all or name in self.parameters

    def require(self, names: Sequence[str]) -> None:
        """Raise unless it can be called with these parameters.

        Raises
        ------
        ValueError
            If it lacks one, knows one not, or two would be given for `rng`.
        """
        parameters = self.parameters
        takes = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        listed = f"It takes {', '.join(takes) or 'none'}."
        if OWN in names:
            raise ValueError(
                f"`grid` must not have {OWN!r}: each point is given its own. Vary 'seed' instead."
            )
        for name in names:
            if not self.passed(name) and not (name == "seed" and self.draws):
                advice = " Let it take `rng` or `seed`." if name == "seed" else ""
                raise ValueError(
                    f"`grid` must have parameters of the study {self.reference.name}; got {name!r}. "
                    f"{listed}{advice}"
                )
        for name in takes:
            needed = parameters[name].default is inspect.Parameter.empty
            if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
                raise ValueError(
                    f"`study` must take its parameters by name; {self.reference.name} takes {name!r} by "
                    "place. Remove the / from its definition."
                )
            if needed and name not in (*names, OWN):
                raise ValueError(
                    f"`grid` must have a value for {name!r}, which the study {self.reference.name} takes. "
                    f"Add '{name}': value for one value at all points, or '{name}': [values] for an axis."
                )


def read(study: Any, *, here: bool, kept: bool) -> StudyFunction:
    """A user's function as a study.

    Parameters
    ----------
    study : function
    here : bool
        It is called in this process alone, and need not be importable.
    kept : bool
        Its numbers are kept, by a digest of its source.

    Raises
    ------
    ValueError
        If it is no function, workers could not import it, or its source is not known where it must be.
    """
    if not isinstance(study, types.FunctionType):
        advice = "Write def study(...): return {...}"
        if isinstance(study, functools.partial):
            advice = f"Give {', '.join(study.keywords) or 'what it fixes'} in the grid, as name: value"
        raise ValueError(
            f"`study` must be a function of named parameters; got {_check.shown(study)}. {advice}."
        )
    found = _importable(study)
    if isinstance(found, str) and not here:
        raise ValueError(
            f"`study` must be a function that workers can import; got {study.__qualname__}, {found}. Write "
            "it into a file (in a notebook: %%writefile my_study.py above its cell) and import it from "
            "there, or pass workers=0 to compute in this process."
        )
    module, folder = ("", "") if isinstance(found, str) else found
    try:
        digest = source_digest(study)
    except (OSError, TypeError, SyntaxError):
        if kept:
            raise ValueError(
                f"`study` must have a source that can be read, so that a change of it is noticed; that of "
                f"{study.__qualname__} cannot. Write it into a file, or leave `store` away."
            ) from None
        digest = ""
    reference = Reference(module, study.__qualname__, folder, digest)
    _HERE[reference] = study
    return StudyFunction(study, reference)


def _importable(study: types.FunctionType) -> tuple[str, str] | str:
    """The module and the folder from which a function is imported, or why it cannot be."""
    if study.__name__ == "<lambda>":
        return "which has no name"
    if "<locals>" in study.__qualname__:
        return "which is defined inside another function"
    module = sys.modules.get(study.__module__)
    path = getattr(module, "__file__", None)
    if path is None or not os.path.isfile(path):
        return "which was typed into a notebook or a prompt" if module is not None else "whose module is gone"
    found: Any = module
    for part in study.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not study:
        return f"which {study.__module__} no longer has under this name: import it anew"
    name = study.__module__
    if name == "__main__":  # of a script, or of python -m package.module
        spec = getattr(module, "__spec__", None)
        name = spec.name if spec is not None else Path(path).stem
    levels = name.count(".") + (Path(path).name == "__init__.py")
    return name, str(Path(path).resolve().parents[levels])


def load(reference: Reference) -> Callable[..., Any]:
    """The study on a worker, found once.

    Raises
    ------
    NotThere
        If it is not there, or is another one.
    """
    if reference in _HERE:
        return _HERE[reference]
    if reference.folder not in sys.path:
        # At the end: a study's folder must not hide the modules of libraries.
        sys.path.append(reference.folder)
    _loading.depth = getattr(_loading, "depth", 0) + 1
    try:
        found: Any = importlib.import_module(reference.module)
        for part in reference.name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a module of a user's does
        raise NotThere(
            f"a worker cannot import {reference.module}:{reference.name} ({type(error).__name__}: {error}). "
            "See to it that `import` of its file works there: its folder on PYTHONPATH, nothing run on import"
        ) from None
    finally:
        _loading.depth -= 1
    if source_digest(found) != reference.digest:
        raise NotThere(
            f"a worker has another version of {reference.module}:{reference.name}. Bring the same files "
            "there, and start workers and session anew"
        )
    _HERE[reference] = found
    return found


def require_outside_import() -> None:
    """Raise in a worker that imports a script which starts its sweep when it is imported.

    Raises
    ------
    RuntimeError
        There.
    """
    if getattr(_loading, "depth", 0):
        raise RuntimeError(
            "the file calls st.sweep when it is imported: put the call below if __name__ == '__main__':"
        )


# What a study runs of the user's own code: itself, and what it names that is not a library's.


def source_digest(study: Callable[..., Any]) -> str:
    """One line that changes with the code of a function and of what it uses, comments left aside.

    Functions, classes and modules of the user's own that it names are followed; numbers, texts, arrays and
    this package's objects that it names outside itself count by their values. Libraries are not followed, and
    files that it reads are not seen.

    Raises
    ------
    OSError, TypeError, SyntaxError
        If the source of one of them cannot be read.
    """
    walk = _Walk(study.__module__)
    walk.told(study)
    return hashlib.sha256("\n".join(walk.parts).encode()).hexdigest()


class _Walk:
    """What was met on the way through the code, each once."""

    def __init__(self, home: str) -> None:
        self.parts: list[str] = []
        self._home, self._met = home, set[int]()

    def told(self, value: Any) -> None:
        """Add what is to be known of a value."""
        if isinstance(value, (types.FunctionType, type, types.ModuleType)):
            if id(value) not in self._met:
                self._met.add(id(value))
                self._code(value)
        elif value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
            self.parts.append(repr(value))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.parts.append(_saving.digest(value))
        elif isinstance(value, Mapping):
            self._several("mapping", (part for pair in value.items() for part in pair))
        elif isinstance(value, (list, tuple)):
            self._several(type(value).__name__, value)
        elif isinstance(value, (set, frozenset)):
            # The order of a set differs from one process to the next.
            self._several("set", sorted(value, key=repr))
        else:
            self.parts.append(_of_another_kind(value))

    def _several(self, kind: str, values: Any) -> None:
        self.parts.append(f"{kind} [")
        for value in values:
            self.told(value)
        self.parts.append("]")

    def _code(self, value: Any) -> None:
        if (
            value.__name__ != self._home
            and getattr(value, "__module__", "") != self._home
            and not _is_users(value)
        ):
            self.parts.append(f"{getattr(value, '__module__', '')} {getattr(value, '__name__', '')}")
        elif isinstance(value, types.ModuleType):
            self.parts.append(_plain(Path(str(value.__file__)).read_text(encoding="utf-8")))
            # Functions of a module are in its text; modules that it imports are not.
            for _, part in sorted(vars(value).items()):
                if isinstance(part, types.ModuleType):
                    self.told(part)
        elif isinstance(value, type):
            self.parts.append(_plain(inspect.getsource(value)))
            for part in (*value.__bases__, *vars(value).values()):
                if isinstance(part, (types.FunctionType, type)):
                    self._function(part) if isinstance(part, types.FunctionType) else self.told(part)
        else:
            self.parts.append(_plain(inspect.getsource(value)))
            self._function(value)

    def _function(self, function: types.FunctionType) -> None:
        """What a function reaches: by names, through its closure, as values of its parameters."""
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.told(wrapped)
        for name in sorted(set(_named(function.__code__))):
            if name in function.__globals__:
                self.parts.append(name)
                self.told(function.__globals__[name])
        for cell in function.__closure__ or ():
            self.told(cell.cell_contents)
        # Values that were found when the function was made: its text does not show them.
        self.told(function.__defaults__)
        self.told(function.__kwdefaults__)


def _of_another_kind(value: Any) -> str:
    """What tells an object of no simple kind from others, as far as it shows it."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        return f"{kind} {_saving.digest(value)}"
    except ValueError:
        # An address differs in every process, and would make every run other code.
        shown = repr(value)
        return kind if " at 0x" in shown else f"{kind} {shown}"


def _named(code: types.CodeType) -> Iterator[str]:
    """Names that code, and code inside it, looks up outside itself."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _named(constant)


def _plain(source: str) -> str:
    """A source without comments, docstrings and layout."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and len(node.body) > 1 and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.unparse(tree)


@functools.cache
def _libraries() -> tuple[Path, ...]:
    """Where installed code lies, and this package."""
    paths = sysconfig.get_paths()
    installed = {Path(paths[kind]).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*installed, Path(__file__).resolve().parents[1])


def _is_users(value: Any) -> bool:
    """Whether code is the user's own: of no library, and not of this package."""
    module = value if isinstance(value, types.ModuleType) else sys.modules.get(value.__module__)
    if module is builtins or (module is not None and module.__name__ in sys.builtin_module_names):
        return False
    path = getattr(module, "__file__", None)
    if path is None:  # of a notebook
        return module is not None and module.__name__ == "__main__"
    place = Path(path).resolve()
    installed = any(place.is_relative_to(folder) for folder in _libraries())
    return not installed and place.suffix == ".py"
