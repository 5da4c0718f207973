"""Every command in the README, the docs and the help texts is one that the command line takes."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

import vtc
from vtc.cli import app
from vtc.cli.models import read_options
from vtc.plugins.registry import build_part

ROOT = Path(__file__).resolve().parents[1]
# The log keeps the commands of its days, and the changelog names what is gone.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "log.md"),
]
GROUP: Any = typer.main.get_command(app)


class Command(NamedTuple):
    """A command as a page shows it: whole lines can be run, inline ones may be incomplete."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def in_blocks(text: str) -> list[str]:
    """The shell lines of fenced blocks, continued lines joined."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.S | re.M)
    shell = [body.replace("\\\n", " ") for language, body in blocks if language in {"", "bash"}]
    return [line for body in shell for line in body.splitlines()]


def in_line(text: str) -> list[str]:
    """The inline code of a page, outside of its fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def split(line: str) -> list[tuple[str, ...]]:
    """The commands of a shell line, without prompts, variables, loops and comments."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # the output of a command, with an apostrophe in it
        return []
    commands: list[list[str]] = [[]]
    for word in words:
        if word in {"&&", "|", "&", ";", ">"}:
            commands.append([])
        elif word.endswith(";"):
            commands[-1].append(word[:-1])
            commands.append([])
        elif commands[-1] or not (word in {"$", "do", "done", "srun"} or re.match(r"\w+=", word)):
            commands[-1].append(word)
    return [tuple(command) for command in commands if command]


def commands(program: str) -> list[Command]:
    """The commands of all pages that start with ``program``, each once."""
    wanted = tuple(program.split())
    result = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = str(page.relative_to(ROOT))
        for whole, lines in ((True, in_blocks(text)), (False, in_line(text))):
            for words in (words for line in lines for words in split(line)):
                if words[: len(wanted)] == wanted:
                    result.setdefault((words, whole), Command(name, words, whole))
    return list(result.values())


def parse(words: tuple[str, ...]) -> Any:
    """The context of a ``vtc`` command, which is not run."""
    if words[0].startswith("-"):
        return GROUP.make_context("vtc", list(words))
    command, rest = find_command(words)
    return command.make_context(words[0], rest)


def find_command(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """The command that the words start with, in groups one of their own, and the others."""
    with GROUP.make_context("vtc", [words[0]]) as context:
        command = GROUP.get_command(context, words[0])
    assert command is not None, f"there is no command {words[0]!r}"
    rest = list(words[1:])
    while hasattr(command, "commands"):
        if rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        elif command.no_args_is_help:
            known = ", ".join(command.commands)
            is_name = rest and re.fullmatch(r"[a-z][a-z_-]*", rest[0])
            assert not is_name, f"{words[0]} has no command {rest[0]}, only {known}"
            break
        else:
            with command.make_context(words[0], rest) as context:
                _, command, rest = command.resolve_command(
                    context, [*context._protected_args, *context.args]
                )
    return command, rest


@cache
def options(words: tuple[str, ...]) -> frozenset[str]:
    """The options of a ``vtc`` command; ``--debug`` may follow any."""
    command, _ = find_command(words)
    opts = [option for parameter in command.params for option in parameter.opts]
    return frozenset([*opts, "--help", "--debug"])


def check_names(words: tuple[str, ...]) -> None:
    """Check the command and the options of a mention that may lack arguments."""
    if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
        return  # ``vtc`` alone, ``vtc COMMAND``
    names = tuple(itertools.takewhile(lambda word: not word.startswith("-"), words))
    unknown = {word for word in words if re.match(r"--?[a-z]", word)} - options(names)
    assert not unknown, f"vtc {words[0]} has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("command", commands("vtc"), ids=str)
def test_vtc_takes_the_command(command):
    words = command.words[1:]
    if not command.whole or "..." in words or any("|" in word for word in words):
        check_names(words)
        return
    values = parse(words).params
    for kind in ("selector", "merger"):
        given = read_options(values.get(f"{kind}_option") or [])
        name = values.get(kind) or {"selector": "dks", "merger": "dfm"}[kind]
        if given:
            build_part(kind, {"name": name, **given})
    if values.get("adapter_option"):
        assert_some_family_takes(read_options(values["adapter_option"]))


def assert_some_family_takes(given: dict[str, Any]) -> None:
    for part in vtc.parts("adapter"):
        if given.keys() <= part.options.keys():
            build_part("adapter", {"name": part.name, **given})
            return
    pytest.fail(f"no family has the options {', '.join(given)}")


def helps() -> list[tuple[str, str]]:
    """The help texts of all commands and options, each with where it stands."""
    with GROUP.make_context("vtc", ["parts"]) as context:
        found = [(name, GROUP.get_command(context, name)) for name in GROUP.list_commands(context)]
    for name, command in found:  # it grows by the commands of groups
        inner = getattr(command, "commands", {}).items()
        found += [(f"{name} {each}", one) for each, one in inner]
    return [
        (f"{name}: {' '.join(getattr(item, 'opts', []))}", text)
        for name, command in found
        for item in (command, *command.params)
        if (text := getattr(item, "help", None))
    ]


@pytest.mark.parametrize(("place", "text"), helps(), ids=lambda value: str(value)[:30])
def test_help_texts_name_commands_and_options_that_exist(place, text):
    for mention in re.findall(r"\bvtc ([a-z][a-z-]+(?: --[a-z-]+)*)", text):
        check_names(tuple(mention.split()))
    own = options(tuple(place.partition(":")[0].split()))
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        elsewhere = f"vtc [a-z-]+ (?:--[a-z-]+ )*{option}"
        assert option in own or re.search(elsewhere, text), f"{place}: there is no {option}"


def all_commands() -> list[tuple[str, ...]]:
    """The words of every command, those in groups too."""
    with GROUP.make_context("vtc", ["parts"]) as context:
        result = [
            ((name,), GROUP.get_command(context, name)) for name in GROUP.list_commands(context)
        ]
    for words, command in result:  # it grows by the commands of groups
        result += [((*words, name), one) for name, one in getattr(command, "commands", {}).items()]
    return [words for words, command in result if not hasattr(command, "commands")]


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_that_prints_a_result_has_json(words):
    assert ("--json" in options(words)) == (words != ("serve",))


@pytest.mark.parametrize("command", commands("pytest") + commands("python -m pytest"), ids=str)
def test_pytest_finds_what_the_command_names(command):
    for word in command.words:
        if word.endswith(".py"):
            assert (ROOT / word).is_file(), word
    if "-k" in command.words:
        wanted = command.words[command.words.index("-k") + 1]
        files = [ROOT / word for word in command.words if word.endswith(".py")]
        assert any(wanted in file.read_text(encoding="utf-8") for file in files), wanted


@pytest.mark.parametrize("command", commands("python -m"), ids=str)
def test_the_module_of_the_command_exists(command):
    module = command.words[2]
    if module in {"build", "pip", "venv"}:
        return
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    file = Path(spec.origin)
    if file.name == "__init__.py" and module != "pytest":
        file = file.with_name("__main__.py")
        assert file.is_file(), f"{module} cannot be run"
    if module.startswith("vtc"):
        check_options_of_a_script(file, command.words[3:])


@pytest.mark.parametrize(
    "command",
    [command for command in commands("python") if command.words[1:2] and "/" in command.words[1]],
    ids=str,
)
def test_the_script_of_the_command_exists(command):
    check_options_of_a_script(ROOT / command.words[1], command.words[2:])


def check_options_of_a_script(file: Path, words: tuple[str, ...]) -> None:
    source = file.read_text(encoding="utf-8")
    for word in words:
        if word.startswith("--"):
            name = word.lstrip("-").replace("-", "_")
            assert f'"{word}"' in source or f" {name}:" in source, f"{file.name} has no {word}"


@pytest.mark.parametrize("command", commands("make"), ids=str)
def test_make_has_the_target(command):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for word in command.words[1:]:
        if "=" not in word:
            assert word in targets, word


def test_the_pages_show_commands_of_each_kind():
    for program, least in {"vtc": 60, "python -m": 8, "pytest": 2, "make": 6}.items():
        assert len(commands(program)) >= least, program


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("ask", "talk.mp4", "Why?", "--keyframe", "3"), "No such option"),
        (("ask", "talk.mp4"), "Missing parameter: questions"),
        (("ask", "talk.mp4", "Why?", "--keyframes", "few"), "valid integer"),
        (("asks", "talk.mp4"), "no command"),
    ],
)
def test_a_wrong_command_is_noticed(words, error):
    with pytest.raises(BaseException, match=error):
        parse(words)
