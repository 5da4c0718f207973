"""``vtc convert-vilamp``: convert the released ViLAMP checkpoint."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from vtc.cli.output import print_json, print_line

Folder = Optional[Path]  # noqa: UP007, UP045 - older typer cannot evaluate X | None


def convert_vilamp(
    source: Annotated[
        str, typer.Argument(help="A folder in the released format, or OWNER/NAME on the hub.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write, new or empty.")],
    vision_config: Annotated[
        Folder,
        typer.Option(
            help="Folder with the config.json of the original SigLIP vision tower, including its "
            "last layer. (default: so400m-patch14-384)"
        ),
    ] = None,
    clip_config: Annotated[
        Folder,
        typer.Option(
            help="Folder with the config.json of the CLIP frame encoder, and its tokenizer if it "
            "has its own. (default: ViT-B/32)"
        ),
    ] = None,
    tokenizer: Annotated[
        Folder,
        typer.Option(help="Folder with the language model's tokenizer. (default: SOURCE)"),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read pytorch_model*.bin if there is no safetensors file, with torch's restricted "
            "loader. A pickle may run arbitrary code: use this only for sources you trust.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert the released ViLAMP checkpoint into a stock model with the toolkit's parts."""
    import transformers

    from vtc_recipes.vilamp.convert import convert

    transformers.utils.logging.set_verbosity_error()
    result = convert(
        source,
        target,
        vision=vision_config,
        clip=clip_config,
        tokenizer=tokenizer,
        allow_pickle=allow_pickle,
        wrote=(lambda file: None) if as_json else (lambda file: print_line(f"wrote {file}")),
    )
    if as_json:
        print_json(asdict(result))
        return
    print(f"read {result.tensors} tensors, skipped {len(result.left_out)}")
    for kind, part in (("selector", result.selector), ("merger", result.merger)):
        options = [f"{name}={value!r}" for name, value in part.items() if name != "name"]
        print(f"{kind}: {part['name']}({', '.join(options)})")
    for note in result.notes:
        print_line(f"note: {note}")
    if result.has_processor:
        print(
            f'\nNext: vtc ask VIDEO "question" --model {shlex.quote(result.target)} '
            "--fps 1 --max-frames 600"
        )
