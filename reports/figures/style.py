"""One look for all figures: readable in grey, by colour-blind readers, on white and on black."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend

from acdc.messages import plain
from reports.encoding import escape_html
from study.model import Row

INK = "#1b1b1c"
"""Colour of text, axes and the dense baseline, which the report replaces by its text colour."""

# Okabe and Ito's palette without yellow (too light on white) and black (the dense baseline).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_FILLS = ("full", "none", "left", "bottom", "right", "top")
# A method that the suite brings has the same place, so the same look, in every figure.
_KNOWN = (
    *("acdc", "gmp", "rigl", "top_kast", "one_shot", "str", "woodfisher", "set", "snfs", "dpf"),
    *("static", "snip", "sr_ste", "dsd", "acdc_dense"),
)
_LIGHTEST, _DARKEST = -0.45, 0.5
_LONGEST_RAMP = 8
_SIZE = 5.0
_WORDS = 60
"""Letters of a line of a label or a title."""


@dataclass(frozen=True)
class Look:
    """The look of one series."""

    colour: str
    marker: str
    fill: str = "full"
    size: float = _SIZE


def point_looks(rows: Iterable[Row]) -> dict[Row, Look]:
    """Return the looks of single points: colour and marker per method, whatever its sparsity.

    Runs that train longer have larger markers; variants of a method differ in the filling.
    """
    rows = tuple(rows)
    places = _places(rows)
    variants: dict[str | None, list[str]] = {}
    looks = dict.fromkeys(rows, Look(INK, "*"))
    for row in rows:
        if row.method in places:
            known = variants.setdefault(row.method, [])
            if variant(row) not in known:
                known.append(variant(row))
            fill = _FILLS[known.index(variant(row)) % len(_FILLS)]
            size = _SIZE + 2 * math.log2(max(1.0, extent(row)))
            place = places[row.method]
            looks[row] = Look(_at(_COLOURS, place), _at(_MARKERS, place), fill, size)
    return looks


def curve_looks(rows: Iterable[Row]) -> dict[Row, Look]:
    """Return the looks of curves: the method's colour, the darker the sparser, and markers too."""
    rows = tuple(rows)
    places = _places(rows)
    looks = dict.fromkeys(rows, Look(INK, "*"))
    for row in rows:
        if row.method in places:
            mine = sorted({(r.sparsity, r.label) for r in rows if r.method == row.method})
            rank = mine.index((row.sparsity, row.label))
            place = places[row.method]
            colour = _shade(_at(_COLOURS, place), _ramp(len(mine))[rank])
            looks[row] = Look(colour, _at(_MARKERS, place + rank))
    return looks


def _at(values: Sequence[str], place: int) -> str:
    return values[place % len(values)]


def extent(row: Row) -> float:
    """Return how many times as long as its task's dense network a row trains."""
    return row.epochs / row.task.epochs


def variant(row: Row) -> str:
    """Return a row's label without how long it trains: ``RigL (ERK)`` of ``RigL 2x (ERK)``."""
    return row.label.replace(f" {extent(row):g}x", "")


def _places(rows: Iterable[Row]) -> dict[str, int]:
    """Return the place of each method but dense training; unknown ones follow by their names."""
    methods = {row.method for row in rows if row.method is not None} - {"dense"}
    order = [*_KNOWN, *sorted(methods - set(_KNOWN))]
    return {method: order.index(method) for method in sorted(methods)}


def _ramp(count: int) -> list[float]:
    """Return steps from light (below 0) to dark (above 0); one alone is the colour itself."""
    if count == 1:
        return [0.0]
    return [_LIGHTEST + (_DARKEST - _LIGHTEST) * step / (count - 1) for step in range(count)]


def _shade(colour: str, step: float) -> str:
    """Return a colour mixed with white (step < 0) or with ink (step > 0), by a share of |step|."""
    share = abs(step)
    other = to_rgb("white" if step < 0 else INK)
    red, green, blue = (
        (1 - share) * a + share * b for a, b in zip(to_rgb(colour), other, strict=True)
    )
    return to_hex((red, green, blue))


def _page_colours() -> dict[str, str]:
    """Return each colour as the report's page draws it, which lightens them in dark mode."""
    found = {}
    for index, colour in enumerate(_COLOURS):
        steps = {step for count in range(1, _LONGEST_RAMP) for step in _ramp(count)}
        for step in sorted({*steps, _DARKEST}):
            base = f"var(--c{index}, {colour})"
            ground = "var(--page, white)" if step < 0 else "currentColor"
            kept = f"{100 * (1 - abs(step)):.4g}%"
            found[_shade(colour, step)] = f"color-mix(in srgb, {base} {kept}, {ground})"
        found[colour] = base
    return {**found, INK: "currentColor"}


def sequence(count: int) -> list[Look]:
    """Return looks for an ordered series, such as growing k, told apart by marker too.

    After the last colour they begin again, darker.
    """
    shades = [_shade(colour, step) for step in (0.0, _DARKEST) for colour in _COLOURS]
    return [Look(_at(shades, i), _at(_MARKERS, i)) for i in range(count)]


def style(maths: bool = False) -> None:
    """Set the style of all figures drawn from here on, regardless of the user's matplotlibrc.

    Args:
        maths: whether dollar signs in their texts delimit mathematics.
    """
    mpl.rcdefaults()
    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "text.parse_math": maths,
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


def words(text: str, width: int = _WORDS) -> str:
    """Return text as a figure shows it: in lines of some letters, and without control characters.

    A character without a glyph is named by its code point.
    """
    font = get_font(findfont(FontProperties()))
    shown = "".join(c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in plain(text))
    lines = textwrap.wrap(shown, width) or [" "]
    # Matplotlib leaves labels out of legends that are empty or begin with an underscore.
    return "\n".join([f" {lines[0]}" if lines[0].startswith("_") else lines[0], *lines[1:]])


def letter(axes: Axes, index: int, title: str) -> None:
    """Title a panel ``(a) ...``, at the left as in the text of papers."""
    axes.set_title(f"({chr(ord('a') + index)}) {title}", loc="left")


def fit_legend(
    figure: Figure, entries: Mapping[str, Artist], columns: Iterable[int], **how: Any
) -> Legend:
    """Name each line once outside the axes, with the first number of columns that fits.

    The figure grows by the height of the legend. The last of ``columns`` is taken if none fits.
    """
    room = figure.get_figwidth() * figure.dpi
    legend: Legend | None = None
    for count in columns:
        if legend is not None:
            legend.remove()
        legend = figure.legend(
            entries.values(), entries.keys(), ncols=count, handlelength=2.2, **how
        )
        if legend.get_window_extent().width <= room:
            break
    assert legend is not None
    height = legend.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)
    return legend


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
    """Release a figure."""
    plt.close(figure)


def inline_svg(svg: bytes, name: str, description: str) -> str:
    """Return SVG text to put into HTML: no prolog, ids of its own, and in the page's colours.

    Ids that nothing refers to are left out: matplotlib gives equal images the same one.

    Args:
        svg: a figure.
        name: what its ids begin with.
        description: for screen readers.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda id: f' id="{name}-{id[1]}"' * (id[1] in used), text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    colours = _page_colours()
    text = re.sub("#[0-9a-f]{6}", lambda match: colours.get(match[0], match[0]), text)
    width = re.search(r'<svg[^>]*?\swidth="([\d.]+)pt"', text)
    limit = f"{float(width.group(1)) * 1.5:.0f}px" if width else "100%"
    for side in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?)\s{side}="[\d.]+pt"', r"\1", text, count=1)
    label = f'role="img" aria-label="{escape_html(description)}"'
    return text.replace("<svg", f'<svg {label} style="max-width:{limit}"', 1)
