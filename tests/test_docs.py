"""The README and the docs keep what they promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vtc

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)
    return [body for name, body in found if name == language]


def test_the_first_example_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[0]
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    shown = blocks("")[1].splitlines()
    assert printed[0] == shown[0] == "dks + dfm: 60 frames, 8 keyframes, 241 -> 85 visual tokens"


def test_the_plug_in_of_the_readme_works():
    code = next(block for block in blocks("python") if "EveryNth" in block)
    space: dict = {}
    exec(compile(code, "README.md", "exec"), space)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 17
    part = space["EveryNth"](space["EveryNth"].Config(n=5))
    import torch

    assert part.select(torch.empty(12, 0)).keyframes.tolist() == [0, 5, 10]
    assert space["vtc_register_selectors"]() == {"every_nth": space["EveryNth"]}


def test_the_two_commands_are_named():
    assert "make demo" in README and "make test" in README


@pytest.mark.parametrize("part", vtc.parts(), ids=lambda part: f"{part.kind}-{part.name}")
def test_every_part_and_option_is_in_the_readme(part):
    assert f"`{part.name}`" in README
    for option in part.options:
        assert f"`{option}=" in README, option
    if part.kind == "adapter":
        assert f"`{part.name}`" in (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")


def test_every_public_name_is_importable_and_documented():
    for name in vtc.__all__:
        assert getattr(vtc, name).__doc__, name


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.name, target)


def test_the_shipped_model_is_asked_as_the_page_says():
    page = (ROOT / "docs" / "niah.md").read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M)
    (code,) = (block for block in found if "load_trained" in block)
    space: dict = {}
    exec(compile(code, "niah.md", "exec"), space)
    assert space["answer"].text == space["example"].question.answer


TRAIN = re.compile(r"^(?:.*; do )?(?:vtc|.*-m vtc\.cli) train ([a-z]\w+ .*)$", re.M)


def lines_that_train() -> list[str]:
    """Of the README and the docs, but for the log, which keeps the commands of its days."""
    pages = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "log.md"]
    texts = [page.read_text(encoding="utf-8").replace("\\\n", " ") for page in pages]
    return [line for text in [README, *texts] for line in TRAIN.findall(text)]


@pytest.mark.parametrize("line", lines_that_train())
def test_recipes_that_the_docs_train_take_their_settings(line):
    from vtc_recipes.reading import apply_overrides, load_yaml
    from vtc_recipes.shipped import find_config
    from vtc_recipes.tiny.reading import parse_tiny
    from vtc_recipes.training.config import parse_recipe

    name, *words = line.partition("#")[0].partition(";")[0].split()
    settings = [word.replace("$seed", "0") for word in words if "=" in word and word[0] != "-"]
    values = apply_overrides(load_yaml(find_config(name, "training")), settings)
    (parse_tiny if "stages" in values else parse_recipe)(values, line)


def test_there_are_such_lines():
    assert len(lines_that_train()) >= 8  # as many as there are
