"""Graphs that keep the digits of exponentials: softplus, logsumexp, sigmoid, log cosh, however written.

``log(1 + exp(x))`` overflows, and in its second derivative two numbers near one are subtracted. Here sums of
exponentials are held by their exponents, and what the chain rule makes of them by the exponents' differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ._graph import Graph

MOST_TERMS = 300
"""Of a sum that is looked through."""
MOST_ATOMS = 8
"""Of an exponent that is looked through, and written anew."""
_SEEN = ("exp", "log", "sqrt")
_FACTORS = ("exp", "pow", "mul", "neg")
DEEPEST = 40
"""Products and powers inside each other that are looked through for a sign."""


class Term(NamedTuple):
    """``coefficient * factor * exp(exponent)``; None where it is one, or has no exponential."""

    coefficient: float
    factor: int | None
    exponent: int | None


Linear = dict[int | None, float]
"""A sum of multiples of nodes; its constant at None."""


class Steady(Graph):
    """A graph whose operations see exponentials in what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[int, list[int] | None] = {}
        self._lines: dict[int, Linear] = {}
        self._applied: dict[tuple[str, int], int] = {}

    # -- operations --------------------------------------------------------------------------------

    def apply(self, function: str, a: int) -> int:
        if function not in _SEEN or self.nodes[a][0] == "number":
            return super().apply(function, a)
        place = self._applied.get((function, a))
        if place is None:
            place = self._applied[function, a] = self._seen(function, a)
        return place

    def _seen(self, function: str, a: int) -> int:
        if function == "log":
            found = self._log(a)
            if found is None:
                found = self._log_near_one(a)
        elif function == "exp":
            found = self._exp(a)
        else:
            found = self._power(a, 0.5)
        return super().apply(function, a) if found is None else found

    def pow(self, a: int, b: int) -> int:
        base, power = self.value(a), self.value(b)
        if base == math.e and power is None:
            return self.apply("exp", b)
        found = None if power is None or base is not None else self._power(a, power)
        return super().pow(a, b) if found is None else found

    def mul(self, a: int, b: int) -> int:
        if not (self.nodes[a][0] in _FACTORS and self.nodes[b][0] in _FACTORS):
            return super().mul(a, b)
        (c, inner), (k, outer) = self._scaled(a), self._scaled(b)
        one, other = self._split(inner), self._split(outer)
        if one is None or other is None or not self._short(one[1], other[1]):
            return super().mul(a, b)
        if c * k != 1.0:
            return self.mul(self.number(c * k), self.mul(inner, outer))
        # One exponential of the sum: exp(800) exp(-800) would be infinity times zero.
        exponential = self.apply("exp", self.add(one[1], other[1]))
        factors = [factor for factor in (one[0], other[0]) if factor is not None]
        for factor in factors:
            exponential = self.mul(factor, exponential)
        return exponential

    def div(self, a: int, b: int) -> int:
        if self.value(b) is None and self.value(a) != 0:
            found = self._quotient(a, b)
            if found is not None:
                return found
        return super().div(a, b)

    def add(self, a: int, b: int) -> int:
        if "number" not in (self.nodes[a][0], self.nodes[b][0]):
            return super().add(a, b)
        for number, other in ((a, b), (b, a)):
            c = self.value(number)
            if c:
                found = self._beside_one(c, other, 1.0)
                if found is not None:
                    return found
        return super().add(a, b)

    def sub(self, a: int, b: int) -> int:
        found = None
        if self.nodes[a][0] == "logsumexp" and b in self._parts(a):
            return self.neg(self.share(b, self._parts(a)))
        if self.value(a):
            found = self._beside_one(self.value(a) or 0.0, b, -1.0)
        elif self.value(b):
            found = self._beside_one(-(self.value(b) or 0.0), a, 1.0)
        return super().sub(a, b) if found is None else found

    # -- what an expression is ---------------------------------------------------------------------

    def _exponent(self, a: int) -> int | None:
        """``u`` where a node is ``exp(u)``, ``u log c`` where it is ``c^u``: 2^x alone stays exact."""
        kind, *parts = self.nodes[a]
        if kind == "pow" and (self.value(parts[0]) or 0.0) > 0:
            return self.mul(self.number(math.log(self.value(parts[0]) or 0.0)), parts[1])
        return parts[0] if kind == "exp" else None

    def _split(self, a: int) -> tuple[int | None, int] | None:
        """``(f, u)`` where a node is ``f exp(u)``."""
        whole = self._exponent(a)
        if whole is not None:
            return None, whole
        kind, *parts = self.nodes[a]
        if kind == "mul":
            for part, other in (parts, parts[::-1]):
                exponent = self._exponent(part)
                if exponent is not None:
                    return other, exponent
        return None

    def _scaled(self, a: int) -> tuple[float, int]:
        """A node as a number times another."""
        kind, *parts = self.nodes[a]
        if kind == "neg":
            return -1.0, parts[0]
        if kind == "mul":
            value = self.value(parts[0])
            if value is not None:
                return value, parts[1]
            value = self.value(parts[1])
            if value is not None:
                return value, parts[0]
        return 1.0, a

    def _terms(self, a: int) -> list[Term] | None:
        """The terms of a sum; None of one that is too long."""
        found: list[Term] = []
        waiting: list[tuple[float, int]] = [(1.0, a)]
        while waiting:
            c, node = waiting.pop()
            kind, *parts = self.nodes[node]
            # A stack, not recursion: sums of thousands of terms are deeper than Python calls may be.
            if len(found) + len(waiting) > MOST_TERMS:
                return None
            if kind == "number":
                found.append(Term(c * parts[0], None, None))
            elif kind in ("add", "sub"):
                waiting += [(c if kind == "add" else -c, parts[1]), (c, parts[0])]
            elif kind == "expm1":
                found += [Term(c, None, parts[0]), Term(-c, None, None)]
            elif kind in ("cosh", "sinh"):
                sign = 1.0 if kind == "cosh" else -1.0
                found += [Term(c / 2, None, parts[0]), Term(sign * c / 2, None, self.neg(parts[0]))]
            else:
                scale, rest = self._scaled(node)
                if kind == "div" and (value := self.value(parts[1])) is not None:
                    scale, rest = 1.0 / value, parts[0]
                if rest != node:
                    waiting.append((c * scale, rest))
                else:
                    factor, exponent = self._split(node) or (node, None)
                    found.append(Term(c, factor, exponent))
        return found

    def _sum(self, a: int) -> list[int] | None:
        """The exponents where a node is a sum of exponentials; None of anything else."""
        if a not in self._sums:
            self._sums[a] = self._summed(a)
        return self._sums[a]

    def _summed(self, a: int) -> list[int] | None:
        terms = self._terms(a)
        if terms is None or all(exponent is None for _, _, exponent in terms):
            return None
        weights: dict[tuple[int | None, int | None], float] = {}
        for c, factor, exponent in terms:
            weights[factor, exponent] = weights.get((factor, exponent), 0.0) + c
        rest, exponents = self.number(weights.pop((None, None), 0.0)), []
        for (factor, exponent), c in weights.items():
            if exponent is None and factor is not None:
                rest = self.add(rest, self.mul(self.number(c), factor))
            # A logarithm of each term is taken next.
            elif c < 0 or (factor is not None and not self._positive(factor)):
                return None
            elif c > 0:
                logarithm = self.number(math.log(c))
                if factor is not None:
                    logarithm = self.add(logarithm, self.apply("log", factor))
                exponents.append(self.add(exponent if exponent is not None else rest, logarithm))
        if self.value(rest) != 0:
            if not self._positive(rest):
                return None
            exponents.append(self.apply("log", rest))
        # Terms that coincide were gathered above; two that still do would count once in a logsumexp.
        return sorted(set(exponents)) if len(set(exponents)) == len(exponents) else None

    def _positive(self, a: int, zero: bool = False, depth: int = 0) -> bool:
        """Whether a node is positive everywhere, as far as is seen; or not negative."""
        kind, *parts = self.nodes[a]
        if depth > DEEPEST:
            return False
        if kind == "number":
            return parts[0] > 0 or (zero and parts[0] == 0)
        if kind in ("exp", "cosh", "sech"):
            return True
        if zero and (kind in ("abs", "sqrt", "logcosh") or (kind == "mul" and parts[0] == parts[1])):
            return True
        if kind == "pow":
            power = self.value(parts[1])
            whole = zero and power is not None and power % 2 == 0
            return whole or self._positive(parts[0], False, depth + 1)
        if kind == "sqrt":
            return self._positive(parts[0], False, depth + 1)
        if kind == "add":
            signs = [self._positive(part, True, depth + 1) for part in parts]
            return all(signs) and (zero or any(self._positive(part, False, depth + 1) for part in parts))
        return kind in ("mul", "div") and all(
            self._positive(part, zero and kind == "mul", depth + 1) for part in parts
        )

    # -- logarithms --------------------------------------------------------------------------------

    def _log(self, a: int) -> int | None:
        """Of sums, products, quotients and powers of exponentials, which are positive everywhere."""
        kind, *parts = self.nodes[a]
        exponents = self._sum(a)
        if exponents is not None:
            return self._log_of_sum(exponents)
        if kind == "sech":
            return self.neg(self.apply("logcosh", parts[0]))
        if kind == "pow" and self.value(parts[1]) is not None:
            inner = self._log(parts[0])
            return None if inner is None else self.mul(parts[1], inner)
        if kind in ("mul", "div"):
            logs = [self._log(part) if self.value(part) is None else None for part in parts]
            if logs == [None, None]:
                return None
            pair = [
                self.apply("log", part) if log is None and self._signed(part) else log
                for part, log in zip(parts, logs, strict=True)
            ]
            if pair[0] is not None and pair[1] is not None:
                return self.add(pair[0], pair[1]) if kind == "mul" else self.sub(pair[0], pair[1])
        return None

    def _signed(self, a: int) -> bool:
        """A factor beside a positive one: its logarithm is asked for wherever the product's is."""
        value = self.value(a)
        return value is None or value > 0

    def _log_of_sum(self, exponents: Sequence[int]) -> int:
        if len(exponents) == 1:
            return exponents[0]
        if len(exponents) == 2:
            twice = self._linear(self.add(*exponents))
            # Two exponents whose sum is a number: what the linear forms leave is symmetric around it.
            if set(twice) <= {None}:  # exp(k + u) + exp(k - u)
                half = self.number(0.5)
                u = self._from(self._linear(self.mul(half, self.sub(exponents[1], exponents[0]))))
                middle = self.number(twice.get(None, 0.0) / 2 + math.log(2.0))
                return self.add(middle, self.apply("logcosh", u))
        return self.logsumexp(exponents)

    def _log_near_one(self, a: int) -> int | None:
        """Of what may be negative, where there is no logarithm."""
        kind, *parts = self.nodes[a]
        if kind == "expm1":  # so that large ones do not overflow
            back = self.neg(parts[0])
            return self.add(parts[0], self._node("log", self.neg(self.apply("expm1", back))))
        # log(exp(a) - exp(b)) = a + log(-expm1(b - a)): neither large exponents nor close ones hurt.
        if kind == "sub" and None not in (high := [self._exponent(part) for part in parts]):
            first, second = high[0] or 0, high[1] or 0
            change = self.apply("expm1", self.sub(second, first))
            return self.add(first, self._node("log", self.neg(change)))
        if kind == "add":
            for part, other in (parts, parts[::-1]):
                if self.value(part) == 1.0:
                    return self.apply("log1p", other)
        if kind == "sub" and self.value(parts[0]) == 1.0:
            return self.apply("log1p", self.neg(parts[1]))
        return None

    # -- exponentials ------------------------------------------------------------------------------

    def _exp(self, a: int) -> int | None:
        """An exponential whose exponent has a logsumexp subtracted, by shares in that sum."""
        line = self._linear(a)
        sums = [
            node
            for node, c in line.items()
            if node is not None and c < 0 and self.nodes[node][0] == "logsumexp"
        ]
        changed = False
        for node in sums:
            changed = self._shared(line, node) or changed
        return self._node("exp", self._from(line)) if changed else None

    def _shared(self, line: Linear, total: int) -> bool:
        """Take from a line what pairs exponents of a sum with it: ``k (a - logsumexp(a, b))`` is a share."""
        exponents = self._parts(total)
        left, found = -line[total], []
        # Greedy: the exponent that fits the line exactly first, as a wrong one would leave a rest that no
        # share explains.
        for exponent in sorted(exponents, key=lambda e: self._fit(line, self._linear(e), left), reverse=True):
            part = self._linear(exponent)
            k = min(left, self._ratio(line, part))
            if k > 0:
                _accumulate(line, part, -k)
                left -= k
                found.append((exponent, k))
        if not found:
            return False
        line[total] = -left
        for exponent, k in found:
            _accumulate(line, {self.share(exponent, exponents): 1.0}, k)
        _accumulate(line, {}, 0.0)
        return True

    def _fit(self, line: Linear, part: Linear, k: float) -> tuple[bool, int]:
        """Exact matches first, then those with more in common."""
        rest = dict(line)
        _accumulate(rest, part, -k)
        exact = all(self.nodes[node][0] == "logsumexp" for node in rest if node is not None)
        return exact, len(part.keys() - {None})

    @staticmethod
    def _ratio(line: Linear, part: Linear) -> float:
        """How often a line holds another; constants fit any number of times."""
        return min(
            (line.get(node, 0.0) / c for node, c in part.items() if node is not None), default=math.inf
        )

    def _power(self, a: int, power: float) -> int | None:
        exponent = self._exponent(a)
        if exponent is not None:
            return self.apply("exp", self.mul(self.number(power), exponent))
        if self.nodes[a][0] == "cosh" and power < 0:
            return super().pow(self.apply("sech", self.nodes[a][1]), self.number(-power))
        if power < 0 or power != int(power):
            exponents = self._sum(a)
            if exponents is not None:
                return self.apply("exp", self.mul(self.number(power), self._total(exponents)))
        return None

    def _total(self, exponents: Sequence[int]) -> int:
        return exponents[0] if len(exponents) == 1 else self.logsumexp(exponents)

    def _quotient(self, a: int, b: int) -> int | None:
        """By a sum of exponentials, or what is made of them."""
        kind, *parts = self.nodes[b]
        terms = self._terms(a) or []
        grows = any(exponent is not None for _, _, exponent in terms)
        if kind == "cosh":
            if self.nodes[a] == ("sinh", parts[0]):
                return self.apply("tanh", parts[0])
            if not grows:
                return self.mul(a, self.apply("sech", parts[0]))
        if kind == "mul" and any(self._below(part) is not None for part in parts):
            return self.div(self.div(a, parts[0]), parts[1])
        exponent = self._below(b)
        if exponent is None:
            if kind == "pow" and self.nodes[parts[0]][0] == "cosh" and (self.value(parts[1]) or 0) > 0:
                return self.mul(a, super().pow(self.apply("sech", self.nodes[parts[0]][1]), parts[1]))
            return None
        # Only where numerator and denominator both have exponentials can they overflow together.
        if not grows or not self._short(exponent, *(up for _, _, up in terms if up is not None)):
            return self.mul(a, self.apply("exp", exponent))
        found = self._tanh(terms, self._sum(b) or [])
        if found is not None:
            return found
        result = self.number(0.0)
        for c, factor, up in terms:
            one = self.apply("exp", exponent if up is None else self.add(up, exponent))
            one = self.mul(self.number(c), one if factor is None else self.mul(factor, one))
            result = self.add(result, one)
        return result

    def _below(self, b: int) -> int | None:
        """The exponent of ``1/b``, where that is an exponential."""
        kind, *parts = self.nodes[b]
        power = self.value(parts[1]) if kind == "pow" else 1.0
        exponents = self._sum(parts[0] if kind == "pow" else b) if power is not None else None
        return None if exponents is None else self.mul(self.number(-(power or 0.0)), self._total(exponents))

    def _tanh(self, terms: Sequence[Term], exponents: Sequence[int]) -> int | None:
        """``c (exp(a) - exp(b))/(exp(a) + exp(b))``, which near its zero has more digits as a tanh."""
        if len(terms) != 2 or len(exponents) != 2 or any(factor is not None for _, factor, _ in terms):
            return None
        zero, scales = self.number(0.0), []
        for exponent in exponents:
            for c, _, up in terms:
                over = self._linear(self.sub(zero if up is None else up, exponent))
                if set(over) <= {None}:
                    scales.append(c * math.exp(over.get(None, 0.0)))
                    break
        if len(scales) != 2 or scales[0] != -scales[1]:
            return None
        half = self._linear(self.mul(self.number(0.5), self.sub(exponents[0], exponents[1])))
        return self.mul(self.number(scales[0]), self.apply("tanh", self._from(half)))

    def _beside_one(self, c: float, a: int, sign: float) -> int | None:
        """``c + sign a`` where a is close to a number: ``exp(u) - 1``, ``1 + tanh(u)``, ``1 - cos(u)``."""
        scale, inner = self._scaled(a)
        kind, *parts = self.nodes[inner]
        scale *= sign
        exponent = self._exponent(inner)
        if exponent is not None and scale == -c:
            at, *place = self.nodes[exponent]
            # 1 - softmax_i is the sum of the other shares: no difference of nearly equal numbers.
            if at == "item":
                exponents = self._parts(self._parts(exponent)[0])
                own, rest = exponents[place[0]], [e for i, e in enumerate(exponents) if i != place[0]]
                others = self._total(rest)
                return self.mul(self.number(c), self.apply("exp", self.share(others, [own, others])))
            return self.mul(self.number(scale), self.apply("expm1", exponent))
        if kind == "tanh" and abs(scale) == abs(c):
            u = parts[0] if scale == c else self.neg(parts[0])
            # 1 + tanh u = 2 exp(u) / (exp(u) + exp(-u)), twice a share.
            share = self.share(u, [u, self.neg(u)])
            return self.mul(self.number(2 * c), self.apply("exp", share))
        if kind in ("pow", "mul") and scale == -c:
            base, twice = parts[0], parts[1] if kind == "mul" else None
            if self.nodes[base][0] == "tanh" and (twice == base or self.value(parts[1]) == 2.0):
                sech = self.apply("sech", self.nodes[base][1])
                return self.mul(self.number(c), super().pow(sech, self.number(2.0)))
        if kind in ("cos", "cosh") and (scale == -c or (kind, scale) == ("cos", c)):
            half = {"cos": "cos" if scale == c else "sin", "cosh": "sinh"}[kind]
            square = self.pow(self.apply(half, self.mul(self.number(0.5), parts[0])), self.number(2.0))
            return self.mul(self.number(2 * c if kind == "cos" else -2 * c), square)
        if kind == "sqrt" or (kind == "pow" and self.value(parts[1]) == 0.5):
            return self._root_less(c, scale, parts[0])
        return None

    def _root_less(self, c: float, scale: float, inner: int) -> int | None:
        """``scale sqrt(k^2 + u) - scale k``, as of a smoothed absolute value."""
        # sqrt(k^2 + u) - k = k (sqrt(1 + u / k^2) - 1), whose digits `sqrt1pm1` keeps for small u.
        k = -c / scale
        line = self._linear(inner)
        if not (k > 0 and line.pop(None, 0.0) == k * k > 0 and line):
            return None
        u = self.div(self._from(line), self.number(k * k))
        return self.mul(self.number(-c), self.apply("sqrt1pm1", u))

    # -- sums of multiples -------------------------------------------------------------------------

    def _linear(self, a: int) -> Linear:
        """A node as a sum of multiples of others; a copy, to be changed by whoever asks."""
        if a not in self._lines:
            line: Linear = {}
            waiting: list[tuple[float, int]] = [(1.0, a)]
            for _ in range(MOST_TERMS):
                if not waiting:
                    break
                c, node = waiting.pop()
                kind, *parts = self.nodes[node]
                scale, rest = self._scaled(node)
                if kind == "number":
                    _accumulate(line, {None: parts[0]}, c)
                elif kind in ("add", "sub"):
                    waiting += [(c, parts[0]), (c if kind == "add" else -c, parts[1])]
                elif kind == "div" and (value := self.value(parts[1])) is not None:
                    waiting.append((c / value, parts[0]))
                elif rest != node:
                    waiting.append((c * scale, rest))
                else:
                    _accumulate(line, {node: 1.0}, c)
            self._lines[a] = {a: 1.0} if waiting else line
        return dict(self._lines[a])

    def _short(self, *exponents: int) -> bool:
        """Whether exponents are short enough to be added: their sum is written out anew."""
        return all(len(self._linear(exponent)) <= MOST_ATOMS for exponent in exponents)

    def _from(self, line: Linear) -> int:
        result = self.number(line.get(None, 0.0))
        for node in sorted(node for node in line if node is not None):
            result = self.add(self.mul(self.number(line[node]), node), result)
        return result


def _accumulate(line: Linear, other: Linear, k: float) -> None:
    """Add a multiple of another line; what cancels is gone."""
    for node, c in other.items():
        line[node] = line.get(node, 0.0) + k * c
    for node in [node for node, c in line.items() if c == 0]:
        del line[node]
