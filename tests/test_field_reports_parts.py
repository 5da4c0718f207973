"""Parts under hostile use: extreme options, plug-ins that raise, print or have odd names."""

from __future__ import annotations

import json
import math

import pytest
import torch

import vtc
from vtc.plugins.options import options_of
from vtc.plugins.registry import Registry, build_part
from vtc.testing import scene_embeddings

EXTREMES = [5e-324, 1e-310, 1e-45, 1e-38, 1e-30, 1e30, 1e37, 1e38, 3.4e38, 1e39, 1e308]
EXTREMES = [*EXTREMES, *(-x for x in EXTREMES), 0.0, math.inf, -math.inf, math.nan]

FLOATS = [
    (part.kind, part.name, name)
    for kind in ("selector", "merger")
    for part in vtc.parts(kind)
    for name, option in options_of(type(build_part(kind, part.name))).items()
    if float in (option.annotation, *getattr(option.annotation, "__args__", ()))
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("kind", "name", "option"), FLOATS)
def test_an_extreme_option_is_refused_or_gives_finite_numbers(kind, name, option, dtype):
    accepted = 0
    for value in EXTREMES:
        try:
            part = build_part(kind, {"name": name, option: value})
        except ValueError as error:
            assert option in str(error)
            continue
        accepted += 1
        if kind == "selector":
            relevance = part.select(*scene_embeddings(9, dim=4, seed=0, dtype=dtype)).relevance
            assert relevance is None or relevance.isfinite().all()
        else:
            part.build(16, 16)
            patches, reference = torch.randn(2, 3, 9, 16).to(dtype)
            tokens = part(patches, reference, torch.arange(3) > 0, patches[0, 0])
            assert torch.cat(list(tokens)).isfinite().all()
    assert 0 < accepted < len(EXTREMES)


PLUGIN = """
import vtc
from dataclasses import dataclass, field

class Own(BaseException): pass
class Silent(Own):
    def __str__(self): raise Own("no words")
def fail(): raise Own("on purpose")

class Even(vtc.FrameSelector):
    uses_query = uses_embeddings = False
    def select(self, embeddings, query=None, timestamps=None): {select}
    {extra}

class Pool(vtc.TokenMerger):
    query_source = None
    def forward(self, patches, reference, has_reference, query): {forward}

{module}

@vtc.hookimpl
def vtc_register_selectors(): return {{{name!r}: Even}}
@vtc.hookimpl
def vtc_register_mergers(): return {{"pool": Pool}}
"""


@pytest.fixture
def install(install_plugin, monkeypatch):
    """Install a plug-in `acme`, made from `PLUGIN`; return its registry."""

    def install(name="even", select="fail()", forward="fail()", extra="", module=""):
        places = {"name": name, "select": select, "forward": forward, "extra": extra}
        install_plugin("acme-vtc", "acme", PLUGIN.format(**places, module=module))
        registry = Registry()
        monkeypatch.setattr("vtc.plugins.registry._registry", registry)
        return registry

    return install


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("fail()", "Own: on purpose"),
        ("import pytest; pytest.skip('no GPU', allow_module_level=True)", "Skipped: no GPU"),
        ("raise Silent()", "Silent: its message raised Own"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
)
def test_a_plug_in_that_raises_any_exception_is_skipped(install, module, error):
    registry = install(module=module)
    with pytest.warns(UserWarning, match=rf"acme-vtc 1.5\) is skipped: acme: {error}"):
        (info,) = registry.parts("plug-in")
    assert info.error == error
    assert registry.build("selector", "uniform").config.keyframes == 32


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "MemoryError"])
def test_ctrl_c_and_lack_of_memory_while_plug_ins_load_are_raised(install, error):
    with pytest.raises((KeyboardInterrupt, MemoryError)):
        install(module=f"raise {error}").parts()


@pytest.mark.parametrize(
    "name", ["", " ", "--help", "-x", "a b", "a\n", "\x1b[31mred", "a/b", "a:b", "{}", "_a", "[b]"]
)
def test_names_that_cannot_be_typed_or_printed_are_refused(install, name):
    registry = install(name)
    with pytest.warns(UserWarning, match="expected names of letters, digits, '_', '.' and '-' th"):
        (info,) = registry.parts("plug-in")
    assert repr(name) in info.error


@pytest.mark.parametrize("name", ["a", "dks2", "my-part", "v1.5", "größe", "選択", "2d_pool"])
def test_other_names_work(install, name):
    assert type(install(name).build("selector", name)).__name__ == "Even"


CONFIG = """
    @dataclass(frozen=True, kw_only=True)
    class Config:
        size: int = 1
        def __post_init__(self):
            if self.size > 1: fail()
            if self.size < 1: raise ValueError(f"expected size >= 1, got {self.size}")
"""


def test_an_error_inside_a_constructor_names_the_plug_in(install):
    registry = install(extra="def __init__(self, config=None): fail()")
    message = r"^selector 'even' of plug-in 'acme' \(acme-vtc 1\.5\) failed: Own: on purpose$"
    with pytest.raises(RuntimeError, match=message):
        registry.build("selector", "even")


def test_an_error_inside_a_config_names_the_plug_in_and_a_wrong_value_does_not(install):
    registry = install(extra=CONFIG)
    message = r"^selector 'even' of plug-in 'acme' \(acme-vtc 1\.5\) failed: Own: on purpose$"
    with pytest.raises(RuntimeError, match=message):
        registry.build("selector", {"name": "even", "size": 2})
    with pytest.raises(ValueError, match=r"^selector 'even': expected size >= 1, got 0$"):
        registry.build("selector", {"name": "even", "size": 0})


def test_a_part_whose_defaults_raise_is_listed_as_broken(install):
    extra = CONFIG.replace("size: int = 1", "size: int = field(default_factory=fail)")
    (info,) = [info for info in install(extra=extra).parts("selector") if info.name == "even"]
    assert info.error == "Own: on purpose"


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        ("fail()", RuntimeError, "{} failed: Own: on purpose$"),
        ("raise KeyError('x')", RuntimeError, "{} failed: KeyError: 'x'$"),
        ("raise ValueError('too dark')", ValueError, "{}: too dark$"),
    ],
)
@pytest.mark.parametrize("part", ["selector 'even'", "merger 'pool'"])
def test_an_error_inside_a_call_names_the_plug_in(
    install, model, processor, encoder, make_video, part, raised, kind, message
):
    place = {"select": raised} if "even" in part else {"forward": raised}
    registry = install(**place)
    selector = "even" if "even" in part else "uniform"
    merger = "pool" if "pool" in part else "mean_pool"
    vtc.wrap(model, registry.build("selector", selector), registry.build("merger", merger),
             processor=processor, encoder=encoder)  # fmt: skip
    label = rf"^{part} of plug-in 'acme' \(acme-vtc 1\.5\)"
    with pytest.raises(kind, match=message.format(label)):
        vtc.ask(model, processor, make_video(40), "What?", max_new_tokens=1)


def test_control_characters_of_a_docstring_are_not_printed(install, capsys, monkeypatch):
    from vtc.cli import app

    monkeypatch.setenv("COLUMNS", "200")
    extra = '"""Clears \\x1b[2J the [bold]screen[/nothing].\\x07"""'
    install(module=f"Even.__doc__ = {extra}")
    with pytest.raises(SystemExit):
        app(["parts", "selector"], prog_name="vtc")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert r"Clears \x1b[2J the [bold]screen[/nothing]" in " ".join(out.split())


def test_what_a_plug_in_prints_does_not_spoil_json(install, capsys):
    from vtc.cli import app

    install(module="print('hello from acme')")
    with pytest.raises(SystemExit):
        app(["parts", "selector", "--json"], prog_name="vtc")
    out, err = capsys.readouterr()
    assert "even" in [part["name"] for part in json.loads(out)]
    assert "hello from acme" in err
