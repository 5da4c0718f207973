"""Redundancy of frames and patches over many videos (section 3 of ViLAMP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc.video import VideoError, VideoSource
from vtc_recipes.analysis.attention import question_attention
from vtc_recipes.analysis.measures import frame_measures, mean_measures, patch_measures
from vtc_recipes.evaluation.resuming import append_lines, read_lines, write_json

if TYPE_CHECKING:
    from vtc.batch.rows import Question

RECORDS = "records.jsonl"
PAPER = (
    "In the paper: less than 5 % of the frames have about 90 % of the attention, with similarities "
    "above 0.8 (random pairs: 0.54 to 0.61); 50 % of the patches have 80 % (random pairs: 0.61)."
)


def measure(
    model: Any,
    processor: Any,
    rows: Sequence[Question],
    video_root: Path,
    folder: Path,
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Measure each row that has no record yet, and write its record at once.

    Args:
        model: A wrapped model whose selector keeps every frame.
        processor: Its stock processor.
        rows: Questions about videos.
        video_root: The folder that the names of videos are relative to.
        folder: For ``records.jsonl``; it exists.
        settings: ``frames``, ``keyframes``, ``layers`` and all else that the records depend on.
        progress: Called with the number of finished rows and of all rows.

    Returns:
        One line for each video that cannot be read.

    Raises:
        ValueError: The family cannot be measured.
    """
    done = {record["id"] for record in read_lines(folder / RECORDS)}
    lost = []
    for number, row in enumerate(rows, 1):
        if row.id not in done:
            try:
                source = VideoSource(video_root / row.video, frames=settings["frames"])
                record = {"id": row.id, "video": row.video, "question": row.question}
                record |= measure_one(model, processor, source, row.question, settings)
                append_lines(folder / RECORDS, [record])
            except VideoError as error:
                lost.append(f"{row.id}: {error}")
        progress(number, len(rows))
    return lost


def measure_one(
    model: Any, processor: Any, source: VideoSource, question: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the measures of one question about one video."""
    attention = question_attention(model, processor, source, question, settings["layers"])
    weights, tokens = attention.weights.mean(0), attention.tokens.cpu()
    return {
        "layers": list(attention.layers),
        "question_tokens": attention.question_tokens,
        "frame": frame_measures(weights, tokens),
        "patch": patch_measures(weights, tokens, settings["keyframes"]),
    }


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over all records, for frames and patches.

    Raises:
        ValueError: There is no record.
    """
    if not records:
        raise ValueError("expected at least one record, got none")
    frames = [record["frame"] for record in records]
    patches = [record["patch"] for record in records if record["patch"] is not None]
    need = sorted(frame["frames_for_90_percent"] for frame in frames)
    summary: dict[str, Any] = {
        "rows": len(records),
        "layers": records[0]["layers"],
        "frame": {**mean_measures(frames), "frames_for_90_percent": need[len(need) // 2]},
        "attention_to_video": sum(frame["attention_to_video"] for frame in frames) / len(frames),
        "patch": None,
    }
    if patches:
        half = sum(patch["top_half"] for patch in patches) / len(patches)
        summary["patch"] = {**mean_measures(patches), "top_half": half}
    return summary


def write_results(
    folder: Path, settings: Mapping[str, Any], ids: Sequence[Any]
) -> tuple[dict[str, Any], list[str]]:
    """Write ``redundancy.json``, ``frames.png`` and ``patches.png``.

    Args:
        ids: Those of the rows that count.

    Returns:
        The summary, and the files of the plots; none without matplotlib.

    Raises:
        ValueError: There is no record.
    """
    from vtc_recipes.analysis.plots import draw

    records = [record for record in read_lines(folder / RECORDS) if record["id"] in set(ids)]
    summary = summarise(records)
    whole = {"settings": dict(settings), **summary}
    write_json(folder / "redundancy.json", whole)
    files = []
    for kind, across in _AXES.items():
        if summary[kind] is not None:
            name = "frames" if kind == "frame" else "patches"
            count = f"{len(records)} question" + "s" * (len(records) > 1)
            title = f"{settings['model']}: {name}, {count}"
            file = folder / f"{name}.png"
            try:
                draw(summary[kind], title, across, file)
            except ModuleNotFoundError:
                continue
            files.append(str(file))
    return summary, files


_AXES = {
    "frame": "frames ranked by attention from the question, %",
    "patch": "patches of non-keyframes ranked by attention from the question, %",
}


def lines_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the results in words."""
    frame, patch = summary["frame"], summary["patch"]
    similarity = frame["similarity"]
    yield (
        f"frames: the first 5 % have {frame['cumulative'][5]:.1f} % of the attention to the video; "
        f"90 % take {100 * frame['frames_for_90_percent']:.1f} % of the frames (median)"
    )
    yield (
        f"frames: similarity with neighbours in rank {similarity[0]:.2f} (most attention) to "
        f"{similarity[-1]:.2f} (least); random pairs {frame['random_similarity']:.2f}"
    )
    if patch is None:
        yield "patches: every frame is a keyframe, so none is left; lower --keyframes"
        return
    similarity = patch["similarity"]
    yield f"patches of non-keyframes: the first half has {100 * patch['top_half']:.1f} %"
    yield (
        f"patches of non-keyframes: similarity with their keyframe {similarity[0]:.2f} "
        f"(most attention) to {similarity[-1]:.2f} (least); "
        f"random pairs {patch['random_similarity']:.2f}"
    )
