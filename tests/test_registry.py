"""Parts by name, their options, and the list of parts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_sources import assert_shipped_work, registering

import vtc
from vtc.plugins.options import conform
from vtc.plugins.registry import Registry, adapter_for, build_part, spec_of


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
    assert "Did you mean 'llava_onevision'? To write one, see docs/adapters.md." in str(error.value)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("evn", ValueError, r"^unknown selector 'evn'; known: .*bare, .*\. Did you mean 'even'\?$"),
        ({"stride": 2}, ValueError, r"^selector {'stride': 2} has no name; write {'name'"),
        ({"name": 3}, TypeError, r"^expected the name of the selector to be a str, got 3$"),
        (
            3,
            TypeError,
            r"^expected selector to be a name \(.*bare, .*instance of vtc.FrameSelector, got 3$",
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
            r"^selector 'even': expected stride >= 1, got 0$",
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
    with pytest.raises(ValueError, match="^1 or False$"):
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
    "@FROZEN\nclass Config:\n    a: int = '1'": r"the default of a to be int, got '1'; opt",
    "@FROZEN\nclass Config:\n    a: object = 1": r"the default of a to be object, got 1; opt",
    "@FROZEN\nclass Config:\n    a: Nowhere = 1": r"cannot be read: NameError: name 'Nowhere'",
    "@FROZEN\nclass Config:\n    name: str = ''": r"rename the option 'name'",
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.replace("\n", " "))
def test_malformed_configs_name_the_class(install_plugin, config: str) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
    head += "from vtc.interfaces.frame_selector import FrameSelector\n"
    body = config.replace("@FROZEN", "@dataclass(frozen=True, kw_only=True)")
    body += "\ndef select(self, embeddings, query=None, timestamps=None): ..."
    source = f"{head}\nclass Odd(FrameSelector):\n{indent(body, '    ')}\n"
    install_plugin("acme-vtc", "acme", source + registering("{'odd': 'acme:Odd'}"))
    registry = Registry()
    (info,) = [info for info in registry.parts("selector") if info.name == "odd"]
    with pytest.raises(TypeError, match=rf"^acme\.Odd\.Config.*{CONFIGS[config]}") as error:
        registry.build("selector", "odd")
    assert info.error == str(error.value)
    assert_shipped_work(registry)


def test_list_is_sorted_and_filtered(even: Registry) -> None:
    infos = even.parts()
    assert [(i.kind, i.name) for i in infos] == sorted((i.kind, i.name) for i in infos)
    assert {i.kind for i in infos} == {"adapter", "budget", "merger", "selector"}
    assert {i.kind for i in even.parts("merger")} == {"merger"}
    (info,) = [i for i in infos if (i.kind, i.name) == ("selector", "even")]
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
    with pytest.raises(
        ValueError, match=r"^expected kind to be one of 'adapter', 'budget', 'merger', 'sel"
    ):
        even.parts("mergers")
