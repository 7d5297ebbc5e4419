"""Titles and axes of the theory's figures, by experiment and panel of series.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """Title and axes of a panel; mathematics between dollar signs."""

    title: str
    x: str
    y: str
    log: str = ""
    """The axes that are logarithmic: ``x``, ``y`` or ``xy``."""
    cells: str = ""
    """The quantity that the colours of a heat map show."""
    limits: tuple[float, float] | None = None
    """Limits of the colours, or else of the y axis; None: from the least to the largest value."""
    least: float | None = None
    """Lowest start of the y axis; values below are rounding errors, or of no interest."""


_ROUNDING = 1e-20
_T = "iteration $t$"
_GAP = r"$f(\theta_t)-f^\ast$"
_KAPPA = r"condition number $\beta/\alpha$"
_K_STAR = r"non-zeros $k^\ast$"
_DENSE = "gradient steps of a dense phase"
_EPOCHS = "epochs trained"
_FAMILIES = ("F1", "F1'", "F3")
_RESTORED = {"resnet6_w32_s8": "basic blocks", "resnet8_bottleneck_s8": "bottlenecks"}
_FLOOR = r"$\mathbb{E}\,\Vert\theta-\theta^\ast\Vert^2$"

PANELS: Mapping[str, Mapping[str, Plot]] = {
    "t2_rate": {
        "gap": Plot("gap by iteration", _T, _GAP, "y", least=_ROUNDING),
        "kappa": Plot("iterations to the tolerance", _KAPPA, "iterations", "xy"),
    },
    "t2_floor": {
        "alpha": Plot("by curvature", r"$1/\alpha$", _FLOOR, "xy"),
        "sigma": Plot("by variance", r"$\sigma^2$", _FLOOR, "xy"),
        "batch": Plot("by batch size", "batch size", _FLOOR, "xy"),
    },
    "t1_rate": {
        "gap": Plot("gap by iteration", _T, _GAP, "y", least=_ROUNDING),
        "ratio": Plot(
            "slowest step",
            r"$k \,/\, 160\,k^\ast(\beta/\alpha)^2$",
            "largest ratio of gaps in a step",
            "x",
        ),
    },
    "fail": {
        "kmax": Plot("largest trap", _KAPPA, "largest stuck $k$", "xy"),
        "trap": Plot("IHT from the trap", _T, "gap, of the trap's", "xy", least=_ROUNDING),
    },
    "t3": {
        "iterations": Plot(
            "by iterations",
            "iterations $T$",
            r"root mean square of $\Vert\nabla f\Vert_\infty$",
            "y",
        ),
        "size": Plot("by size", "$B$", r"least $\Vert\nabla f\Vert_\infty$", "xy", least=1e-3),
    },
    "t1_floor": {
        "floor": Plot("", r"$\sigma^2$", r"$\mathbb{E} f(\theta)-f^\ast$", "xy"),
    },
    "t1_gap": {
        "stuck": Plot("wrong start", "size $R$ of wrong entries", r"last $f(\theta)-f^\ast$", "x"),
        "vacuous": Plot("unique minimiser", _KAPPA, "$k$ asked for, over $N$", "xy"),
    },
    "c1": {
        "error": Plot(
            "mapping error", "passes of a dense phase", r"error over $\beta\eta L$", "xy"
        ),
        "gap": Plot("gap by phase", "phase", _GAP, "y", least=_ROUNDING),
    },
    "phases": {
        **{
            f"cost_{family}": Plot(f"steps needed, {family}", _DENSE, "gradient steps", "xy")
            for family in _FAMILIES
        },
        **{
            f"success_{family}": Plot(
                f"success, {family}", _DENSE, "solved (%)", "x", limits=(-4.0, 104.0)
            )
            for family in _FAMILIES
        },
    },
    "recovery": {
        "success": Plot("no noise", _K_STAR, "solved", "x"),
        "error": Plot("no noise", _K_STAR, "relative error", "xy", least=1e-8),
        "success_noise": Plot("with noise", _K_STAR, "support found", "x"),
        "error_noise": Plot("with noise", _K_STAR, "relative error", "xy", least=1e-8),
        "condition": Plot("designs", _K_STAR, "condition, at least", "xy"),
    },
    "bridge": {
        "cpl": Plot(
            "concentration", _EPOCHS, r"$\Vert T_k(\nabla f)\Vert^2 / \Vert\nabla f\Vert^2$", "y"
        ),
        "alpha": Plot("local CPL", _EPOCHS, r"$2\,\Vert T_k(\nabla f)\Vert^2 / f$", "y"),
        "smoothness": Plot("curvature", _EPOCHS, r"$d^\top H d$", "y"),
        "condition": Plot("$k$ asked for", _EPOCHS, r"$160\,k^\ast(\beta/\alpha)^2 / N$", "y"),
    },
    "restore": {
        f"{model}_{percent / 100:g}": Plot(
            f"{name}, {percent} %",
            r"$\varepsilon$",
            "gradient norm of a filter",
            "xy",
            limits=(1e-2, 5e3),
        )
        for model, name in _RESTORED.items()
        for percent in (90, 95, 98)
    },
    "phase_diagram": {
        panel: Plot(title, r"$k/k^\ast$", _KAPPA, "xy", cells="solved (%)", limits=(0.0, 100.0))
        for panel, title in (
            ("typical", "random problems"),
            ("trap_bad", "traps, from the trap"),
            ("trap_zero", "traps, from zero"),
        )
    },
}
