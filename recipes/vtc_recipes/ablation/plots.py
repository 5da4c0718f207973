"""Plots of a grid's results; all except the heat map need matplotlib (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from vtc_recipes.ablation.grid import PARTS, label_of, shown
from vtc_recipes.ablation.records import Results, RowResult
from vtc_recipes.evaluation.heatmap import Axis, heat_map

NOTE = "Plots need matplotlib: pip install 'video-token-compression[plots]', then vtc report."
_KEYFRAMES = "keyframes"
_MARKS = "os^vD<>phX*d8"
_MANY = 16
"""Maximum number of rows that all have a name in a plot; of more, only some have one."""
_LONG = 50
"""Number of letters from which a label is so long that the legend stands below the plot."""
_BEST = 6
"""Number of the best rows that have a name if not all have one."""
_WIDE = 5
"""Costs that span more than this factor get a logarithmic axis."""


def write_plots(results: Results, folder: Path) -> tuple[dict[str, str], str]:
    """Draw the plots that the grid's axes allow.

    Returns:
        File names by title, and a note if matplotlib is missing.
    """
    plots = {}
    pair = [axis for axis in results.axes if _numeric(results, axis)]
    if len(pair) == 2 and _is_product(results):
        heat_maps(results, pair[0], pair[1]).save(folder / "heatmap.png")
        plots[f"Right answers by {' and '.join(pair)}"] = "heatmap.png"
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        return plots, NOTE
    for axis in results.axes:
        if axis.rpartition(".")[2] == _KEYFRAMES and _numeric(results, axis):
            _save(keyframe_curve(results, axis), folder / "keyframes.png")
            plots["Right answers and evidence by the number of keyframes"] = "keyframes.png"
    if all(row.coverage is not None for row in results.rows):
        _save(coverage_plot(results), folder / "coverage.png")
        plots["Evidence among the keyframes, and right answers"] = "coverage.png"
    for name, title in (("tokens_after", "tokens"), ("macs", "MACs"), ("seconds", "seconds")):
        _save(pareto_plot(results, name, title), folder / f"pareto_{title.lower()}.png")
        plots[f"Right answers by {title}; the line is the Pareto front"] = (
            f"pareto_{title.lower()}.png"
        )
    return plots, ""


def heat_maps(results: Results, across: str, down: str) -> Any:
    """Return a heat map of the accuracy, averaged over all other axes, as a PIL image."""
    scores: dict[tuple[float, float], list[float]] = {}
    for row in results.rows:
        place = (float(row.values[across]), float(row.values[down]))
        scores.setdefault(place, []).append(row.accuracy.mean)
    cells = [
        {across: place[0], down: place[1], "Score": sum(values) / len(values)}
        for place, values in scores.items()
    ]
    return heat_map(
        cells,
        f"{results.name}: right answers, %",
        across=Axis(across, across, lambda value: f"{value:g}"),
        down=Axis(down, down, lambda value: f"{value:g}"),
    )


def keyframe_curve(results: Results, axis: str) -> Any:
    """Plot accuracy and coverage over keyframes, one line per value of the other axes."""
    figure, plot = _figure(f"{results.name}: keyframes", "keyframes", "per cent")
    lines: dict[str, list[RowResult]] = {}
    for row in results.rows:
        others = {name: value for name, value in row.values.items() if name != axis}
        lines.setdefault(label_of(others) if others else "", []).append(row)
    for label, rows in lines.items():
        rows = sorted(rows, key=lambda row: float(row.values[axis]))
        across = [float(row.values[axis]) for row in rows]
        suffix = f", {label}" if label else ""
        name = f"right answers{suffix}"
        (line, *_) = plot.errorbar(
            across, _per_cent(rows), yerr=_errors(rows), marker="o", capsize=3, label=name
        )
        coverage = [100 * row.coverage.mean for row in rows if row.coverage is not None]
        if len(coverage) == len(rows):
            colour = line.get_color()
            plot.plot(across, coverage, "x--", color=colour, label=f"evidence seen{suffix}")
    plot.set_xscale("log", base=2)
    ticks = sorted({float(row.values[axis]) for row in results.rows})
    plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return _finished(figure, plot, results)


def coverage_plot(results: Results) -> Any:
    """Plot accuracy over coverage, which separates losses in selection from later ones."""
    figure, plot = _figure(f"{results.name}: evidence seen and right answers", "evidence seen, %")
    coverage = [100 * row.coverage.mean for row in results.rows if row.coverage is not None]
    best = sorted(results.rows, key=lambda row: row.accuracy.mean, reverse=True)
    _points(plot, results, coverage, best[:_BEST])
    return _finished(figure, plot, results)


def pareto_plot(results: Results, cost: str, title: str) -> Any:
    """Plot accuracy over a cost, with a line through the Pareto front."""
    figure, plot = _figure(f"{results.name}: quality and cost", f"{title} per question")
    costs = [getattr(row, cost) for row in results.rows]
    front = list(pareto_front(results.rows, cost))
    _points(plot, results, costs, front)
    plot.plot(
        [getattr(row, cost) for row in front],
        [100 * row.accuracy.mean for row in front],
        color="grey",
        linewidth=1,
        zorder=0,
        label="Pareto front",
    )
    if max(costs) > _WIDE * min(costs) > 0:
        plot.set_xscale("log")
    return _finished(figure, plot, results)


def pareto_front(rows: Sequence[RowResult], cost: str) -> Iterator[RowResult]:
    """Yield the rows that are better than every cheaper one, in order of cost."""
    best = float("-inf")
    for row in sorted(rows, key=lambda row: (getattr(row, cost), -row.accuracy.mean)):
        if row.accuracy.mean > best:
            best = row.accuracy.mean
            yield row


def _labels(rows: Sequence[RowResult]) -> list[str]:
    """Return labels such as ``dks, temperature=0.1``; a part's options only if needed."""
    words: list[list[str]] = [[] for _ in rows]
    for axis in dict.fromkeys(axis for row in rows for axis in row.values):
        short = axis.rpartition(".")[2]
        values = [row.values.get(axis) for row in rows]
        full = [shown(value) for value in values]
        names = [v["name"] if isinstance(v, Mapping) and "name" in v else shown(v) for v in values]
        texts = names if len(set(names)) == len(set(full)) else full
        for place, row in enumerate(rows):
            if axis in row.values:
                words[place].append(texts[place] if short in PARTS else f"{short}={texts[place]}")
    return [", ".join(label) or row.label for label, row in zip(words, rows, strict=True)]


def _points(
    plot: Any, results: Results, across: Sequence[float], named: Sequence[RowResult]
) -> None:
    """Draw each row as a point with its interval: colour shows the selector, marker the rest.

    Hollow markers of different shapes stay readable where points coincide. Of more than `_MANY`
    rows only the ``named`` ones are in the legend, in a colour each; the others are grey.
    """
    many = len(results.rows) > _MANY
    axes = [axis for axis in results.axes if axis.rpartition(".")[2] == "selector"]
    first = (axes or list(results.axes) or [""])[0]
    colours = list(dict.fromkeys(shown(row.values.get(first)) for row in results.rows))
    rest = [
        tuple(shown(row.values.get(axis)) for axis in results.axes if axis != first)
        for row in results.rows
    ]
    marks = list(dict.fromkeys(rest))
    for row, label, place, other in zip(
        results.rows, _labels(results.rows), across, rest, strict=True
    ):
        number = marks.index(other)
        colour = f"C{colours.index(shown(row.values.get(first))) % 10}"
        if many and row in named:
            number = named.index(row)
            colour = f"C{number % 10}"
        elif many:
            plot.plot(place, 100 * row.accuracy.mean, ".", color="silver", zorder=0)
            continue
        plot.errorbar(
            place,
            100 * row.accuracy.mean,
            yerr=_errors([row]),
            marker=_MARKS[number % len(_MARKS)],
            markersize=9,
            markerfacecolor="none",
            color=colour,
            linestyle="",
            linewidth=1,
            capsize=3,
            label=label,
            clip_on=False,
        )


def _is_product(results: Results) -> bool:
    """Return whether the rows are a full product, so that averages over an axis are fair."""
    rows = [[shown(row.values.get(axis)) for axis in results.axes] for row in results.rows]
    return len(rows) == prod(len(set(values)) for values in zip(*rows, strict=True))


def _numeric(results: Results, axis: str) -> bool:
    values = [row.values.get(axis) for row in results.rows]
    return all(type(value) in (int, float) for value in values) and len(set(values)) > 1


def _figure(title: str, across: str, down: str = "right answers, %") -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    plot = figure.add_subplot()
    plot.set(title=title, xlabel=across, ylabel=down)
    plot.grid(alpha=0.3)
    return figure, plot


def _finished(figure: Any, plot: Any, results: Results) -> Any:
    chance = 100 * results.rows[0].chance
    plot.axhline(chance, color="grey", linestyle=":", label="chance")
    if len(results.rows) > _MANY:
        plot.plot([], [], ".", color="silver", label="other rows of the table")
    lines, labels = plot.get_legend_handles_labels()
    long = max(map(len, labels)) > _LONG
    place = "outside lower center" if long else "outside right upper"
    figure.set_figheight(5 + 0.2 * len(labels) * long)
    figure.legend(lines, labels, loc=place, fontsize="small")
    return figure


def _per_cent(rows: Sequence[RowResult]) -> list[float]:
    return [100 * row.accuracy.mean for row in rows]


def _errors(rows: Sequence[RowResult]) -> list[list[float]]:
    """Return the distances between the mean and the ends of its interval."""
    below = [100 * max(0.0, row.accuracy.mean - row.accuracy.low) for row in rows]
    above = [100 * max(0.0, row.accuracy.high - row.accuracy.mean) for row in rows]
    return [below, above]


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=120)
