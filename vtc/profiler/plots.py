"""Plot a profile like Figure 1 and Table 5 of ViLAMP; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtc.profiler.stages import CONNECTOR, LengthProfile, Profile
from vtc.profiler.tables import Units

_CARDS = (24e9, 80e9)
"""The memory of common GPUs in bytes, drawn as lines."""


def check_plots(folder: Path) -> None:
    """Check that plots can be written, before any work is done.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The folder does not exist and cannot be created.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "--plots needs matplotlib: pip install 'video-token-compression[plots]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)


def write_plots(profile: Profile, folder: Path) -> list[Path]:
    """Write ``memory.png``, ``flops.png`` and ``stages.png``; with times, ``first_token.png``."""
    plots = {"memory": memory_plot, "flops": flops_plot, "stages": stages_plot}
    if any(length.first_token_seconds is not None for length in profile.lengths):
        plots["first_token"] = first_token_plot
    files = []
    for name, draw in plots.items():
        files.append(folder / f"{name}.png")
        draw(profile).savefig(files[-1], dpi=120)
    return files


def memory_plot(profile: Profile) -> Any:
    """Plot Figure 1: memory over the number of frames, weights included."""
    unit, name = Units.of(profile), _ours(profile)
    figure, plot = _figure(profile, f"GPU memory, {unit.bytes_prefix}B")
    weights = profile.weights + profile.encoder_weights
    lengths = profile.lengths
    ours = [(weights + length.first_token.peak_memory) / unit.bytes for length in lengths]
    bare = [profile.weights + length.stock_first_token.peak_memory for length in lengths]
    stock = [bytes_ / unit.bytes for bytes_ in bare]
    _line(plot, profile, stock, "stock model", "C3")
    _line(plot, profile, ours, name, "C0")
    memory = [length.first_token.measured_memory for length in lengths]
    if all(value is not None for value in memory):
        measured = [(weights + (value or 0.0)) / unit.bytes for value in memory]
        plot.plot(_frames(profile), measured, "x", color="C0", label=f"{name}, measured")
    label = "weights alone, with\nthe frame encoder"
    plot.axhline(weights / unit.bytes, color="grey", linestyle=":", label=label)
    for number, other in enumerate(profile.beside):
        loaded = other.weights + other.encoder_weights
        bytes_ = [loaded + length.first_token.peak_memory for length in other.lengths]
        _line_beside(plot, other, number, [held / unit.bytes for held in bytes_])
    top = max(*ours, *stock)
    for card in _CARDS:
        place = card / unit.bytes
        if place < top:
            plot.axhline(place, color="black", linewidth=0.8)
            plot.annotate(
                f"{card / 1e9:g} GB card", (_frames(profile)[0], place), va="bottom", size=8
            )
    plot.set_yscale("log")
    _plain_numbers(plot)
    return _finished(figure, plot)


def flops_plot(profile: Profile) -> Any:
    """Plot Table 5's first column: FLOPs up to the first token over the number of frames."""
    unit, name = Units.of(profile), _ours(profile)
    figure, plot = _figure(profile, f"{unit.prefix}FLOPs to the first token (dotted: MACs)")
    counts = [(length.stock_first_token, length.first_token) for length in profile.lengths]
    _line(plot, profile, [bare.flops / unit.operations for bare, _ in counts], "stock", "C3")
    _line(plot, profile, [ours.flops / unit.operations for _, ours in counts], name, "C0")
    for number, other in enumerate(profile.beside):
        flops = [length.first_token.flops / unit.operations for length in other.lengths]
        _line_beside(plot, other, number, flops)
    fast_paths = [length.fast_path for length in profile.lengths if length.fast_path]
    fast = [cost.flops / unit.operations for cost in fast_paths]
    if fast:
        _line(plot, profile, fast, "with vtc,\nfast path", "C2", style="--")
    layers = [(ours.linear_macs or 0.0) / unit.operations for _, ours in counts]
    _line(plot, profile, layers, f"{name},\nMACs of layers\n(Table 5)", "C1", style=":")
    plot.set_yscale("log")
    _plain_numbers(plot)
    return _finished(figure, plot)


def stages_plot(profile: Profile) -> Any:
    """Plot the share of each stage in the FLOPs up to the first token."""
    figure, plot = _figure(profile, "share of the FLOPs, %")
    plot.set_xscale("linear")
    places = range(len(profile.lengths))
    below = [0.0] * len(profile.lengths)
    for number, name in enumerate(stage.name for stage in profile.lengths[0].stages[:-1]):
        shares = [100 * _share(length, number) for length in profile.lengths]
        if max(shares) >= 0.1:
            plot.bar(places, shares, bottom=below, label=name, color=f"C{number}", width=0.7)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    plot.set_xticks(places, [f"{length.frames:,}" for length in profile.lengths])
    return _finished(figure, plot)


def first_token_plot(profile: Profile) -> Any:
    """Plot Table 5's last column: seconds to the first token over the number of frames."""
    figure, plot = _figure(profile, "seconds to the first token")
    timed = [length for length in profile.lengths if length.first_token_seconds is not None]
    seconds = [length.first_token_seconds for length in timed]
    plot.plot([length.frames for length in timed], seconds, "o-", color="C0", label=_ours(profile))
    plot.set_ylim(bottom=0)
    return _finished(figure, plot)


def _ours(profile: Profile) -> str:
    """Return the label of the wrapped model's line."""
    names = {stage.name for stage in profile.lengths[0].stages}
    return "with vtc,\nfast path" if CONNECTOR in names else "with vtc"


def _plain_numbers(plot: Any) -> None:
    """Label a logarithmic axis with plain numbers, minor ticks only on a short axis."""
    plot.yaxis.set_major_formatter("{x:,.12g}")
    low, high = plot.get_ylim()
    plot.yaxis.set_minor_formatter("{x:,.12g}" if high < 100 * low else "")


def _share(length: LengthProfile, stage: int) -> float:
    return length.stages[stage].flops / length.first_token.flops


def _line(
    plot: Any, profile: Profile, values: list[float], label: str, color: str, style: str = "-"
) -> None:
    plot.plot(_frames(profile), values, "o" + style, color=color, label=label)


def _line_beside(plot: Any, other: Profile, number: int, values: list[float]) -> None:
    _line(plot, other, values, str(other.merger["name"]), f"C{4 + number}", style="-.")


def _frames(profile: Profile) -> list[int]:
    return [length.frames for length in profile.lengths]


def _figure(profile: Profile, down: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    plot = figure.add_subplot()
    how = "counted" if profile.device == "meta" else f"on {profile.device}"
    parts = f"{profile.selector['name']}, at most {max(e.keyframes for e in profile.lengths)} kept"
    title = f"{profile.model}, {profile.dtype}, {how}\n{parts}; {profile.merger['name']}"
    plot.set(title=title, xlabel="frames", ylabel=down)
    plot.set_xscale("log", base=2)
    frames = _frames(profile)
    plot.set_xticks(frames, [f"{count:,}" for count in frames], rotation=45, ha="right")
    plot.minorticks_off()
    plot.grid(alpha=0.3)
    return figure, plot


def _finished(figure: Any, plot: Any) -> Any:
    figure.legend(*plot.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure
