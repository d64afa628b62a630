"""Every example in a docstring can be pasted into an empty session, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import stability as st

FINDER = doctest.DocTestFinder(exclude_empty=True)
OWN_PROCESS = {"stability.__main__"}  # importing it runs the command line


def modules():
    """All modules that can be imported here: those of PyTorch only where it is installed."""
    for found in pkgutil.walk_packages(st.__path__, "stability.", onerror=lambda name: None):
        if found.name in OWN_PROCESS:
            continue
        try:
            yield importlib.import_module(found.name)
        except ImportError:  # PyTorch's, and no other
            if not found.name.startswith("stability.torch"):
                raise


EXAMPLES = {
    test.name: test
    for module in (st, *modules())
    for test in FINDER.find(module, module.__name__)
    if test.examples
}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_can_be_pasted(name):
    test, told = EXAMPLES[name], []
    test.globs = {}
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=told.append)
    assert not told, "".join(told)


def has_example(thing):
    return ">>>" in (inspect.getdoc(thing) or "")


def public():
    """What needs an example: functions and classes of `st`, and of `stability.torch` where torch is there."""
    named = {f"st.{name}": getattr(st, name) for name in st.__all__}
    for room in (st.datasets, st.gallery):
        named |= {f"{room.__name__}.{name}": getattr(room, name) for name in room.__all__}
    try:
        import stability.torch
    except ImportError:
        pass
    else:
        named |= {f"stability.torch.{n}": getattr(stability.torch, n) for n in stability.torch.__all__}
    return {name: thing for name, thing in named.items() if not inspect.ismodule(thing)}


NO_EXAMPLE = {
    "stability.torch.Report": "made by LRSFN.report, whose class has one",
    "stability.torch.ModelObjective": "made by stability.torch.objective, which has one",
}
"""Classes that nobody constructs: the example is where they come from. Those of `st.results` are such too."""


def test_every_public_name_has_an_example():
    without = {name for name, thing in public().items() if not has_example(thing)}
    assert without <= NO_EXAMPLE.keys()
