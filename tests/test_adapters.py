"""Every adapter passes the public conformance suite."""

from __future__ import annotations

import pytest
from families import FAMILIES

import vtc

for family in FAMILIES:
    name = f"Test{family.__name__.removesuffix('Contract')}"
    globals()[name] = type(name, (family,), {})


def test_every_registered_adapter_has_its_suite():
    assert {suite.family for suite in FAMILIES} == {part.name for part in vtc.parts("adapter")}


def test_an_unknown_family_is_told_what_there_is():
    with pytest.raises(ValueError, match="no tiny model of 'llama'"):
        vtc.testing.tiny("llama")


def test_a_model_of_an_unknown_family_is_told_what_there_is():
    from transformers import CLIPConfig, CLIPModel

    with pytest.raises(ValueError, match="llava_onevision.*docs/adapters.md"):
        vtc.wrap(CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})))
