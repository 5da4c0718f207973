"""The README and the docs keep what they promise; their commands: test_documented_commands.py."""

from __future__ import annotations

import ast
import doctest
import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import vtc

ROOT = Path(__file__).resolve().parents[1]
# The log keeps the names and commands of its days.
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")))
    if page.name != "log.md"
}
README = PAGES["README.md"]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    body: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def blocks(page: str) -> list[Block]:
    matches = re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", PAGES[page], flags=re.S | re.M)
    return [
        Block(
            page,
            PAGES[page][: match.start()].count("\n") + 1,
            match[2],
            textwrap.dedent(match[3]),
        )
        for match in matches
    ]


def blocks_in(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def run(block: Block, space: dict) -> None:
    exec(compile(block.body, str(block), "exec"), space)


def printed_by(page: str, tmp_path: Path, monkeypatch, capsys) -> tuple[list[str], list[str], dict]:
    """Run the first block of a page: the lines printed, those the page shows, and its names."""
    monkeypatch.chdir(tmp_path)
    block, result = [
        block for block in blocks(page) if block.language == "python" or not block.language
    ][:2]
    space: dict = {}
    run(block, space)
    return capsys.readouterr().out.splitlines(), result.body.splitlines(), space


def test_the_example_of_the_readme_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    printed, shown, _ = printed_by("README.md", tmp_path, monkeypatch, capsys)
    assert printed[:2] == shown[:2]
    assert printed[0] == "red"
    assert [line.partition(" ")[0] for line in printed] == [line.split()[0] for line in shown]
    assert len(blocks("README.md")[1].body.strip().splitlines()) <= 10


def test_the_examples_of_the_guide_run_in_order(tmp_path, monkeypatch, capsys):
    printed, shown, space = printed_by("docs/guide.md", tmp_path, monkeypatch, capsys)
    assert printed[0] == shown[0] == "dks + dfm: 60 frames, 8 keyframes, 241 -> 85 visual tokens"
    examples = [block for block in blocks("docs/guide.md") if block.language == "python"][1:]
    assert len(examples) >= 3
    for block in examples:
        run(block, space)
    assert isinstance(space["text"], str)


def test_the_examples_of_the_synthetic_world_have_the_values_in_their_comments(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks("docs/niah.md") if "random_video(" in block.body)
    space: dict = {}
    values = 0
    for line in block.body.splitlines():
        code, _, comment = line.partition("  # ")
        if comment and not comment.startswith("["):
            value = str(eval(code, space))
            assert comment.startswith(value), line
            values += 1
        else:
            exec(code, space)
    assert values >= 6


@pytest.mark.parametrize("function", [vtc.wrap, vtc.ask], ids=["wrap", "ask"])
def test_the_example_in_the_docstring_prints_what_it_shows(function):
    from vtc_recipes.synthetic import make_example

    (example,) = doctest.DocTestFinder(recurse=False).find(
        function, globs={"vtc": vtc, "make_example": make_example}
    )
    assert len(example.examples) >= 4
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_shipped_model_is_asked_as_the_page_says():
    (block,) = (block for block in blocks("docs/niah.md") if "load_trained" in block.body)
    space: dict = {}
    run(block, space)
    assert space["answer"].text == space["example"].question.answer


@pytest.mark.parametrize("block", blocks_in("python"), ids=str)
def test_python_compiles(block):
    ast.parse(block.body)


@pytest.mark.parametrize("block", blocks_in("yaml"), ids=str)
def test_yaml_is_valid(block):
    assert yaml.safe_load(block.body)


def test_the_plug_in_of_the_readme_installs_and_is_found(tmp_path):
    """Its two files as they stand, by pip, beside the installed packages."""
    (code,) = (block.body for block in blocks("README.md") if "EveryNth" in block.body)
    (project,) = (block.body for block in blocks("README.md") if block.language == "toml")
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 17
    (tmp_path / "my_plugin.py").write_text(code)
    (tmp_path / "pyproject.toml").write_text(project)
    site = tmp_path / "site"
    pip = "pip install --quiet --no-deps --no-build-isolation --no-index --target".split()
    subprocess.run([sys.executable, "-m", *pip, str(site), str(tmp_path)], check=True)
    paths = [str(site), *(str(Path(path).resolve()) for path in sys.path if path)]
    script = f"""
import sys; sys.path[:0] = {paths!r}
import torch, vtc
from vtc.plugins.registry import build_part
part = build_part("selector", vtc.selector("every_nth", n=5))
print(part.select(torch.empty(12, 0)).keyframes.tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "[0, 5, 10]", done.stderr


def test_the_two_commands_are_named():
    assert "make demo" in README and "make test" in README


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 125


@pytest.mark.parametrize("part", vtc.parts(), ids=lambda part: f"{part.kind}-{part.name}")
def test_every_part_and_option_is_documented(part):
    pages = {"adapter": "docs/models.md", "budget": "docs/budgets.md"}
    page = PAGES[pages.get(part.kind, "docs/methods.md")]
    assert f"`{part.name}`" in page
    for option in part.options:
        assert f"`{option}=" in page, option
    if part.kind == "adapter":
        assert f"`{part.name}`" in PAGES["docs/adapters.md"]


def test_every_public_name_is_importable_and_documented():
    for name in vtc.__all__:
        assert getattr(vtc, name).__doc__, name


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", PAGES[page]):
        if "://" in target:
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_exist(page):
    folders = "vtc|selectors|mergers|adapters|recipes|tests|benchmarks|examples|docs"
    for name in re.findall(
        rf"`((?:{folders})/[\w./-]*\w+\.\w+|(?:{folders})/[\w/]*/)`", PAGES[page]
    ):
        if "NAME" not in name:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_can_be_reached_from_the_readme(page):
    seen, new = set(), ["README.md"]
    while new:
        here = new.pop()
        seen.add(here)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", PAGES[here]):
            file = ((ROOT / here).parent / target).resolve()
            name = str(file.relative_to(ROOT))
            if name in PAGES and name not in seen:
                new.append(name)
    assert page in seen


def test_a_missing_anchor_is_noticed():
    assert anchors("# A b, c!\n```\n# no heading\n```\n") == {"a-b-c"}


TRAIN = re.compile(r"^(?:.*; do )?(?:vtc|.*-m vtc\.cli) train ([a-z]\w+ .*)$", re.M)
RECIPE = re.compile(r"\{recipe: (\w+), settings: \[([^\]]*)\]")


def trainings() -> list[str]:
    """A recipe and its settings, of each line that trains and of each model that a grid trains."""
    pages = [text.replace("\\\n", " ") for text in PAGES.values()]
    lines = [line for text in pages for line in TRAIN.findall(text)]
    models = [match for text in pages for match in RECIPE.findall(text)]
    return [*lines, *(f"{name} {settings.replace(',', ' ')}" for name, settings in models)]


@pytest.mark.parametrize("line", trainings())
def test_recipes_that_the_docs_train_take_their_settings(line):
    from vtc_recipes.reading import load_yaml
    from vtc_recipes.shipped import find_config
    from vtc_recipes.tiny.reading import parse_tiny
    from vtc_recipes.training.config import apply_settings, parse_recipe

    name, *words = line.partition("#")[0].partition(";")[0].split()
    settings = [word.replace("$seed", "0") for word in words if "=" in word and word[0] != "-"]
    values = apply_settings(load_yaml(find_config(name, "training")), settings)
    (parse_tiny if "stages" in values else parse_recipe)(values, line)


def test_there_are_such_lines():
    assert len(trainings()) >= 9  # as many as there are
