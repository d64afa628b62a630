"""Pictures of studies: each draws the arrays of one study by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .._saving import Study
from ..linear.trust import VALID
from .style import COLORS, MARKERS, SIZES, colored, handle, marks, method_legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "excess": r"excess risk  $\frac{1}{2}\,\mathrm{tr}(H M)$",
    "stiffest": r"variance, stiffest mode  $\lambda = 1$",
    "flattest": r"variance, flattest mode  $\lambda = 1/\kappa$",
}


MOST = 5
"""Curves that a panel shows of as many methods or fewer; of more it leaves some out."""


def _few(names: Iterable[str], *left_out: str) -> list[str]:
    """The names, where there are many without these."""
    names = list(names)
    return [name for name in names if len(names) <= MOST or name not in left_out]


def _condition_number(study: Study) -> Figure:
    figure, axes = panels(3, 2, 4.2, 2.5, sharex=True, sharey="row")
    trusted = study["validity"] < VALID
    # At a minimum damped Newton is SFN; what takes no Hessian has none to subsample.
    left_out = ("damped Newton", "LRSFN"), ("momentum", "Adam")
    chosen = [_few(study["methods"], *names) for names in left_out]
    for column, title in enumerate(("exact Hessian", "subsampled Hessian (entry std 0.01)")):
        axes[0, column].set_title(title)
        for row, quantity in enumerate(("excess", "stiffest", "flattest")):
            axis = axes[row, column]
            for m, name in enumerate(study["methods"]):
                if name not in chosen[column]:
                    continue
                values = study["theory"][column, m, :, :, row]
                axis.plot(study["kappa"], np.where(trusted[column, m], values[:, 0], np.nan), **colored(name))
                # The whole curve, faint and below: where theory is not valid nothing else is drawn over it.
                axis.plot(study["kappa"], values[:, 0], color=COLORS[name], lw=0.8, alpha=0.5, zorder=1.5)
                if column:
                    axis.plot(
                        study["kappa"],
                        np.where(trusted[column, m], values[:, 1], np.nan),
                        color=COLORS[name],
                        ls=":",
                        lw=1,
                    )
                marks(
                    axis,
                    name,
                    study["measured_kappa"][column],
                    study["measured"][column, m, :, :, row],
                    study["measured_validity"][column, m] < VALID,
                )
            axis.set(xscale="log", yscale="log")
            if column == 0:
                axis.set_ylabel(LABELS[quantity])
    for row, (low, high) in enumerate(_theory_range(study["theory"])):
        axes[row, 0].set_ylim(low, high)
    for axis in axes[-1]:
        axis.set_xlabel(r"condition number $\kappa$")
    extra = [
        handle(color="0.3", lw=0.8, alpha=0.5, label="theory outside validity"),
        handle(color="0.3", ls=":", lw=1, label="level L2"),
        handle(color="0.3", marker="o", ls="", label="SDE (filled)"),
        handle(color="0.3", marker="x", ls="", label="iteration"),
    ]
    method_legend(figure, study["methods"], extra)
    p = study.parameters
    figure.suptitle(
        rf"Equal step $\alpha = {p['step']:g}$: noise against condition number ($d = {p['dim']}$, $\gamma = "
        rf"{p['damping']:g}$, $r = {p['rank']}$)",
        fontsize=10,
    )
    return figure


def _theory_range(theory: np.ndarray) -> list[tuple[float, float]]:
    """Limits of the rows by theory: an iteration outside validity has no variance, and may lie far above."""
    rows = [theory[..., 0, row] for row in range(theory.shape[-1])]  # level L
    return [(0.3 * float(np.nanmin(row)), 5 * float(np.nanmax(row))) for row in rows]


def _equal_rates(study: Study) -> Figure:
    figure, axes = panels(1, 3, 3.2, 2.9, sharex=True)
    chosen = _few(study["methods"], "damped Newton")  # at a minimum it is SFN
    everywhere = np.ones(len(study["measured_kappa"]), dtype=bool)
    for row, (axis, quantity) in enumerate(zip(axes[0], ("excess", "stiffest", "flattest"), strict=True)):
        for m, name in enumerate(study["methods"]):
            if name not in chosen:
                continue
            axis.plot(study["kappa"], study["theory"][m, :, row], **colored(name))
            marks(axis, name, study["measured_kappa"], study["measured"][m, :, :, row], everywhere)
        axis.set(xscale="log", yscale="log", xlabel=r"condition number $\kappa$", title=LABELS[quantity])
    extra = [
        handle(color="0.3", marker="x", ls="", label="iteration"),
        handle(color="0.3", marker="o", ls="", label="SDE"),
    ]
    method_legend(figure, chosen, extra)
    figure.suptitle(
        "Equal slowest rate instead of equal step: only the truncated tail at small condition numbers is "
        "noisier than SGD",
        fontsize=10,
    )
    return figure


def _step_limit(study: Study) -> Figure:
    names, p = study["methods"], study.parameters
    figure, axes = panels(2, 3, 3.3, 2.9, sharex=True, sharey=True)
    kappa, tau = study["kappa"], study["tau"]
    from matplotlib.colors import TwoSlopeNorm

    # White is radius one, where moments neither grow nor decay.
    norm = TwoSlopeNorm(0.0, -1.0, 1.0)
    image = None
    for m, (axis, name) in enumerate(zip(axes.flat, names, strict=False)):
        image = axis.pcolormesh(
            kappa,
            tau,
            np.log10(study["chain_radius"][m]),
            norm=norm,
            cmap="PuOr_r",
            shading="nearest",
            rasterized=True,
        )
        _contour(axis, kappa, tau, np.log10(study["limit"][m] / p["step"]), colors="k", linewidths=1.8)
        with np.errstate(divide="ignore"):  # no step at all is -inf: no line
            _contour(
                axis,
                kappa,
                tau,
                np.log10(study["exact_limit"][m] / p["step"]),
                colors="#D55E00",
                linewidths=1.4,
                linestyles=[(0, (5, 1))],
            )
        _contour(
            axis,
            kappa,
            tau,
            np.log10(study["chain_radius"][m]),
            colors="#56B4E9",
            linewidths=1.5,
            linestyles="--",
        )
        _contour(axis, kappa, tau, study["exponent"][m], colors="#CC3377", linewidths=1.5, linestyles="-.")
        if name in ("SGD", "SFN", "LRSFN"):  # the undamped and LM iterations have no second moment to measure
            _contour(
                axis,
                kappa,
                tau,
                np.log10(study["iteration_radius"][m]),
                colors="#117733",
                linewidths=1.3,
                linestyles=":",
            )
        _smaller_limits(axis, kappa, tau, study["limit"][m])
        axis.set(xscale="log", yscale="log", title=name)
        axis.grid(False)
    for axis in axes[1]:
        axis.set_xlabel(r"condition number $\kappa$")
    for axis in axes[:, 0]:
        axis.set_ylabel(r"curvature noise $\tau$")
    legend = axes.flat[len(names)]
    legend.axis("off")
    legend.legend(
        handles=[
            handle(color="k", lw=1.8, label=rf"theory: largest step $= {p['step']:g}$"),
            handle(
                color="#D55E00", ls=(0, (5, 1)), label=rf"each mode exactly: largest step $= {p['step']:g}$"
            ),
            handle(color="#56B4E9", ls="--", label="measured: chain's radius = 1"),
            handle(color="#117733", ls=":", label="measured: iteration's radius = 1"),
            handle(color="#CC3377", ls="-.", label="measured: iteration, almost sure"),
            handle(color="0.45", lw=0.8, label="theory: largest step 0.1, 0.01, ..."),
        ],
        loc="center",
        fontsize=8,
    )
    if image is not None:
        figure.colorbar(
            image,
            ax=legend,
            orientation="horizontal",
            label=r"$\log_{10}$ measured radius, chain",
            shrink=0.8,
            extend="both",
        )
    figure.suptitle(
        rf"Curvature noise against the largest stable step: $\alpha = {p['step']:g}$, $\gamma = "
        rf"{p['damping']:g}$, two modes $(1, 1/\kappa)$",
        fontsize=10,
    )
    return figure


def _contour(axis: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, **style: Any) -> None:
    # Where there is no number, far beyond the line: it would be torn there.
    finite = np.nan_to_num(values, nan=5.0, posinf=5.0, neginf=-5.0)
    if finite.min() < 0 < finite.max():  # matplotlib warns where there is no such line
        axis.contour(x, y, finite, levels=[0.0], **style)


def _smaller_limits(axis: Axes, kappa: np.ndarray, tau: np.ndarray, limit: np.ndarray) -> None:
    levels = [level for level in (1e-3, 1e-2, 1e-1, 1.0) if limit.min() < level < limit.max()]
    if levels:
        lines = axis.contour(kappa, tau, limit, levels=levels, colors="0.45", linewidths=0.8)
        axis.clabel(lines, fmt="%g", fontsize=6.5)


def _momentum(study: Study) -> Figure:
    figure, axes = panels(1, 2, 4.4, 3.4)
    plane, lines = axes[0]
    beta, noise, log = study["beta"], study["noise"], np.log2(study["ratio"])
    from matplotlib.colors import TwoSlopeNorm

    image = plane.pcolormesh(
        1 - beta,
        noise,
        log,
        norm=TwoSlopeNorm(0.0, -5.0, 1.0),
        cmap="PuOr",
        shading="nearest",
        rasterized=True,
    )
    figure.colorbar(image, ax=plane, label=r"$\log_2$ of the largest step over SGD's")
    edge = np.linspace(0.01, 0.99, 99)
    plane.plot(
        edge,
        np.sqrt(edge / (2 - edge)),
        "--",
        color="#56B4E9",
        lw=1.5,
        zorder=3,
        label=r"$s^2/h^2 = (1-\beta)/(1+\beta)$",
    )
    # Without momentum the ratio is one at any noise, which is no boundary.
    _contour(plane, 1 - beta[1:], noise, log[:, 1:], colors="k", linewidths=1.8)
    plane.set(xscale="log", yscale="log", xlabel=r"$1 - \beta$", ylabel="noise of the curvature $s/h$")
    plane.set(ylim=(noise[0], noise[-1]), title="one mode")
    plane.invert_xaxis()
    plane.grid(False)
    plane.legend(loc="lower left", fontsize=8)
    for k, one in enumerate(study["betas"]):
        color = list(COLORS.values())[k]
        whole = 1 / (1 - one)
        lines.plot(study["batch"], whole * study["limit"][0, k], color=color, label=rf"$\beta = {one:g}$")
        if one:  # without momentum both are the same
            lines.plot(study["batch"], whole * study["limit"][1, k], color=color, ls=":", lw=1.2)
        lines.plot(study["measured_batch"], whole * study["measured"][k], "o", color=color, ms=4, mfc="white")
    lines.set(xscale="log", yscale="log", xlabel="batch", title="streaming least squares")
    lines.set_ylabel(r"largest step times $1/(1-\beta)$")
    extra = [
        handle(color="0.3", ls=":", lw=1.2, label="Nesterov"),
        handle(color="0.3", marker="o", ls="", mfc="white", label="sampled"),
    ]
    shown = lines.get_legend_handles_labels()[0]
    # Room for the legend above the curves.
    lines.set_ylim(top=4000)
    lines.legend(handles=[*shown, *extra], fontsize=7, ncols=3, loc="upper left")
    figure.suptitle(
        "Momentum pays in large batches: in small ones its longer memory takes a shorter step", fontsize=10
    )
    return figure


def _metrics(study: Study) -> Figure:
    figure, axes = panels(1, 2, 4.4, 3.4)
    left, right = axes[0]
    names, dashes = list(study["names"]), ("-", "--", ":")
    for m, name in enumerate(names):
        for g, (exponent, dash) in enumerate(zip(study["exponent"], dashes, strict=True)):
            if name == "Adam" or g == 0:  # the others do not look at the noise
                label = name if name != "Adam" else rf"Adam, $\Sigma = H^{exponent:g}$"
                left.plot(study["angle"], study["kappa"][m, g], dash, color=COLORS[name], label=label)
    left.set(
        yscale="log",
        xlabel="angle of the axes to the coordinates, degrees",
        ylabel=r"condition number of $PH$",
    )
    left.legend(fontsize=7)
    for m, name in enumerate(names[:2]):
        for a, angle in enumerate(study["shown"]):
            dash = ("-", "--")[a]
            label = f"{name}, {angle:g} degrees"
            right.plot(study["iteration"], study["loss"][m, a], dash, color=COLORS[name], label=label)
            value, error, _ = study["measured"][m, a].T
            # SGD's marks at both angles coincide: side by side both are seen.
            shift = 1 + 0.04 * (a - 0.5)
            face = COLORS[name] if a else "white"
            right.errorbar(
                study["marked"] * shift,
                value,
                2 * error,
                fmt=MARKERS[name],
                color=COLORS[name],
                mfc=face,
                ms=4.5,
                lw=0.9,
            )
    right.set(xscale="log", yscale="log", xlabel="iteration", ylabel="mean loss", xlim=(10, None))
    right.legend(fontsize=7)
    right.set_title(r"equal fastest rate, $\Sigma = H$")
    kappa = study.parameters["kappa"]
    figure.suptitle(
        rf"A rotation changes Adam, not SGD: modes $1$, $1/\kappa$; $\kappa = {kappa:g}$", fontsize=10
    )
    return figure


def _sharpness(study: Study) -> Figure:
    figure, axes = panels(1, 2, 4.4, 3.4)
    left, right = axes[0]
    betas, batch = study["betas"], study["batch"]
    colors = (COLORS["SGD"], COLORS["momentum"])
    ends = (0, len(batch) - 1)
    for m, beta in enumerate(betas):
        name = rf"$\beta = {beta:g}$"
        for k, dash in zip(ends, ("--", "-"), strict=True):
            # With momentum and all samples it is seen in bursts: nothing joins the windows between them.
            bursts = bool(k and beta)
            label = f"{name}, batch {batch[k]}" + (", all" if k else "") + (" (in bursts)" if bursts else "")
            how = "o" if bursts else dash
            left.plot(study["iteration"], study["course"][m, k], how, color=colors[m], ms=4.5, label=label)
        value, error = study["late"][m].T
        right.errorbar(batch, value, 2 * error, fmt="o-", color=colors[m], ms=4.5, lw=1.2, label=name)
    for axis in (left, right):
        for level, color in (
            (2.0, colors[0]),
            (2 * (1 + betas[1]), colors[1]),
            (2 * (1 - betas[1]), colors[1]),
        ):
            axis.axhline(level, color=color, ls=":", lw=1.2)
        axis.set(yscale="log", ylim=(0.08, 30.0))
    left.set(xlabel="iteration", ylabel=r"batch sharpness $\times$ step", title="in training")
    right.set(xscale="log", xlabel="batch", title="the later half of a run")
    levels = handle(color="0.3", ls=":", lw=1.2, label=r"theory: $2(1+\beta)$, $2$, $2(1-\beta)$")
    shown = left.get_legend_handles_labels()[0]
    left.legend(handles=[*shown, levels], fontsize=7, ncols=2, loc="upper left")
    right.legend(fontsize=7, loc="upper left")
    samples = study.parameters["samples"]
    figure.suptitle(
        f"Momentum holds batch sharpness between two levels: {samples} digits, 64-24-10, tanh", fontsize=10
    )
    return figure


def _real_data(study: Study) -> Figure:
    settings, names = study["settings"], study["methods"]
    figure, axes = panels(1, len(settings), 4.4, 3.6, sharex=True, sharey=True)
    fields = list(study["fields"])
    for s, axis in enumerate(axes[0]):
        for m, name in enumerate(names):
            predicted, measured = study["variances"][s, m]
            valid = study["table"][s, m, fields.index("validity")] < VALID
            label = f"{name} (validity {study['table'][s, m, fields.index('validity')]:.2f})"
            axis.plot(
                predicted,
                measured,
                MARKERS[name],
                color=COLORS[name],
                mfc=COLORS[name] if valid else "white",
                ms=SIZES[name],
                label=label,
            )
        finite = study["variances"][np.isfinite(study["variances"])]
        ends = [finite.min(), finite.max()]
        axis.plot(ends, ends, color="0.4", lw=0.8)
        batch, hessian_batch, damping = settings[s]
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="predicted variance of a mode",
            title=rf"$b = {batch:g}$, $b_h = {hessian_batch:g}$, $\gamma = {damping:g}$",
        )
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("measured variance of a mode")
    figure.suptitle(
        "Logistic regression, breast-cancer table: real minibatch steps against theory (hollow: outside "
        "validity)",
        fontsize=10,
    )
    return figure


def _theorem(study: Study) -> Figure:
    figure, axes = panels(1, 1, 5.0, 3.6)
    axis = axes[0, 0]
    # An escape may take exponentially long: beyond any axis.
    curves = np.where(np.abs(study["y"]) < 1e30, study["y"], np.nan)
    for k, (name, y) in enumerate(zip(study["names"], curves, strict=True)):
        # The longest name first: one may begin with another.
        known = next(
            (method for method in sorted(COLORS, key=len, reverse=True) if str(name).startswith(method)), None
        )
        dash = "--" if str(name).endswith("flat tail") else "-"
        axis.plot(study["x"], y, dash, color=COLORS.get(known or "", f"C{k}"), label=str(name))
    finite = curves[np.isfinite(curves)]
    positive = bool(len(finite)) and bool((finite > 0).all())
    name = study.parameters["axis"]
    symbol = {"lam": r"|\lambda|", "lam_next": r"\lambda_{r+1}", "gamma": r"\gamma"}.get(name, name)
    axis.set(
        xscale="log",
        yscale="log" if positive else "symlog",
        xlabel=f"${symbol}$",
        ylabel=f"${study.parameters['quantity']}$",
    )
    if not positive and len(finite):
        axis.set_yscale("symlog", linthresh=max(1e-3 * float(np.max(np.abs(finite))), 1e-12))
    axis.legend(fontsize=7)
    axis.set_title(
        ", ".join(f"{key} = {float(value):.3g}" for key, value in sorted(study.parameters["fixed"].items())),
        fontsize=7,
    )
    figure.suptitle(study.parameters["title"], fontsize=9, wrap=True)
    return figure


def _exit_time(study: Study) -> Figure:
    figure, axes = panels(1, 1, 4.4, 3.2)
    axis, p = axes[0, 0], study.parameters
    axis.plot(study["t"], study["survival"], color=COLORS["SFN"], label="$P(T > t)$")
    axis.axvline(p["mean"], color=COLORS["Newton"], ls="--", lw=1.2, label=f"mean {p['mean']:.4g}")
    axis.set(xlabel=r"$t = k\alpha$", ylabel="share that has not left", ylim=(0, 1.03))
    axis.legend()
    figure.suptitle(
        rf"First exit from $|\delta| < {p['radius']:.4g}$: rate {p['rate']:.4g}, diffusion "
        rf"{p['diffusion']:.4g}",
        fontsize=9,
    )
    return figure


def _exact_mode(study: Study) -> Figure:
    figure, axes = panels(1, 2, 3.8, 3.0, sharex=True)
    names = ("mean-square", "almost sure")
    for axis, key, level, name, limit in zip(
        axes[0], ("square", "growth"), (1.0, 0.0), names, study["limits"], strict=True
    ):
        axis.plot(study["step"], np.where(np.isfinite(study[key]), study[key], np.nan), color=COLORS["SFN"])
        axis.axhline(level, color="0.5", lw=0.8)
        if 0 < limit < study["step"][-1]:
            axis.axvline(limit, color=COLORS["Newton"], ls="--", lw=1.2, label="largest stable step")
            axis.legend()
        axis.set(xlabel=r"step $\alpha$", title=f"{name} limit {limit:.4g}")
    axes[0, 0].set_ylabel(r"$E(1 - \alpha X)^2$")
    axes[0, 1].set_ylabel(r"$E\,\log|1 - \alpha X|$")
    if not np.isfinite(study["square"]).any():
        axes[0, 0].text(0.5, 0.5, "infinite at every step", transform=axes[0, 0].transAxes, ha="center")
    figure.suptitle(
        rf"{study.parameters['method']}, one mode, $\lambda = {study.parameters['curvature']:.4g}$, nothing "
        r"linearised",
        fontsize=9,
    )
    return figure


STUDIES: dict[str, Callable[[Study], Figure]] = {
    "condition-number": _condition_number,
    "equal-rates": _equal_rates,
    "step-limit": _step_limit,
    "momentum": _momentum,
    "metrics": _metrics,
    "sharpness": _sharpness,
    "real-data": _real_data,
    "theorem": _theorem,
    "exit-time": _exit_time,
    "exact-mode": _exact_mode,
}
