"""``vtc evaluate TASK``: lmms-eval's benchmarks; torch is imported only in its process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, print_line
from vtc_recipes.evaluation.harness.tasks import CONTROLS, TASKS, Task

_ALL, _NONE = "all", "none"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The data, the results, and the controls."""

    data: Annotated[
        Path,
        typer.Option(help="Folder with annotations and videos, in the same layout as on the hub."),
    ]
    out: Annotated[
        Optional[Path],  # noqa: UP045 - older typer cannot evaluate X | None
        typer.Option(
            help="Folder for the results; the same command resumes a run in it. "
            "(default: runs/BENCHMARK)"
        ),
    ] = None
    controls: Annotated[
        str,
        typer.Option(
            help="Controls to run after the method, each taking as long: all, none, or some "
            "of uniform,downsample,random,no_video."
        ),
    ] = _ALL
    limit: Annotated[
        options.Count, typer.Option(min=1, help="Ask only the first questions (of each part).")
    ] = None
    only_present: Annotated[
        bool, typer.Option("--only-present", help="Skip questions whose video is missing.")
    ] = False
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Number of processes (torchrun), each with its own model and GPU."
        ),
    ] = 1
    questions_at_once: Annotated[
        int,
        typer.Option(
            min=1,
            help="Questions about one video that share a pass; each needs memory.",
        ),
    ] = 4
    query: Annotated[
        Literal["question", "prompt"],
        typer.Option(help="Select keyframes for the question only, or for the whole prompt."),
    ] = "question"
    system: options.System = None
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0

    def control_names(self) -> list[str]:
        """Return the names of the controls.

        Raises:
            ValueError: A name is unknown.
        """
        if self.controls == _NONE:
            return []
        names = list(CONTROLS) if self.controls == _ALL else self.controls.split(",")
        unknown = [name for name in names if name not in CONTROLS]
        if unknown:
            allowed = f"all, none, or some of {', '.join(CONTROLS)}"
            raise ValueError(f"expected --controls to be {allowed}, got {unknown[0]!r}")
        return [name for name in CONTROLS if name in names]

    def check_device(self, device: str) -> None:
        """Refuse one GPU for several processes.

        Raises:
            ValueError: The device names a GPU by its number.
        """
        if self.processes > 1 and ":" in device:
            raise ValueError(
                f"expected --device auto or cpu with --processes {self.processes}, got {device!r}"
            )


def add_commands(app: typer.Typer) -> None:
    """Add a command for each benchmark."""
    for name, task in TASKS.items():
        app.command(name, help=_help(task))(_command(name, task))


def _help(task: Task) -> str:
    compared = (
        "The table includes the controls at the same number of tokens, and the paper's results."
    )
    return f"{task.summary}\n\nRuns lmms-eval (make eval-env). {compared}"


def _command(name: str, task: Task) -> Callable[..., None]:
    def run(
        model_options: ModelOptions,
        frames: options.FrameOptions,
        evaluation: EvaluationOptions,
        allow_posting: bool = False,
        as_json: bool = False,
    ) -> None:
        _evaluate(name, task, model_options, frames, evaluation, allow_posting, as_json)

    # typer evaluates these when the command line is imported.
    run.__annotations__ |= {
        "model_options": ModelOptions,
        "frames": options.FrameOptions,
        "evaluation": EvaluationOptions,
        "allow_posting": Annotated[
            bool,
            typer.Option(
                "--allow-posting",
                help="Let the benchmark send the answers to a server.",
                hidden=task.posts is None,
            ),
        ],
        "as_json": options.AsJson,
        "return": None,
    }
    return options.grouped(run)


def _evaluate(
    name: str,
    task: Task,
    model_options: ModelOptions,
    frames: options.FrameOptions,
    evaluation: EvaluationOptions,
    allow_posting: bool,
    as_json: bool,
) -> None:
    from vtc.cli.show import progress_bars
    from vtc_recipes.evaluation.harness.evaluate import Evaluation
    from vtc_recipes.evaluation.harness.layout import read_benchmark
    from vtc_recipes.evaluation.harness.running import tasks_folder
    from vtc_recipes.evaluation.harness.scores import METHOD, group_table, table
    from vtc_recipes.evaluation.resuming import resumable

    if task.posts is not None and not allow_posting:
        raise ValueError(
            f"{name} sends all answers to {task.posts}; pass --allow-posting to allow it"
        )
    controls = evaluation.control_names()
    tasks_folder()
    evaluation.check_device(model_options.device)
    label = _label(model_options)  # which also refuses unknown parts, before a model is loaded
    benchmark = read_benchmark(
        name,
        task,
        evaluation.data,
        limit=evaluation.limit,
        only_present=evaluation.only_present,
    )
    out = evaluation.out or Path("runs") / name
    work = Evaluation(
        benchmark,
        out,
        _settings(model_options, frames, evaluation),
        controls,
        evaluation.processes,
        evaluation.seed,
    )
    with resumable(out), progress_bars(quiet=as_json, window=3600.0) as show:
        results = work.run(show)
    summaries = results["summaries"]
    text = table(name, task, label, results["parameters"], frames.fps, summaries)
    if benchmark.missing:
        text += f"\n{benchmark.missing} questions without a video were skipped."
    text += "\n\n" + group_table(summaries[METHOD])
    (out / "results.md").write_text(text + "\n", encoding="utf-8")
    if as_json:
        print_json(results)
        return
    print_line(text)
    print_line(f"\nresults: {out / 'results.json'}, results.md, questions.jsonl")


def _settings(
    model_options: ModelOptions, frames: options.FrameOptions, evaluation: EvaluationOptions
) -> dict[str, Any]:
    """Return the arguments of the harness's model."""
    model = asdict(model_options)
    name = Path(model.pop("model")).expanduser()
    pretrained = str(name.resolve()) if name.is_dir() else model_options.model
    encoder = model_options.encoder
    if encoder is not None and Path(encoder).expanduser().exists():
        model["encoder"] = str(Path(encoder).expanduser().resolve())
    reading = asdict(frames)
    if frames.cache is not None:
        reading["cache"] = str(Path(frames.cache).expanduser().absolute())
    return {
        "pretrained": pretrained,
        "batch_size": evaluation.questions_at_once,
        "system": evaluation.system,
        "query": evaluation.query,
        **model,
        **reading,
    }


def _label(model_options: ModelOptions) -> str:
    """Return the label of the method's row: model, selector and merger.

    Raises:
        ValueError: A part or one of its options is unknown.
    """
    from vtc.plugins import registry
    from vtc.wrapped.opening import saved_parts

    saved = saved_parts(model_options.model)
    names = []
    for kind, choice in (
        ("selector", model_options.selector_choice),
        ("merger", model_options.merger_choice),
    ):
        spec = choice.spec(saved[kind])
        registry.build_part(kind, spec)
        names.append(spec["name"])
    return " + ".join([Path(model_options.model).name, *names])
