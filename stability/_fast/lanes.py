"""Vector instructions on rows of LANES floats, for kernels that take LANES paths side by side.

One line of a kernel works on a row: written out because LLVM's own vectorizer gives up on such loops.

numba's disk cache looks at the kernel's own file only: after a change here, touch the files that import it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

LANES = 8  # paths that go through one QL iteration side by side: two AVX2 registers a number


def spread(x: Any) -> Any:
    """A row of equal numbers.

    This and the next six are instructions, given by `register`; rows are also added, compared, ...
    """


def load(table: Any, row: Any) -> Any:
    """A row."""


def store(table: Any, row: Any, x: Any) -> Any:
    """Write a row."""


def select(test: Any, yes: Any, no: Any) -> Any:
    """``yes`` where `test`, else ``no``."""


def root(x: Any) -> Any:
    """Square roots."""


def magnitude(x: Any) -> Any:
    """Absolute values."""


def signed(x: Any, sign: Any) -> Any:
    """``|x|`` with the sign of `sign`."""


@functools.cache
def register() -> None:
    """Tell numba about the instructions."""
    from llvmlite import ir
    from numba import types
    from numba.extending import models, register_model

    class Pack(types.Type):
        """LANES floats, or LANES truths, in vector registers."""

    pack, truth = Pack(name=f"float64 x {LANES}"), Pack(name=f"bool x {LANES}")
    words = {pack: ir.VectorType(ir.DoubleType(), LANES), truth: ir.VectorType(ir.IntType(1), LANES)}

    @register_model(Pack)
    class PackModel(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any):
            super().__init__(manager, kind, words[kind])

    _register_rows(pack, words[pack])
    _register_arithmetic(pack, truth, words[pack])


def _register_rows(pack: Any, vector: Any) -> None:
    from llvmlite import ir
    from numba import types

    def place(context: Any, builder: Any, array: Any, value: Any, row: Any) -> Any:
        data = context.make_array(array)(context, builder, value).data
        first = builder.gep(data, [builder.mul(row, ir.Constant(row.type, LANES))], inbounds=True)
        return builder.bitcast(first, vector.as_pointer())

    def equal(context: Any, builder: Any, signature: Any, x: Any) -> Any:
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
        first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(one, one, first)

    def read(context: Any, builder: Any, signature: Any, array: Any, row: Any) -> Any:
        return builder.load(place(context, builder, signature.args[0], array, row), align=8)

    def write(context: Any, builder: Any, signature: Any, array: Any, row: Any, x: Any) -> None:
        builder.store(x, place(context, builder, signature.args[0], array, row), align=8)

    _define(spread, (types.float64,), pack, equal)
    _define(load, (None, types.int64), pack, read)
    _define(store, (None, types.int64, pack), types.void, write)


def _register_arithmetic(pack: Any, truth: Any, vector: Any) -> None:
    from llvmlite import ir
    from numba.core.cgutils import get_or_insert_function

    def library(name: str) -> Callable[..., Any]:
        def emit(context: Any, builder: Any, signature: Any, *values: Any) -> Any:
            kind = ir.FunctionType(vector, [vector] * len(values))
            function = get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64")
            return builder.call(function, values)

        return emit

    def instruction(name: str) -> Callable[..., Any]:
        return lambda context, builder, signature, *values: getattr(builder, name)(*values)

    def comparison(name: str) -> Callable[..., Any]:
        return lambda context, builder, signature, a, b: builder.fcmp_ordered(name, a, b)

    _define(select, (truth, pack, pack), pack, instruction("select"))
    for function, name, count in ((root, "sqrt", 1), (magnitude, "fabs", 1), (signed, "copysign", 2)):
        _define(function, (pack,) * count, pack, library(name))
    arithmetic = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}
    for symbol, name in arithmetic.items():
        _define(symbol, (pack, pack), pack, instruction(name))
    for symbol, name in ((operator.lt, "<"), (operator.le, "<="), (operator.eq, "==")):
        _define(symbol, (pack, pack), truth, comparison(name))
    for symbol, name in ((operator.and_, "and_"), (operator.or_, "or_")):
        _define(symbol, (truth, truth), truth, instruction(name))


def _define(function: Any, arguments: tuple[Any, ...], result: Any, emit: Callable[..., Any]) -> None:
    """`function` of `arguments` (None: any type) as the instruction that `emit` writes."""
    from numba.extending import intrinsic, overload

    make: Any = intrinsic

    def fits(*given: Any) -> bool:
        return all(want is None or want is have for want, have in zip(arguments, given, strict=True))

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(context, builder, signature, *values)

    # numba reads the number of arguments off the function's own signature.
    if len(arguments) == 1:
        one = make(lambda typing, a: (result(a), code))
        overload(function)(lambda a: (lambda a: one(a)) if fits(a) else None)
    elif len(arguments) == 2:
        two = make(lambda typing, a, b: (result(a, b), code))
        overload(function)(lambda a, b: (lambda a, b: two(a, b)) if fits(a, b) else None)
    else:
        three = make(lambda typing, a, b, c: (result(a, b, c), code))
        overload(function)(lambda a, b, c: (lambda a, b, c: three(a, b, c)) if fits(a, b, c) else None)
