"""The column to predict: classes or a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cells import is_date, looks_numeric, numbers
from .columns import words_of
from .refusal import Refused

MAX_CLASSES = 20
"""Most whole numbers that are taken for classes."""

MAX_LABELS = 100
"""Most different words that are taken for classes."""


@dataclass(frozen=True)
class Target:
    """A column to predict, numbers if its cells are; `labels` are its words as they stand in the file.

    Attributes
    ----------
    numbers : array (n,) or None
        nan where there is nothing.
    labels : object array (n,)
        None where there is nothing.
    """

    name: str
    numbers: np.ndarray | None
    labels: np.ndarray
    truth: bool = False

    @property
    def given(self) -> np.ndarray:
        """Where there is something."""
        if self.numbers is not None:
            return ~np.isnan(self.numbers)
        return np.array([label is not None for label in self.labels], dtype=bool)

    def at(self, rows: np.ndarray) -> Target:
        """The same in some rows alone."""
        values = None if self.numbers is None else self.numbers[rows]
        return Target(self.name, values, self.labels[rows], self.truth)

    def names_classes(self) -> bool:
        """Whether a network takes it for classes: words, truth values, or few whole numbers."""
        if self.numbers is None or self.truth:
            return True
        found = np.unique(self.numbers)
        return len(found) <= MAX_CLASSES and bool(np.all(found % 1 == 0))

    def classes(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Class numbers, and the labels behind 0, 1, ..."""
        # By number where there are numbers: 1, 1.0 and 01 are one class.
        keys = self.labels.astype(str) if self.numbers is None else self.numbers
        found, first, place = np.unique(keys, return_index=True, return_inverse=True)
        names = tuple(str(self.labels[i]) for i in first)
        if len(found) == 1:
            raise ValueError(
                f"The target {self.name!r} has one class only ({names[0]}): there is nothing to tell apart."
            )
        return place, names

    def alike(self) -> list[str]:
        """A note where labels differ in upper and lower case alone: ``Yes`` and ``yes`` are two classes."""
        forms: dict[str, set[str]] = {}
        for label in {label for label in self.labels if label is not None}:
            forms.setdefault(label.casefold(), set()).add(label)
        alike = [" and ".join(map(repr, sorted(group))) for group in forms.values() if len(group) > 1]
        if self.numbers is not None or not alike:
            return []
        told = ", ".join(sorted(alike))
        return [f"labels that differ in upper and lower case alone are different classes: {told}"]

    def few_classes(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Class numbers for logistic regression, of which there are few."""
        place, names = self.classes()
        count, rows = len(names), len(place)
        if count == 2:
            return place, names
        if self.numbers is not None:
            # Twice each on average: whole numbers that hardly repeat are amounts, not classes.
            if count > min(MAX_CLASSES, rows // 2) or np.any(self.numbers % 1):
                raise Refused(
                    f"The target {self.name!r} holds numbers ({count} different ones in {rows} rows), which "
                    "logistic regression cannot predict.",
                    "",
                    {"model": "least-squares"},
                )
        elif count > min(MAX_LABELS, rows // 2):
            raise Refused(
                f"The target {self.name!r} holds {count} different words in {rows} rows: names rather than "
                "classes.",
                "Group them into fewer classes.",
            )
        return place, names

    def as_numbers(self) -> np.ndarray:
        """The numbers, for least squares."""
        if self.numbers is None:
            odd = next((i for i, label in enumerate(self.labels) if not looks_numeric(str(label))), 0)
            raise Refused(
                f"Column {self.name!r} holds text ({self.labels[odd]!r} in data row {odd + 1}), which least "
                "squares cannot predict.",
                "",
                {"model": "logistic"},
            )
        return self.numbers


def target_of(name: str, cells: np.ndarray, decimal: str) -> Target:
    """The target from its cells, which are text."""
    labels = words_of(cells)
    values, is_word, units, huge = numbers(cells, decimal)
    if huge:
        raise ValueError(
            f"The target {name!r} holds a number too large for a floating-point number: {huge[:20]}... "
            "Correct it."
        )
    if is_word.any() or len(units) > 1 or np.isnan(values).all():
        words = {label for label in labels if label is not None}
        # A slip of the pen or two makes no words of a column of dates.
        if words and sum(map(is_date, words)) > 0.9 * len(words):
            raise ValueError(
                f"The target {name!r} holds dates or times ({min(words)!r}). Give a number instead, such as "
                "days since the first."
            )
        return Target(name, None, labels)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values))) + 1
        raise ValueError(f"The target {name!r} holds an infinite value, in data row {row}. Correct it.")
    return Target(name, values, labels, truth="true or false" in units)
