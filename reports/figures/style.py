"""One look for all figures: readable in grey, by colour-blind readers, on white and on black."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1b1b1c"
"""Text, axes and the dense baseline. The report replaces it by the text colour of the page."""

# Okabe and Ito's palette without yellow (too light on white) and black (the dense baseline).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), "--")
# A method that the suite brings keeps its place whatever else a figure shows.
_KNOWN = ("acdc", "gmp", "rigl", "top_kast", "one_shot", "str")
_LINE = 80
_FILLS = ("full", "none", "left", "bottom", "right", "top")


@dataclass(frozen=True)
class Look:
    """How one series is drawn."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    fill: str = "full"


def looks(series: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """Return the look of each (method, label): a method's colour and marker, a variant's filling.

    The dense baseline is drawn in ink. Methods that the suite does not know follow in
    alphabetical order.
    """
    pairs = list(dict.fromkeys(series))
    methods = [*_KNOWN, *sorted({method for method, _ in pairs} - {*_KNOWN, "dense"})]
    result: dict[tuple[str, str], Look] = {}
    seen: dict[str, int] = {}
    for method, label in pairs:
        if method == "dense":
            result[method, label] = Look(INK, "*", (0, (4, 2)))
            continue
        place, variant = methods.index(method), seen.get(method, 0)
        seen[method] = variant + 1
        result[method, label] = Look(
            _COLOURS[place % len(_COLOURS)],
            _MARKERS[place % len(_MARKERS)],
            _LINES[(place + variant) % len(_LINES)],
            _FILLS[variant % len(_FILLS)],
        )
    return result


def sequence(count: int) -> list[Look]:
    """Return looks for an ordered series, such as growing k, told apart by marker and dash too."""
    return [
        Look(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i in range(count)
    ]


def style() -> None:
    """Set the look of what is drawn from here on, whatever the user's own matplotlibrc says."""
    mpl.rcdefaults()
    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.labelsize": 9,
            "legend.fontsize": 8.5,
            "legend.frameon": False,
            "legend.handlelength": 2.6,
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "grid.color": "#808080",
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.6,
            "lines.markersize": 6,
            "errorbar.capsize": 2.5,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 200,
            "pdf.fonttype": 42,
            "svg.fonttype": "path",
        }
    )


def letter(axes: Axes, index: int, title: str) -> None:
    """Title a panel ``(a) ...``, at the left as in the text of papers."""
    axes.set_title(f"({chr(ord('a') + index)}) {title}", loc="left")


def below(notes: Iterable[str]) -> list[str]:
    """Return the lines to write below a figure of what is missing from its means."""
    return [line for note in notes for line in textwrap.wrap(note, _LINE)]


def to_bytes(figure: Figure, form: str, salt: str) -> bytes:
    """Return a figure as pdf, png or svg, the same bytes for the same figure."""
    without_dates: dict[str, dict[str, str | None]] = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    }
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": salt, "figure.constrained_layout.use": True}):
        figure.savefig(
            buffer,
            format=form,
            metadata=without_dates[form],
            transparent=form == "svg",
        )
    return buffer.getvalue()


def close(figure: Figure) -> None:
    """Forget a figure."""
    plt.close(figure)


def inline_svg(svg: bytes, name: str, description: str) -> str:
    """Return SVG text to put into HTML: no prolog, ids of its own, and in the page's colours.

    ``description`` is what a screen reader says; quotes and angle brackets are escaped here.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor")
    for index, colour in enumerate(_COLOURS):
        # The page lightens them on a dark ground.
        text = text.replace(colour.lower(), f"var(--c{index}, {colour.lower()})")
    escaped = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    width = re.search(r'<svg[^>]*?\swidth="([\d.]+)pt"', text)
    limit = f"{float(width.group(1)) * 1.5:.0f}px" if width else "100%"
    text = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[\d.]+pt"', r"\1", text, count=1)
    return text.replace(
        "<svg", f'<svg role="img" aria-label="{escaped}" style="max-width:{limit}"', 1
    )
