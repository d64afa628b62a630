"""The goals, a measurement's rows, and the table; needs nothing but the measured document."""

from __future__ import annotations

from dataclasses import asdict, dataclass

CORES = {"one": "one core", "all": "all cores"}


@dataclass(frozen=True)
class Goal:
    """One row: our cost `ours` against `theirs` in one cell.

    `bound` "most": ours / theirs should be at most `goal` (a share of their time); "least": theirs / ours
    should be at least `goal` (times faster). ``goal=None`` is for information.
    """

    cell: str
    ours: str
    theirs: str
    goal: float | None
    bound: str = "least"

    @property
    def id(self) -> str:
        return f"{self.cell}: {self.ours} vs {self.theirs}"


def goals() -> list[Goal]:
    """Every row, in the table's order; unless it says NumPy only, for the library with its extra `fast`."""
    return [*_against_draw(), *_against_threads(), *_against_peers(), *_against_itself()]


def _against_draw() -> list[Goal]:
    numpy = [Goal(f"ou-{d}/one", "numpy", "draw", 1.35, "most") for d in (2, 16)]
    return numpy + [Goal(f"ou-{d}/one", "numba", "draw", 0.75, "most") for d in (2, 16)]


def _against_threads() -> list[Goal]:
    return [
        Goal(f"threads-{d}/all", f"{engine} x2", f"{engine} x1", 1.6)
        for d in (16, 128)
        for engine in ("numba", "numpy")
    ]


def _against_peers() -> list[Goal]:
    rows = [("ou-2", "diffrax", 3.0, 3.0), ("ou-16", "diffrax", 2.5, 2.5), ("ou-128", "diffrax", 1.3, 1.3)]
    rows += [
        ("ou-2", "torchsde", 8.0, None),
        ("ou-16", "torchsde", 8.0, None),
        ("ou-128", "torchsde", None, None),
    ]
    rows += [("ou-2", "sdeint", 100.0, None), ("ou-16", "sdeint", 30.0, None)]
    rows += [
        ("sfn-2", "diffrax", 15.0, None),
        ("sfn-2", "torchsde", 15.0, None),
        ("sfn-8", "diffrax", 3.0, None),
        ("sfn-8", "torchsde", 2.5, None),
    ]
    rows += [(name, "torchsde*", None, None) for name in ("ou-2", "ou-16", "ou-128", "sfn-2", "sfn-8")]
    rows += [("ou-2-diagonal", peer, None, None) for peer in ("diffrax", "torchsde")]
    return [
        Goal(f"{problem}/{cores}", engine, peer, goal if engine == "numba" else None)
        for problem, peer, one, all_ in rows
        for cores, goal in (("one", one), ("all", all_))
        if not (
            cores == "all"
            and (peer == "sdeint" or not problem.startswith("ou") or problem.endswith("diagonal"))
        )
        for engine in ("numba", "numpy")
    ]


def _against_itself() -> list[Goal]:
    return [Goal(f"covariance-{step:g}/one", "controlled", "plain", 30.0) for step in (0.01, 0.05)]


def rows(cells: dict[str, dict], goals: list[Goal]) -> list[dict]:
    """The rows of a document, from its cells: name -> {"unit", "contenders", "absent"}."""
    return [_row(goal, cells[goal.cell]) for goal in goals if goal.cell in cells]


def _row(goal: Goal, cell: dict) -> dict:
    row = {
        **asdict(goal),
        "id": goal.id,
        "unit": cell["unit"],
        "ours_cost": None,
        "theirs_cost": None,
        "ratio": None,
        "met": None,
        "status": "not available",
    }
    for name in (goal.ours, goal.theirs):
        if name not in cell["contenders"]:
            return {**row, "why": cell["absent"].get(name, "not measured")}
    ours, theirs = cell["contenders"][goal.ours], cell["contenders"][goal.theirs]
    wrong = [name for name in (goal.ours, goal.theirs) if not cell["contenders"][name]["right"]]
    ratio = ours["median"] / theirs["median"] if goal.bound == "most" else theirs["median"] / ours["median"]
    reached = None if goal.goal is None else not wrong and holds(ratio, goal.goal, goal.bound)
    why = f"{' and '.join(wrong)}: not the ensemble that was asked for" if wrong else ""
    return {
        **row,
        "ours_cost": ours["median"],
        "theirs_cost": theirs["median"],
        "ratio": ratio,
        "met": reached,
        "status": "WRONG" if wrong else "ok",
        "why": why,
    }


def holds(ratio: float, goal: float, bound: str) -> bool:
    return ratio <= goal if bound == "most" else ratio >= goal


def table(document: dict) -> str:
    """The rows as text, the goal beside each figure, and last a sentence naming the goals that are missed."""
    lines = [
        f"{'cell':<18} {'ours':<11} {'against':<9} {'ours':>10} {'theirs':>10} {'':<12} {'ratio':>7} "
        f"{'goal':>8}  met"
    ]
    lines += [_line(row) for row in document["rows"]]
    lines += [f"note: {note}" for note in document.get("notes", [])]
    return "\n".join([*lines, *verdict(document["rows"])])


def _line(row: dict) -> str:
    head = f"{row['cell']:<18} {row['ours']:<11} {row['theirs']:<9}"
    goal = "" if row["goal"] is None else f"{'<=' if row['bound'] == 'most' else '>='} {row['goal']:g}"
    if row["ratio"] is None:
        return f"{head} {'':>10} {'':>10} {'':<12} {'':>7} {goal:>8}  not available: {row['why']}"
    mark = (
        {True: "yes", False: "NO", None: ""}[row["met"]] if row["status"] == "ok" else f"WRONG ({row['why']})"
    )
    costs = f"{row['ours_cost']:>10.4g} {row['theirs_cost']:>10.4g} {row['unit']:<12}"
    return f"{head} {costs} {row['ratio']:>7.3g} {goal:>8}  {mark}".rstrip()


def verdict(rows: list[dict]) -> list[str]:
    """Which goals could not be measured, and (last) which are missed."""
    open_ = [row["id"] for row in rows if row["goal"] is not None and row["met"] is None]
    missed = [row["id"] for row in rows if row["met"] is False]
    judged = sum(row["met"] is not None for row in rows)
    wrong = [row["id"] for row in rows if row["status"] == "WRONG" and row["goal"] is None]
    lines = [f"Not available: {len(open_)} goals ({'; '.join(open_)})."] if open_ else []
    lines += [f"WRONG, without a goal: {'; '.join(wrong)}."] if wrong else []
    return [*lines, f"Missed: {'; '.join(missed)}." if missed else f"Missed: none of {judged}."]
