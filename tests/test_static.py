"""Reading a class from its source says what importing it says, or leaves it to the import."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from inspect import cleandoc
from pathlib import Path
from typing import Any

import pytest

from vtc.plugins.classes import INTERFACES
from vtc.plugins.discovery import load_plugins
from vtc.plugins.registry import Registry
from vtc.plugins.static import NotStatic, read_class

SHIPPED = [
    claim
    for plugin in load_plugins()
    for claim in plugin.claims
    if claim.kind in INTERFACES
    if plugin.distribution == "video-token-compression"
]

GOOD = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vtc.interfaces.frame_selector import FrameSelector

if TYPE_CHECKING:
    import not_installed_at_all

LIMIT = 3


class Base(FrameSelector):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        count: int = 32
        share: float = -0.5
        whole: float = 1
        fill: Literal["none", "gaps"] = "none"
        cap: int | None = None

        def __post_init__(self) -> None:
            pass

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


class Part(Base):
    '''Chooses something.

    More about it.
    '''

    uses_query = False
    tokens: int = 1

    @dataclass(frozen=True, kw_only=True)
    class Config(Base.Config):
        extra: bool = True
        count: int = 16


class Heir(Part):
    pass
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module ``thirdparty`` and returns its class ``Part`` as ``"module:Class"``."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        (tmp_path / "thirdparty.py").write_text(source)
        importlib.invalidate_caches()
        return "thirdparty:Part"

    yield write
    sys.modules.pop("thirdparty", None)


def really(target: str) -> tuple[str, dict[str, Any]]:
    """Summary and options by importing the class, with nothing of the code under test."""
    module, _, name = target.partition(":")
    cls = getattr(importlib.import_module(module), name)
    summary = cleandoc(cls.__dict__["__doc__"] or "").split("\n")[0]
    if cls.__dict__.get("Config", getattr(cls, "Config", None)) is None:
        return summary, {}
    defaults = cls.Config()
    return summary, {f.name: getattr(defaults, f.name) for f in fields(defaults)}


def read(target: str, kind: str = "selector") -> tuple[str, dict[str, Any]]:
    facts = read_class(target, INTERFACES[kind])
    return facts.summary, facts.options


@pytest.mark.parametrize("claim", SHIPPED, ids=lambda claim: f"{claim.kind}-{claim.name}")
def test_shipped_parts_are_read_without_import_and_rightly(claim: Any) -> None:
    summary, options = read(claim.target, claim.kind)
    assert summary, "every shipped part says what it does"
    assert (summary, options) == really(claim.target)


def test_the_two_lists_are_equal() -> None:
    assert Registry().parts() == Registry().parts(load=True)


def test_options_are_read_with_those_inherited(write: Write) -> None:
    target = write(GOOD)
    summary, options = read(target)
    assert "thirdparty" not in sys.modules
    assert (summary, list(options.items())) == (
        "Chooses something.",
        [
            ("count", 16),
            ("share", -0.5),
            ("whole", 1),
            ("fill", "none"),
            ("cap", None),
            ("extra", True),
        ],
    )
    assert (summary, options) == really(target)
    assert list(options) == list(really(target)[1])
    assert read("thirdparty:Base") == really("thirdparty:Base")
    assert read("thirdparty:Heir") == ("", options) == really("thirdparty:Heir")


@dataclass(frozen=True)
class Edit:
    """A change of ``GOOD`` that its source alone does not settle."""

    old: str
    new: str
    why: str


EDITS = [
    Edit("class Part(Base)", "class Other(Base)", "does not define the class Part"),
    Edit("class Heir(Part)", "class Part(Base)", "does not define the class Part once"),
    Edit("class Heir(Part)", "Part = 3\nclass Heir(Base)", "does not define the class Part once"),
    Edit("class Part(Base)", "class Part(Base, dict)", "not exactly one base"),
    Edit("class Part(Base)", "class Part(Base, metaclass=type(Base))", "a metaclass"),
    Edit("class Part(Base)", "@print\nclass Part(Base)", "a decorator"),
    Edit("class Base(FrameSelector)", "class Base", "not exactly one base"),
    Edit("class Base(FrameSelector)", "class Base(Thing)", "Thing is not a plain import"),
    Edit("LIMIT = 3", "Base = FrameSelector", "Base is bound more than once"),
    Edit("class Base(FrameSelector)", "class Base(Part)", "Part is its own base"),
    Edit("LIMIT = 3", "from .near import x", "no package specified"),
    Edit("LIMIT = 3", "LIMIT = '\0'", "null bytes"),
    Edit("LIMIT = 3", "import not_there", "not_there is not installed"),
    Edit("LIMIT = 3", "from not_there.x import y", "not_there is not installed"),
    Edit("LIMIT = 3", "from vtc.not_there import y", r"vtc\.not_there is not installed"),
    Edit("LIMIT = 3", "from typing import *", r"what \* imports is unknown"),
    Edit("LIMIT = 3", "LIMIT = open('/nowhere')", "line 12: what it does at import is unknown"),
    Edit("LIMIT = 3", "raise RuntimeError", "what it does at import is unknown"),
    Edit("LIMIT = 3", "if True:\n    import x", "what it does at import is unknown"),
    Edit("LIMIT = 3", "FrameSelector.Config = 3", "what it does at import is unknown"),
    Edit("LIMIT = 3", "LIMIT = ", "invalid syntax"),
    Edit("    uses_query = False", "    if True:\n        x = 1", "the body of thirdparty:Part"),
    Edit("    def select(", "    def choose(", "Part does not define select"),
    Edit("        extra: bool = True", "        extra: bool = bool(1)", r"bool\(1\)"),
    Edit("        extra: bool = True", "        extra: bool", "not an option with a literal"),
    Edit("        extra: bool = True", "        extra: bool = 1", "1: allowed is bool"),
    Edit("        extra: bool = True", "        extra: list[int] = []", "unhashable type"),
    Edit("        extra: bool = True", "        extra: Thing = 1", "the type Thing"),
    Edit("        extra: bool = True", "        extra = 1", "not an option with a literal"),
    Edit("        extra: bool = True", "        name: str = ''", "no option can be called"),
    Edit("        extra: bool = True", "        if 1:\n            x: int = 1", "not an option"),
    Edit("    class Config(Base.Config)", "    class Config(Thing)", "base of Config is not in"),
    Edit("    tokens: int = 1", "    Config = None", r"Part\.Config is not a class defined in it"),
    Edit("(frozen=True, kw_only=True)", "(frozen=True)", "not decorated with @dataclass"),
    Edit("(frozen=True, kw_only=True)", "", "not decorated with"),
    Edit("from dataclasses import", "from dataclass_like import", "is not installed"),
    Edit("from dataclasses import", "from pydantic.dataclasses import", "not decorated with"),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: f"{e.old}-{e.new}")
def test_doubts_are_left_to_the_import(write: Write, edit: Edit) -> None:
    assert edit.old in GOOD
    target = write(GOOD.replace(edit.old, edit.new))
    with pytest.raises(NotStatic, match=edit.why):
        read(target)


@pytest.mark.parametrize("kind", ["merger", "adapter"])
def test_the_wrong_interface_is_noticed(write: Write, kind: str) -> None:
    with pytest.raises(NotStatic):
        read(write(GOOD), kind)


@pytest.mark.parametrize("target", ["no_such_module:Part", "vtc.no_such:Part", "no.such:Part"])
def test_missing_modules_are_noticed(target: str) -> None:
    with pytest.raises(NotStatic):
        read(target)


def test_classes_in_compiled_modules_are_left_to_the_import() -> None:
    with pytest.raises(NotStatic, match="there is no source of math"):
        read("math:Part")


def test_the_base_may_be_in_another_module(write: Write, tmp_path: Path) -> None:
    (tmp_path / "shared_base.py").write_text(GOOD)
    target = write(
        "import shared_base\n\nclass Part(shared_base.Base):\n    '''Far from its base.'''\n"
    )
    assert read(target)[0] == "Far from its base."
    assert "shared_base" not in sys.modules
    assert read(target) == really(target)
    del sys.modules["shared_base"]


def test_relative_imports_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packaged"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(GOOD)
    (package / "part.py").write_text(
        "from .base import Base\n\nclass Part(Base):\n    '''Near its base.'''\n"
    )
    (package / "lost.py").write_text("from .nowhere import Base\n\nclass Part(Base): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert read("packaged.part:Part") == ("Near its base.", read("packaged.base:Base")[1])
    with pytest.raises(NotStatic, match=r"packaged\.nowhere is not installed"):
        read("packaged.lost:Part")
    del sys.modules["packaged"]


def test_all_parts_are_listed_without_torch_and_quickly() -> None:
    code = "import sys, time; start = time.perf_counter(); import vtc; vtc.parts(); "
    code += "print('torch' in sys.modules, time.perf_counter() - start)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    torch, seconds = ended.stdout.split()
    assert torch == "False"
    assert float(seconds) < 2
