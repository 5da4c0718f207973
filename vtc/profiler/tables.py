"""Print a profile as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from vtc.profiler.stages import LengthProfile, Profile, StageProfile

_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6))


def conventions(profile: Profile) -> str:
    """Return the meaning of the columns."""
    unit = Units.of(profile)
    seen = " Seen: measured on the device." if _timed(profile) else ""
    return (
        "FLOPs: all, two per multiply-accumulate. MACs: all. Layers: MACs of the Linear and Conv "
        "layers of the vision-language model alone, which Table 5 of ViLAMP calls FLOPs. "
        f"{unit.bytes_prefix}B: above the weights.{seen} Moved: bytes read "
        f"and written, without caches and fusion. {_rates(profile)}All up to the first new token."
    )


def _rates(profile: Profile) -> str:
    if profile.matrix_rate is None:
        return ""
    prefix, unit = _unit(profile.matrix_rate)
    rate = f"{_short(profile.matrix_rate, unit)} {prefix}FLOPs per second"
    return f"Rate: per cent of the {rate} of a large matrix product here. "


def headline(profile: Profile) -> str:
    """Return the model and its parts in one line."""
    parts = f"{profile.selector['name']} + {profile.merger['name']}"
    weights = f"weights {_size(profile.weights)}"
    if profile.encoder_weights:
        weights += f", frame encoder {_size(profile.encoder_weights)}"
    return f"{profile.model}: {parts}, {profile.dtype} on {profile.device}; {weights}"


def summary(profile: Profile) -> Table:
    """Return a table of the costs up to the first token by length, like Table 5 of ViLAMP."""
    unit, timed = Units.of(profile), _timed(profile)
    table = _table(
        ["frames", "keyframes", "tokens", *unit.titles(timed)], "TTFT s" if timed else ""
    )
    for length in profile.lengths:
        ours = length.first_token
        cells = [f"{length.frames:,}", str(length.keyframes), f"{ours.tokens:,}"]
        cells += [*unit.cells(ours, timed)]
        table.add_row(*cells, *([_seconds(length.first_token_seconds)] if timed else []))
    return table


def comparison(profile: Profile) -> Table:
    """Return a table that compares each length with the stock model and the fast path."""
    unit = Units.of(profile)
    titles = ["frames", "stock tokens", f"stock {unit.prefix}FLOPs", f"stock {unit.bytes_prefix}B"]
    table = _table([*titles, "fewer FLOPs", f"fast path {unit.prefix}FLOPs", "fewer"])
    for length in profile.lengths:
        ours, stock, fast = length.first_token, length.stock_first_token, length.fast_path
        table.add_row(
            f"{length.frames:,}",
            f"{stock.tokens:,}",
            unit.number(stock.flops),
            unit.held(stock.peak_memory),
            f"{stock.flops / ours.flops:.1f}x",
            unit.number(fast.flops if fast else None),
            f"{ours.flops / fast.flops:.1f}x" if fast else "-",
        )
    return table


def beside(profile: Profile) -> Table:
    """Return a table of the same model with other mergers, which merge all frames."""
    unit = Units.of(profile)
    table = _table(["frames", "parts", "tokens", *unit.titles(timed=False)])
    for number, length in enumerate(profile.lengths):
        for one in (profile, *profile.beside):
            cost = one.lengths[number].first_token
            name = f"{one.selector['name']} + {one.merger['name']}"
            cells = unit.cells(cost, timed=False)
            table.add_row(f"{length.frames:,}", name, f"{cost.tokens:,}", *cells)
    return table


_FAST_PATH = (
    "Fast path: non-keyframes merged from the frame encoder's patches, without the vision tower, "
    "through a connector that must be trained (--fast-path counts it by stage)."
)


def fast_path(profile: Profile) -> list[str]:
    """Return an explanation of the fast path if it was counted."""
    return [_FAST_PATH] if any(length.fast_path for length in profile.lengths) else []


def stages(profile: Profile, length: LengthProfile) -> Table:
    """Return a table with the stages of one length."""
    unit, timed = Units.of(profile), _timed(profile)
    titles = ["stage", "tokens", *unit.titles(timed), "moved"]
    table = _table([*titles, "rate"] if timed else titles, "s" if timed else "")
    table.columns[0].justify, table.columns[0].no_wrap = "left", False
    *before, last = length.stages
    for stage in (*before, length.first_token, last):
        cells = [stage.name, f"{stage.tokens:,}", *unit.cells(stage, timed)]
        cells.append(unit.held(stage.bytes_moved))
        if timed:
            cells.append(_share(stage.rate, profile.matrix_rate))
        style = "bold" if stage.name == length.first_token.name else None
        table.add_row(*cells, *([_seconds(stage.seconds)] if timed else []), style=style)
    return table


@dataclass(frozen=True)
class Units:
    """Units that make the largest numbers easy to read."""

    prefix: str
    operations: float
    bytes_prefix: str
    bytes: float

    @staticmethod
    def of(profile: Profile) -> Units:
        """Return the units that fit the longest video."""
        totals = [length.first_token for length in profile.lengths]
        return Units(
            *_unit(max(total.flops for total in totals)),
            *_unit(10 * max(total.peak_memory for total in totals), _PREFIXES[1:]),
        )

    def titles(self, timed: bool) -> Iterator[str]:
        """Yield the titles of `cells`."""
        yield from (f"{self.prefix}FLOPs", f"{self.prefix}MACs", "layers", f"{self.bytes_prefix}B")
        if timed:
            yield "seen"

    def cells(self, stage: StageProfile, timed: bool) -> Iterator[str]:
        """Yield FLOPs, MACs, MACs of layers, and memory of a stage."""
        yield from map(self.number, (stage.flops, stage.macs, stage.linear_macs))
        yield self.held(stage.peak_memory)
        if timed:
            yield self.held(stage.measured_memory)

    def number(self, value: float | None) -> str:
        """Return a number of operations as text."""
        return _short(value, self.operations)

    def held(self, value: float | None) -> str:
        """Return a number of bytes as text."""
        return _short(value, self.bytes, digits=2)


def _unit(most: float, prefixes: tuple[tuple[str, float], ...] = _PREFIXES) -> tuple[str, float]:
    return next((unit for unit in prefixes if most >= unit[1]), prefixes[-1])


def _size(count: int) -> str:
    """Return bytes as ``"16.1 GB"``."""
    prefix, unit = _unit(count)
    return f"{count / unit:.3g} {prefix}B"


def _short(value: float | None, unit: float, digits: int = 1) -> str:
    """Return ``"2,903"``, ``"71.3"``, ``"<0.1"`` or ``"0"``; a dash for None."""
    if value is None:
        return "-"
    scaled, least = value / unit, 10**-digits
    if scaled >= 1000:
        return f"{scaled:,.0f}"
    if 0 < scaled < least / 2:
        return f"<{least:g}"
    return f"{scaled:.{1 if scaled >= 100 else digits}f}" if scaled else "0"


def _timed(profile: Profile) -> bool:
    return any(length.first_token_seconds is not None for length in profile.lengths)


def _share(rate: float | None, of: float | None) -> str:
    return "-" if rate is None or of is None else _short(100 * rate / of, 1)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _table(titles: list[str], last: str = "") -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for title in [*titles, last] if last else titles:
        table.add_column(title, justify="right", no_wrap=" " not in title)
    return table
