"""A part of transformers' own model tests runs on wrapped models, with all slices kept.

Its files are not in the wheel. They are read from the folder ``tests`` of a checkout or of the
source distribution of the installed version, which ``TRANSFORMERS_TESTS`` names:

    pip install parameterized
    pip download --no-deps --no-binary :all: transformers==VERSION
    TRANSFORMERS_TESTS=.../tests pytest -m slow tests/test_transformers_common.py
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import sys
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers.testing_utils
from family_models import CONTRACTS

import vtc

FOLDER = os.environ.get("TRANSFORMERS_TESTS", "")
TESTS = (
    "determinism",
    "batching_equivalence",
    "model_outputs_equivalence",
    "hidden_states_output",
    "attention_outputs",
    "retain_grad_hidden_states_attentions",
    "training",
    "training_gradient_checkpointing",
    "enable_input_require_grads",
    "resize_tokens_embeddings",
    "torch_save_load",
    "can_set_attention_dynamically",
    "bc_torch_dtype",
)
FAMILIES = ("llava_onevision", "qwen2_vl", "qwen3_vl", "internvl")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="TRANSFORMERS_TESTS names no folder; see the docstring"),
]


def load_common(config) -> ModuleType:
    """Import ``test_modeling_common.py`` as a module of a package."""
    pytest.importorskip("parameterized")
    path = Path(FOLDER) / "test_modeling_common.py"
    for source in (path, Path(transformers.testing_utils.__file__)):
        for marker in re.findall(r"\bmark\.(\w+)", source.read_text()):
            config.addinivalue_line("markers", marker)
    names = {
        "transformers_tests": None,
        "transformers_tests.exporters": None,
        "transformers_tests.exporters.test_export": "ExportTesterMixin",
        "transformers_tests.generation": None,
        "transformers_tests.generation.test_utils": "GenerationTesterMixin",
    }
    for name, mixin in names.items():  # the source distribution lacks these
        module = sys.modules.setdefault(name, ModuleType(name))
        module.__path__ = [FOLDER] if name == "transformers_tests" else []
        if mixin is not None:
            setattr(module, mixin, type(mixin, (), {}))
    name = "transformers_tests.test_modeling_common"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ModelTester:
    """A model of a family and its inputs, in the form that the tests of transformers take."""

    def __init__(self, family: str) -> None:
        model, self.processor = vtc.testing.tiny(family)
        self.config, self.stock_class = model.config, type(model)
        contract = CONTRACTS[family]
        videos = [contract.video(6, seed) for seed in (1, 2)]
        self.inputs = contract.inputs(self.processor, videos, ["What is red?"] * 2)
        if "vtc_frames" in self.inputs:
            self.inputs["vtc_frames"] = 6  # of every row, however a test splits the batch
        text = self.config.get_text_config()
        for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"):
            setattr(self, name, getattr(text, name))
        self.batch_size = 2
        self.seq_length = self.inputs["input_ids"].shape[1]
        self.is_training = True

    def prepare_config_and_inputs_for_common(self):
        return copy.deepcopy(self.config), dict(self.inputs)


def wrapped_from_birth(stock_class, processor):
    """A subclass of a stock class whose objects are wrapped when they are made."""

    class Wrapping(stock_class):
        def __init__(self, config, *args, **kwargs):
            super().__init__(config, *args, **kwargs)
            selector = vtc.selector("uniform", keyframes=64)
            vtc.wrap(self, selector, "mean_pool", processor=processor)

    for name in ("__name__", "__qualname__", "__module__"):
        setattr(Wrapping, name, getattr(stock_class, name))
    return Wrapping


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TESTS)
def test_a_wrapped_model_passes_the_test_of_transformers(family, name, request):
    common, tester = load_common(request.config), ModelTester(family)
    if "attentions" in name:
        tester.config._attn_implementation = "eager"  # sdpa returns none

    def outcome(model_class: Any) -> unittest.TestResult:
        class Case(common.ModelTesterMixin, unittest.TestCase):
            model_tester = tester
            all_model_classes = (model_class,)
            test_resize_embeddings = True

        torch.manual_seed(0)
        result = unittest.TestResult()
        Case(f"test_{name}").run(result)
        return result

    stock = outcome(tester.stock_class)
    if stock.skipped or not stock.wasSuccessful():
        pytest.skip("the tiny stock model does not pass this test")
    wrapped = outcome(wrapped_from_birth(tester.stock_class, tester.processor))
    assert wrapped.wasSuccessful(), (wrapped.errors + wrapped.failures)[0][1]
    assert not wrapped.skipped
