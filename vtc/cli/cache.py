"""``vtc index`` and ``vtc cache``: fill, list and clear the cache of videos."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vtc.cache.sizes import UNITS, size_text
from vtc.cli import options
from vtc.cli.indexing import IndexedModel
from vtc.cli.output import print_json, print_line, printable, terminal

if TYPE_CHECKING:
    from vtc.cache.folder import StoredEntry

_SIZE = re.compile(r"([0-9]*\.?[0-9]+) ?(B|kB|MB|GB|TB)")


@options.grouped
def index(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files.")],
    frames: options.ModelFrameOptions,
    model_options: IndexedModel,
    as_json: options.AsJson = False,
) -> None:
    """Compute once what questions about the same videos share, and store it in a cache.

    It stores the embeddings of the frames and, with --model, everything that the model and its
    merger can cache; give the same options as for the later questions. If a video cannot be read,
    it is reported, the others are indexed, and the exit code is 1.
    """
    from vtc.cache.video import cache_folder
    from vtc.cli.show import progress_bars
    from vtc.video import VideoError

    folder = cache_folder(frames.cache if frames.cache is not None else True)
    frames = replace(frames, cache=str(folder.path))
    index_one = model_options.indexer(frames.cache_tower, quiet=as_json)
    rows: list[dict[str, Any]] = []
    for video in videos:
        began = time.perf_counter()
        row: dict[str, Any] = {"video": video, "frames": 0, "cache": [], "error": None}
        try:
            source = frames.open(video)
            with progress_bars(quiet=as_json) as show:
                uses = index_one(source, show)
            row |= {"frames": len(source), "cache": [asdict(use) for use in uses]}
        except VideoError as error:
            row["error"] = str(error)
        row["seconds"] = time.perf_counter() - began
        rows.append(row)
        if not as_json:
            _print_row(row)
    if as_json:
        print_json({"cache": str(folder.path), "videos": rows})
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def cache(
    cache: options.CacheFolder = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the entries, the latest last (default).")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
    limit: Annotated[
        options.Text,
        typer.Option(
            metavar="SIZE", help="The maximum size, such as 50GB; the oldest entries are removed."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List or clear the cache of videos."""
    from vtc.cache.video import cache_folder

    if clear and (show_list or limit is not None):
        raise ValueError("expected --clear alone, got it with --list or --limit")
    folder = cache_folder(cache if cache is not None else True)
    if limit is not None:
        folder.set_limit(read_size(limit))
    if clear:
        count, size = folder.clear()
        if as_json:
            print_json({"cache": str(folder.path), "removed": count, "bytes": size})
        else:
            print_line(f"{folder.path}: removed {_entries(count)}, {size_text(size)}")
        return
    entries = folder.entries()
    total, most = sum(entry.bytes for entry in entries), folder.limit
    if as_json:
        rows = [_entry_row(entry) for entry in entries]
        print_json({"cache": str(folder.path), "bytes": total, "limit": most, "entries": rows})
        return
    if entries:
        _print_entries(entries)
    print_line(
        f"{folder.path}: {_entries(len(entries))}, {size_text(total)} of at most {size_text(most)}"
    )


def read_size(text: str) -> int:
    """Parse a size such as ``50GB`` or ``0.5 TB``.

    Raises:
        ValueError: It is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected --limit to be a size such as 500MB or 50GB, got {text!r}")
    return round(float(match[1]) * UNITS[match[2]])


def _print_row(row: dict[str, Any]) -> None:
    if row["error"] is not None:
        print(f"vtc: error: {printable(row['error'])}", file=sys.stderr)
        return
    done = "; ".join(
        f"{use['kind']} {'already in the cache' if use['hit'] else use['note']}"
        for use in row["cache"]
    )
    print_line(f"{row['video']}: {row['frames']} frames: {done} ({row['seconds']:.1f} s)")


def _entry_row(stored: StoredEntry) -> dict[str, Any]:
    row = {"folder": os.fspath(stored.folder), "bytes": stored.bytes, "used": stored.used}
    return {**row, **({} if stored.entry is None else stored.entry.plain())}


def _print_entries(entries: list[StoredEntry]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("video", "what", "sampled", "made by", "size", "last used"):
        table.add_column(title, justify="right" if title == "size" else "left")
    for stored in entries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(stored.used))
        if (entry := stored.entry) is None:
            words = [stored.folder.name, "cannot be read", "", ""]
        else:
            options = entry.sampling.items()
            sampled = ", ".join(f"{name}={value}" for name, value in options if value is not None)
            maker = str(entry.key.get("encoder", entry.key.get("tower", "")))
            words = [entry.video, entry.kind, sampled or "every frame", maker]
        table.add_row(*map(printable, words), size_text(stored.bytes), when)
    terminal().print(table)


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"
