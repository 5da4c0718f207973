"""Draw redundancy as Figures 3 and 4 of ViLAMP do; needs matplotlib, an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOTE = "the plots need matplotlib: pip install 'video-token-compression[plots]'"


def draw(measures: Mapping[str, Any], title: str, across: str, file: Path) -> None:
    """Draw cumulative attention as a line, similarity as bars, the baseline as a dashed line.

    Args:
        measures: What `vtc_recipes.analysis.measures.mean_measures` returns.
        title: Above the plot.
        across: Label of the horizontal axis.
        file: A PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    bars = measures["similarity"]
    wide = 100 / len(bars)
    places = [number * wide for number in range(len(bars))]
    right.bar(places, bars, wide * 0.86, align="edge", color="#9db8d9", label="similarity")
    right.axhline(
        measures["random_similarity"], color="#33507a", linestyle="--", label="random pairs"
    )
    right.set_ylim(min(0.0, *bars, measures["random_similarity"]), 1.02)
    right.set_ylabel("cosine similarity")
    line = measures["cumulative"]
    left.plot(range(len(line)), line, color="#c0392b", linewidth=2, label="cumulative attention")
    left.set(xlim=(0, 100), ylim=(0, 102), xlabel=across, ylabel="cumulative attention, %")
    left.set_title(title, fontsize=10)
    left.set_zorder(right.get_zorder() + 1)
    left.patch.set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    left.legend(handles + more, labels + names, loc="lower right", fontsize=8)
    figure.savefig(file, dpi=150)
