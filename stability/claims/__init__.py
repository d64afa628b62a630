"""The claims as runnable studies: each returns the numbers behind one picture, and draws nothing.

Every study runs the public pieces (`Flow`, `linearize`, `simulate`) and nothing else, and records theory and
measurement side by side. ``quick=True`` is the small form of the same computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._saving import Study
from ._common import Check
from .density import check_density, density_study, density_table
from .escape import check_escape, escape_study, escape_table
from .lyapunov import check_lyapunov, lyapunov_study
from .memory import check_metrics, check_momentum, metrics_study, momentum_study
from .portrait import check_portrait, portrait_study
from .quadratics import check_condition_number, check_equal_rates, condition_number, equal_rates
from .real_data import breast_cancer, check_real_data, real_data_study, real_data_table
from .sharpness import check_sharpness, sharpness_study
from .steps import check_step_limit, step_limit
from .toys import check_toys, toys_study, toys_table
from .trajectory import check_trajectory, trajectory_study

__all__ = ["STUDIES", "Check", "breast_cancer", "check", "run", "summary"]

STUDIES: dict[str, Callable[..., Study]] = {
    "condition-number": condition_number,
    "step-limit": step_limit,
    "equal-rates": equal_rates,
    "momentum": momentum_study,
    "metrics": metrics_study,
    "sharpness": sharpness_study,
    "real-data": real_data_study,
    "portrait": portrait_study,
    "escape": escape_study,
    "trajectory": trajectory_study,
    "density": density_study,
    "lyapunov": lyapunov_study,
    "toys": toys_study,
}
_CHECKS: dict[str, Callable[[Study], list[Check]]] = {
    "condition-number": check_condition_number,
    "step-limit": check_step_limit,
    "equal-rates": check_equal_rates,
    "momentum": check_momentum,
    "metrics": check_metrics,
    "sharpness": check_sharpness,
    "real-data": check_real_data,
    "escape": check_escape,
    "toys": check_toys,
    "portrait": check_portrait,
    "lyapunov": check_lyapunov,
    "density": check_density,
    "trajectory": check_trajectory,
}
_TABLES: dict[str, Callable[[Study], str]] = {
    "real-data": real_data_table,
    "density": density_table,
    "escape": escape_table,
    "toys": toys_table,
}


def run(name: str, **options: Any) -> Study:
    """Run one study by name."""
    return STUDIES[name](**options)


def check(study: Study) -> list[Check]:
    """The statements that a study stands for, tested on its own numbers."""
    return _CHECKS[study.name](study)


def summary(study: Study) -> str:
    """The study's table for the terminal, where it has one."""
    return _TABLES[study.name](study) if study.name in _TABLES else ""
