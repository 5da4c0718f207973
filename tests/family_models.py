"""Wrapped tiny models of each family, for tests of what families differ in."""

from __future__ import annotations

import copy
import functools
import re

from families import FAMILIES

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

CONTRACTS = {contract.family: contract() for contract in FAMILIES}
WRAPPED = [family for family, contract in CONTRACTS.items() if contract.marks is not None]
STILLS = ["gemma3", "idefics3", "internvl", "llava", "paligemma", "smolvlm"]


@functools.cache
def built(family):
    return CONTRACTS[family].build()


def wrap(family, encoder, keyframes=2, **options):
    model, processor = copy.deepcopy(built(family)[0]), built(family)[1]
    selector = vtc.selector("uniform", keyframes=keyframes)
    vtc.wrap(model, selector, "mean_pool", processor=processor, encoder=encoder)
    model.vtc.configure(**options)
    return model, processor


def prompt_of(model, processor, inputs):
    """The shortened prompt as text, each run of placeholders as their number."""
    ids = prepare(Call(model, model.vtc, inputs)).inputs["input_ids"][0]
    text = processor.tokenizer.decode(ids)
    mark = re.escape(processor.tokenizer.decode([model.vtc.adapter.video_token_id(model)]))
    return re.sub(f"(?:{mark})+", lambda run: f"[{len(re.findall(mark, run[0]))}]", text)
