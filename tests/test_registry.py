"""Parts by name, their options, and plug-ins that work, break, and get in each other's way."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vtc
from vtc.plugins.options import conform
from vtc.plugins.registry import Registry, adapter_for, build_part, spec_of

SELECTOR = """
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vtc.interfaces.frame_selector import FrameSelector


class Even(FrameSelector):
    '''Takes every other frame.

    Only a test would.
    '''

    @dataclass(frozen=True, kw_only=True)
    class Config:
        stride: int = 2
        share: float = 0.5
        ends: bool = True
        title: str | None = None
        fill: Literal["none", "gaps"] = "none"
        sizes: tuple[int, ...] = (1, 2)

        def __post_init__(self) -> None:
            if self.stride < 1:
                raise ValueError(f"stride={self.stride}: allowed is a whole number of at least 1")

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


class Bare(FrameSelector):
    '''Has no options.'''

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


class Unfinished(FrameSelector):
    '''Lacks its method.'''


class Stranger:
    '''Is no selector.'''
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts throw-away distributions on sys.path; forgets their modules afterwards."""

    def install(
        distribution: str, module: str, source: str, name: str | None = None, folder: str = "site"
    ) -> None:
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5")
        (info / "entry_points.txt").write_text(f"[vtc]\n{name or module} = {module}\n")
        (site / f"{module}.py").write_text(dedent(source))
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    yield install
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def registering(mapping: str, hook: str = "vtc_register_selectors", start: str = "") -> str:
    return f"{start}\nimport vtc\n\n@vtc.hookimpl\ndef {hook}():\n    return {mapping}\n"


@pytest.fixture
def even(install: Install) -> Registry:
    """A registry in which the plug-in ``acme`` has the selectors of ``SELECTOR``."""
    names = {"even": "Even", "bare": "Bare", "unfinished": "Unfinished", "stranger": "Stranger"}
    mapping = {name: f"acme:{cls}" for name, cls in names.items()}
    install("acme-vtc", "acme", SELECTOR + registering(repr(mapping)))
    return Registry()


def broken(install: Install, source: str, **options: str) -> str:
    """The error recorded for a plug-in ``acme``, having checked all that must go with it."""
    install("acme-vtc", "acme", source, **options)
    registry = Registry()
    with pytest.warns(UserWarning) as warned:
        (info,) = registry.parts("plug-in")
    assert (info.kind, info.name, info.plugin) == ("plug-in", "acme", "acme")
    assert (info.distribution, info.version, info.options) == ("acme-vtc", "1.5", {})
    assert info.error is not None
    (message,) = [str(w.message) for w in warned]
    assert message == f"plug-in 'acme' (acme-vtc 1.5), acme, is skipped: {info.error}"
    with pytest.raises(ValueError) as unknown:
        registry.get_class("selector", "even")
    assert str(unknown.value).endswith(f"Skipped plug-ins: acme ({info.error}).")
    assert_shipped_work(registry)
    return info.error


def assert_shipped_work(registry: Registry) -> None:
    assert registry.build("selector", {"name": "uniform", "keyframes": 3}).config.keyframes == 3
    assert {"dks", "query_guided", "uniform"} <= {i.name for i in registry.parts("selector")}


# Making parts


def test_names_mappings_and_instances_make_parts(even: Registry) -> None:
    by_name = even.build("selector", "even")
    by_mapping = even.build("selector", {"name": "even", "stride": 3, "sizes": [4], "share": 1})
    assert asdict(by_name.config)["stride"] == 2
    assert asdict(by_mapping.config)["stride"] == 3
    assert by_mapping.config.sizes == (4,)
    assert even.build("selector", by_mapping) is by_mapping
    assert even.build("selector", "bare").config is None


def test_spec_makes_an_equal_part_even_after_json(even: Registry) -> None:
    part = even.build("selector", {"name": "even", "stride": 3, "title": "x", "sizes": (4, 5)})
    spec = even.spec_of(part)
    assert spec == {
        "name": "even",
        "stride": 3,
        "share": 0.5,
        "ends": True,
        "title": "x",
        "fill": "none",
        "sizes": (4, 5),
    }
    again = even.build("selector", json.loads(json.dumps(spec)))
    assert type(again) is type(part) and again.config == part.config
    assert even.spec_of(even.build("selector", "bare")) == {"name": "bare"}


def test_public_verbs() -> None:
    assert vtc.selector("dks", keyframes=16).config.keyframes == 16
    assert build_part("selector", {"name": "uniform", "keyframes": 5}).config.keyframes == 5
    assert spec_of(vtc.selector("uniform", keyframes=5)) == {"name": "uniform", "keyframes": 5}
    with pytest.raises(ValueError, match=r"^selector 'dks' has no option 'name'; it takes: keyf"):
        vtc.selector("dks", **{"name": "uniform"})


def test_adapter_for() -> None:
    assert type(adapter_for("llava_onevision")).__name__ == "LlavaOnevisionAdapter"
    with pytest.raises(ValueError) as error:
        adapter_for("llava_onevisio")
    assert str(error.value).startswith("no adapter for model_type 'llava_onevisio'; supported: ")
    assert "Did you mean 'llava_onevision'? docs/adapters.md shows how" in str(error.value)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("evn", ValueError, r"^unknown selector 'evn'; known: .*bare, .*\. Did you mean 'even'\?$"),
        ({"stride": 2}, ValueError, r"^selector {'stride': 2} has no name; write {'name'"),
        ({"name": 3}, TypeError, r"^the name of the selector must be a str, got 3$"),
        (
            3,
            TypeError,
            r"^selector must be a name \(.*bare, .*instance of vtc.FrameSelector; got 3$",
        ),
        (None, TypeError, r"got None$"),
        (vtc.FrameSelector, TypeError, r"got the class FrameSelector$"),
        (
            {"name": "even", "strid": 1},
            ValueError,
            r"^selector 'even' has no option 'strid'; it takes: stride, share, ends, title, fill, "
            r"sizes\. Did you mean 'stride'\?$",
        ),
        ({"name": "even", 1: 2}, ValueError, r"^selector 'even' has no option 1; it takes: str"),
        ({"name": "bare", "y": 1}, ValueError, r"^selector 'bare' takes no options, got 'y'$"),
        (
            {"name": "even", "stride": 0},
            ValueError,
            r"^selector 'even': stride=0: allowed is a whole number of at least 1$",
        ),
        (
            {"name": "even", "fill": "gap"},
            ValueError,
            r"^selector 'even': expected fill to be 'none' or 'gaps', got 'gap'$",
        ),
        (
            {"name": "even", "stride": "8"},
            TypeError,
            r"^selector 'even': expected stride to be int, got '8' \(str\)$",
        ),
        (
            {"name": "even", "stride": True},
            TypeError,
            r"expected stride to be int, got True \(bool\)$",
        ),
        (
            {"name": "even", "stride": 3.0},
            TypeError,
            r"expected stride to be int, got 3.0 \(float\)$",
        ),
        (
            {"name": "even", "stride": None},
            TypeError,
            r"expected stride to be int, got None \(NoneType\)$",
        ),
        (
            {"name": "even", "share": "1"},
            TypeError,
            r"expected share to be float, got '1' \(str\)$",
        ),
        (
            {"name": "even", "share": True},
            TypeError,
            r"expected share to be float, got True \(bool\)$",
        ),
        ({"name": "even", "ends": 1}, TypeError, r"expected ends to be bool, got 1 \(int\)$"),
        (
            {"name": "even", "title": 1},
            TypeError,
            r"expected title to be str \| None, got 1 \(int\)$",
        ),
        (
            {"name": "even", "sizes": [1, "2"]},
            TypeError,
            r"expected sizes to be tuple\[int, \.+\], got",
        ),
    ],
)
def test_errors_of_specs(even: Registry, spec: object, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        even.build("selector", spec)


def test_parts_that_cannot_be_named_again(even: Registry) -> None:
    class Local(vtc.FrameSelector):
        def select(self, embeddings: Any, query: Any = None, timestamps: Any = None) -> Any:
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"Local is not registered, .* vtc_register_\* hook"):
        even.spec_of(Local())
    part = even.build("selector", "even")
    part.config = None
    with pytest.raises(TypeError, match=r"Even does not keep its options in self\.config; its __i"):
        even.spec_of(part)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@given(JSON_VALUES)
def test_json_values_conform_to_their_own_type_only(value: Any) -> None:
    fitting = {bool: [bool], int: [int, float], float: [float], str: [str], type(None): []}
    for annotation in (bool, int, float, str):
        if annotation in fitting.get(type(value), []):
            assert conform(value, annotation) is value
            assert conform([value], list[annotation]) == [value]
            assert conform({"k": value}, dict[str, annotation] | None) == {"k": value}
        else:
            with pytest.raises(TypeError):
                conform(value, annotation)
            with pytest.raises(TypeError):
                conform([value], list[annotation])
            with pytest.raises(TypeError):
                conform({"k": value}, dict[str, annotation] | None)


def test_a_bool_is_no_literal_number() -> None:
    assert conform(1, Literal[1, False]) == 1
    with pytest.raises(ValueError, match="^allowed is 1 or False$"):
        conform(True, Literal[1, False])


@pytest.mark.parametrize("annotation", [object, Path, list, Any])
def test_only_plain_json_types_are_options(annotation: Any) -> None:
    with pytest.raises(TypeError):
        conform(Path("x"), annotation)


CONFIGS = {
    "@dataclass\nclass Config:\n    a: int = 1": r"must be a frozen, keyword-only dataclass",
    "@dataclass(frozen=True)\nclass Config:\n    a: int = 1": r"must be a frozen, keyword-only",
    "@dataclass(kw_only=True)\nclass Config:\n    a: int = 1": r"must be a frozen, keyword-only",
    "class Config:\n    a = 1": r"must be a frozen, keyword-only dataclass: @dataclass\(frozen=",
    "Config = 3": r"must be a frozen, keyword-only dataclass",
    "@FROZEN\nclass Config:\n    a: int": r"option 'a' needs a default and init=True",
    "@FROZEN\nclass Config:\n    a: int = field(default=1, init=False)": r"needs a default and in",
    "@FROZEN\nclass Config:\n    a: int = '1'": r"default a='1' does not fit int; options are pl",
    "@FROZEN\nclass Config:\n    a: object = 1": r"default a=1 does not fit object; options are p",
    "@FROZEN\nclass Config:\n    a: Nowhere = 1": r"cannot be read: NameError: name 'Nowhere'",
    "@FROZEN\nclass Config:\n    name: str = ''": r"no option can be called 'name'",
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.replace("\n", " "))
def test_malformed_configs_name_the_class(install: Install, config: str) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
    head += "from vtc.interfaces.frame_selector import FrameSelector\n"
    body = config.replace("@FROZEN", "@dataclass(frozen=True, kw_only=True)")
    body += "\ndef select(self, embeddings, query=None, timestamps=None): ..."
    source = f"{head}\nclass Odd(FrameSelector):\n{indent(body, '    ')}\n"
    install("acme-vtc", "acme", source + registering("{'odd': 'acme:Odd'}"))
    registry = Registry()
    (info,) = [info for info in registry.parts("selector") if info.name == "odd"]
    with pytest.raises(TypeError, match=rf"^acme\.Odd\.Config.*{CONFIGS[config]}") as error:
        registry.build("selector", "odd")
    assert info.error == str(error.value)
    assert_shipped_work(registry)


# Broken plug-ins


def test_a_broken_import_is_skipped(install: Install) -> None:
    error = broken(install, "import nowhere_to_be_found")
    assert error == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


def test_a_plugin_that_exits_does_not_end_the_program(install: Install) -> None:
    assert broken(install, "import sys\nsys.exit('needs CUDA')") == "SystemExit: needs CUDA"


def test_a_keyboard_interrupt_passes(install: Install) -> None:
    install("acme-vtc", "acme", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry().parts()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            registering("{}", hook="vtc_register_selector"),
            "ValueError: there is no hook 'vtc_register_selector'; hooks: vtc_register_selectors, "
            "vtc_register_mergers, vtc_register_adapters, vtc_register_commands, "
            "vtc_register_models. Did you mean 'vtc_register_selectors'?",
        ),
        (
            "def vtc_register_selectors():\n    return {}",
            "ValueError: these need @vtc.hookimpl above them: vtc_register_selectors",
        ),
        (
            registering("{}") + "\ndef vtc_register_mergers():\n    return {}\n",
            "ValueError: these need @vtc.hookimpl above them: vtc_register_mergers",
        ),
        (
            "import vtc",
            "ValueError: it has no hook; hooks: vtc_register_selectors, vtc_register_mergers, "
            "vtc_register_adapters, vtc_register_commands, vtc_register_models, each under "
            "@vtc.hookimpl",
        ),
        (registering("1 / 0"), "ZeroDivisionError: division by zero"),
        (
            registering("None"),
            "TypeError: vtc_register_selectors must return a mapping from names to classes, "
            "got NoneType",
        ),
        (
            registering("['acme:Even']"),
            "TypeError: vtc_register_selectors must return a mapping from names to classes, "
            "got list",
        ),
        (
            registering("{1: 'acme:Even'}"),
            "TypeError: vtc_register_selectors: names must be str, got 1",
        ),
        (
            registering("{'even': 5}"),
            "TypeError: vtc_register_selectors: 'even' must be a class or 'module:Class', got 5",
        ),
        (
            registering("{'even': 'acme.Even'}"),
            "ValueError: vtc_register_selectors: 'even': 'acme.Even' does not read 'module:Class'",
        ),
    ],
)
def test_wrong_hooks_break_their_plugin_alone(install: Install, source: str, error: str) -> None:
    assert broken(install, source) == error


def test_a_hook_of_a_wrong_signature_is_one_line(install: Install) -> None:
    source = "import vtc\n@vtc.hookimpl\ndef vtc_register_selectors(extra):\n    return {}\n"
    error = broken(install, source)
    assert error.startswith("PluginValidationError: ") and "'extra'" in error and "\n" not in error


def test_a_hook_of_another_version_may_be_optional(install: Install) -> None:
    source = "import vtc\n@vtc.hookimpl(optionalhook=True)\ndef vtc_register_later():\n    pass\n"
    install("acme-vtc", "acme", source)
    assert Registry().parts("plug-in") == []


# Broken parts of plug-ins that work


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("unfinished", TypeError, "acme:Unfinished does not define select"),
        ("stranger", TypeError, "acme:Stranger is no subclass of vtc.FrameSelector"),
    ],
)
def test_classes_of_the_wrong_kind(even: Registry, name: str, kind: type, message: str) -> None:
    (info,) = [info for info in even.parts("selector") if info.name == name]
    assert info.error == message
    with pytest.raises(kind) as error:
        even.get_class("selector", name)
    start = f"selector '{name}' of plug-in 'acme' (acme-vtc 1.5): "
    assert str(error.value) == start + message


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("nowhere_at_all:Even", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("acme:Evn", "AttributeError: module 'acme' has no attribute 'Evn'"),
        ("acme_exits:Even", "SystemExit: 3"),
    ],
)
def test_class_strings_that_fail(install: Install, target: str, cause: str) -> None:
    install("acme-exits", "acme_exits", "import sys\nsys.exit(3)")
    registered = registering(f"{{'even': {target!r}, 'bare': 'acme:Bare'}}")
    install("acme-vtc", "acme", SELECTOR + registered)
    registry = Registry()
    with pytest.warns(UserWarning, match="acme_exits.* is skipped: SystemExit: 3"):
        infos = {info.name: info for info in registry.parts("selector")}
    assert infos["even"].error == f"cannot load {target}: {cause}"
    assert infos["bare"].error is None
    with pytest.raises(ImportError) as error:
        registry.get_class("selector", "even")
    start = "selector 'even' of plug-in 'acme' (acme-vtc 1.5): cannot load "
    assert str(error.value) == f"{start}{target}: {cause}"
    assert_shipped_work(registry)


def test_classes_may_be_given_themselves(install: Install) -> None:
    install("acme-vtc", "acme", SELECTOR + registering("{'even': Even, 'wrong': Stranger}"))
    registry = Registry()
    part = registry.build("selector", {"name": "even", "stride": 7})
    assert registry.spec_of(part)["stride"] == 7
    infos = {info.name: info for info in registry.parts("selector")}
    assert infos["even"].summary == "Takes every other frame."
    assert "is no subclass of vtc.FrameSelector" in str(infos["wrong"].error)


# Plug-ins that meet


def test_two_plugins_that_claim_one_name(install: Install) -> None:
    install("acme-vtc", "acme", SELECTOR + registering("{'uniform': Even, 'even': Even}"))
    registry = Registry()
    version = vtc.__version__
    message = (
        "selector 'uniform' is claimed by plug-in 'acme' (acme-vtc 1.5) and by plug-in "
        f"'vtc_selectors' (video-token-compression {version}); uninstall one, or name one in "
        "VTC_DISABLED_PLUGINS"
    )
    with pytest.raises(ValueError) as error:
        registry.build("selector", "uniform")
    assert str(error.value) == message
    claimed = [info for info in registry.parts("selector") if info.name == "uniform"]
    assert [(i.plugin, i.error) for i in claimed] == [
        ("acme", message),
        ("vtc_selectors", message),
    ]
    assert registry.build("selector", "even").config.stride == 2
    assert registry.build("selector", "dks").config.keyframes == 32
    with pytest.raises(ValueError, match="is claimed by"):
        registry.spec_of(vtc.selector("uniform"))


def test_one_entry_point_name_in_two_distributions(install: Install) -> None:
    install("a-dist", "module_a", SELECTOR + registering("{'one': Even}"), name="same")
    install("b-dist", "module_b", SELECTOR + registering("{'two': Even}"), name="same")
    found = {i.name: i for i in Registry().parts("selector")}
    assert (found["one"].plugin, found["one"].distribution) == ("same", "a-dist")
    assert (found["two"].plugin, found["two"].distribution) == ("same", "b-dist")


def test_metadata_installed_twice_counts_once(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SELECTOR + registering("{'even': Even}")
    install("acme-vtc", "acme", source)
    install("acme-vtc", "acme", source, folder="again")
    twice = [*entry_points(group="vtc"), *entry_points(group="vtc")]
    monkeypatch.setattr("vtc.plugins.discovery.entry_points", lambda group: twice)
    assert Registry().build("selector", "even").config.stride == 2
    assert Registry().build("selector", "dks").config.keyframes == 32


def test_plugins_can_be_switched_off(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("acme-vtc", "acme", "raise RuntimeError('imported although switched off')")
    monkeypatch.setenv("VTC_DISABLED_PLUGINS", " acme ,vtc_mergers")
    registry = Registry()
    infos = registry.parts()
    off = [(i.name, i.error) for i in infos if i.kind == "plug-in"]
    reason = "switched off by VTC_DISABLED_PLUGINS"
    assert off == [("acme", reason), ("vtc_mergers", reason)]
    assert not [i for i in infos if i.kind == "merger"]
    assert_shipped_work(registry)
    with pytest.raises(
        ValueError, match=r"known: none\. Skipped plug-ins: acme \(switched off by .*vtc_mergers"
    ):
        registry.get_class("merger", "dfm")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "beta_part",
            r"no plug-in 'beta_part' is installed; installed: beta_parts, vtc_adapters, .*"
            r"vtc_selectors\. Did you mean 'beta_parts'\?$",
        ),
        ("beta-vtc", r"'beta-vtc' is a distribution, not a plug-in\. Did you mean 'beta_parts'\?$"),
        ("zzz", r"no plug-in 'zzz' is installed; installed: beta_parts, .*vtc_selectors\.$"),
    ],
)
def test_switching_off_what_is_not_there_warns(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    install("beta-vtc", "beta_parts", registering("{}"))
    monkeypatch.setenv("VTC_DISABLED_PLUGINS", name)
    with pytest.warns(UserWarning, match=f"^VTC_DISABLED_PLUGINS: {message}"):
        Registry().parts()


# The list


def test_list_is_sorted_and_filtered(even: Registry) -> None:
    infos = even.parts()
    assert [(i.kind, i.name) for i in infos] == sorted((i.kind, i.name) for i in infos)
    assert {i.kind for i in infos} == {"adapter", "merger", "selector"}
    assert {i.kind for i in even.parts("merger")} == {"merger"}
    (info,) = [i for i in infos if i.name == "even"]
    assert (info.plugin, info.distribution, info.version) == ("acme", "acme-vtc", "1.5")
    assert (info.summary, info.error) == ("Takes every other frame.", None)
    assert list(info.options.items()) == [
        ("stride", 2),
        ("share", 0.5),
        ("ends", True),
        ("title", None),
        ("fill", "none"),
        ("sizes", (1, 2)),
    ]
    with pytest.raises(ValueError, match=r"^kind='mergers': allowed is 'adapter', 'merger', 'sel"):
        even.parts("mergers")
