"""Sections of recipes: strict values, all errors at once, deprecated names."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt

from vtc_recipes.schema import Connector, Fraction, Items, RecipeError, Section, Selector, parse


class Inner(Section):
    renamed: ClassVar = {"pieces": "slices"}
    slices: PositiveInt = 1
    share: Fraction = 1.0
    kinds: Items[Literal["a", "b"]] = ()
    options: dict[str, float] = {}


class Outer(Section):
    name: str
    rate: PositiveFloat | None = None
    warm: bool = False
    selector: Selector = "dks"
    connector: Connector = "stock"
    inner: Inner = Inner()
    items: Items[Inner] = Field(default=(), alias="entries")


def problems(**values: Any) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse(Outer, {"name": "x", **values}, "the recipe")
    return caught.value.problems


def test_lists_become_tuples_and_whole_numbers_become_floats() -> None:
    outer = parse(Outer, {"name": "x", "rate": 2, "entries": [{"kinds": ["b"]}]}, "the recipe")
    assert (outer.rate, outer.items[0].kinds) == (2.0, ("b",))
    assert outer.plain()["items"] == [{"slices": 1, "share": 1.0, "kinds": ["b"], "options": {}}]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"nam": 1}, "nam is unknown; expected one of: name, rate, .*Did you mean 'name'"),
        ({"entries": [{"shar": 1}]}, "entries.0.shar is unknown; .* slices, share, .*'share'"),
        ({"entries": {}}, "entries: expected a list, got {}"),
        ({"entries": [3]}, "entries.0: expected a mapping, got 3"),
        ({"name": 1}, "name: expected a string, got 1"),
        ({"rate": "fast"}, "rate: expected a number, got 'fast'"),
        ({"rate": True}, "rate: expected a number, got True"),
        ({"rate": float("inf")}, "rate: expected a finite number, got inf"),
        ({"rate": 0}, "rate: expected a value > 0, got 0"),
        ({"warm": 1}, "warm: expected true or false, got 1"),
        ({"inner": {"slices": 1.5}}, "inner.slices: expected a whole number, got 1.5"),
        ({"inner": {"share": 1.5}}, "inner.share: expected a value <= 1, got 1.5"),
        ({"inner": {"kinds": ["c"]}}, "inner.kinds.0: expected 'a' or 'b', got 'c'"),
        ({"inner": {"options": {"b": "1"}}}, "inner.options.b: expected a number, got '1'"),
        ({"inner": {"pieces": 1, "slices": 1}}, "inner: pieces is the old name of slices; set one"),
        ({"selector": "dkss"}, "selector: unknown selector 'dkss'; .*Did you mean 'dks'"),
        ({"selector": 3}, "selector: expected selector to be a name"),
        ({"connector": "split"}, "connector: expected 'stock', 'separate' or 'encoder_patches'"),
    ],
)
def test_each_error_is_one_line_with_a_dotted_name(values: dict[str, Any], line: str) -> None:
    [problem] = problems(**values)
    assert re.match(line, problem), problem


def test_all_errors_come_at_once() -> None:
    found = problems(rate=-1, warm="yes", inner={"slices": "x", "depth": 1}, entries=[{}, 1])
    assert [line.partition(" ")[0] for line in found] == [
        "rate:",
        "warm:",
        "inner.slices:",
        "inner.depth",
        "entries.1:",
    ]
    with pytest.raises(RecipeError, match=r"the recipe has 1 error:\n  - name is missing"):
        parse(Outer, {}, "the recipe")
    with pytest.raises(RecipeError, match=r"base.inner: expected a mapping, got \[\]"):
        parse(Outer, {"name": "x", "inner": []}, "the recipe", where="base")


def test_deprecated_names_and_values_still_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="pieces is deprecated .* use slices") as caught:
        assert parse(Inner, {"pieces": 3}, "the recipe").slices == 3
    assert caught[0].filename == __file__  # Python hides those that libraries cause
    with pytest.warns(DeprecationWarning, match="use connector: encoder_patches"):
        outer = parse(Outer, {"name": "x", "connector": "trained"}, "the recipe")
    assert outer.connector == "encoder_patches"
