"""Frame encoders embed texts of any length, normalised and raw."""

from __future__ import annotations

import copy
import json
import textwrap

import open_clip
import pytest
import torch
import transformers
from encoder_files import LONG_QUERY, QUERY
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vtc.encoders.clip import split_text
from vtc.encoders.lazy import LazyEncoder, load_encoder
from vtc.encoders.tiny import tiny_encoder


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab é鱼\n\t ", min_size=1), limit=st.integers(4, 12))
def test_split_text_cuts_the_longest_parts_at_spaces(text, limit):
    def fits(part):
        return len(part.encode()) <= limit

    expected, rest = [], text.strip()
    while rest:
        ends = [end for end in range(1, len(rest) + 1) if fits(rest[:end])]
        at_spaces = [end for end in ends if end == len(rest) or rest[end].isspace()]
        end = max(at_spaces or ends)
        expected.append(rest[:end].strip())
        rest = rest[end:].strip()
    assert split_text(text, fits) == expected


@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
def test_long_text_is_averaged_over_parts(family, request):
    if family == "open_clip":
        spec = f"open_clip:{request.getfixturevalue('open_clip_folder')}"
        parts = [" ".join(["fish"] * n) for n in (75, 75, 50)]  # a word a token
        text, count, context = " ".join(parts), 202, 77
    else:
        spec, text = request.getfixturevalue(f"{family}_folder"), LONG_QUERY
        special, context = (2, 77) if family == "clip" else (1, 64)
        count = len(text) + special
        parts = textwrap.wrap(text, context - special)  # a byte a token
    encoder = load_encoder(spec)
    expected = sum(encoder.encode_text(part).double() for part in parts)
    embedding = encoder.encode_text(text)
    torch.testing.assert_close(embedding.double(), expected / expected.norm(), atol=1e-5, rtol=0)
    assert encoder.text_notes(text) == [
        f"query of {count} tokens is longer than the encoder's {context}:"
        f" split into {len(parts)} parts and averaged"
    ]
    assert encoder.text_notes(QUERY) == []


@pytest.mark.parametrize(("mode", "special"), [(None, 1), ("clips", 3)])
def test_open_clip_counts_tokens_of_its_other_tokenizers(mode, special, siglip_folder, tmp_path):
    """SigLIP and others bring a transformers tokenizer, some with begin, end and class tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(siglip_folder)
    tokenizer.cls_token = "<bos>"
    tokenizer.save_pretrained(tmp_path)
    tower = {"layers": 1, "width": 32}
    text = {"context_length": 64, "vocab_size": 259, "heads": 2, "hf_tokenizer_name": "here"}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 16, **tower},
        "text_cfg": text | tower | {"tokenizer_mode": mode},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.CLIP(**copy.deepcopy(config))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = load_encoder(f"open_clip:{tmp_path}")
    assert encoder.text_notes("x" * (64 - special)) == []
    [note] = encoder.text_notes("x" * (65 - special))
    assert note.startswith("query of 65 tokens is longer than the encoder's 64")


def test_long_text_may_be_truncated(clip_folder):
    encoder = load_encoder(clip_folder, long_text="truncate")
    embedding = encoder.encode_text(LONG_QUERY)
    assert encoder.text_notes(LONG_QUERY) == [
        f"query of {len(LONG_QUERY) + 2} tokens is longer than the encoder's 77: truncated"
    ]
    torch.testing.assert_close(embedding, encoder.encode_text(LONG_QUERY[:75]))


@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
def test_raw_text_is_what_the_text_tower_gives(family, request):
    if family == "open_clip":
        folder = request.getfixturevalue("open_clip_folder")
        encoder = load_encoder(f"open_clip:{folder}")
        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([QUERY])
        expected = model.encode_text(tokens)[0]
    else:
        folder = request.getfixturevalue(f"{family}_folder")
        encoder = load_encoder(folder)
        model = transformers.AutoModel.from_pretrained(folder)
        context = model.config.text_config.max_position_embeddings
        inputs = transformers.AutoTokenizer.from_pretrained(folder)(
            QUERY, padding="max_length", max_length=context, return_tensors="pt"
        )
        ids = {"input_ids": inputs["input_ids"]}
        expected = model.get_text_features(**ids).pooler_output[0]
    found = encoder.encode_text_raw(QUERY)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert abs(found.norm() - 1) > 0.1
    unit = torch.nn.functional.normalize(found, dim=0)
    torch.testing.assert_close(encoder.encode_text(QUERY), unit, rtol=0, atol=1e-6)
    assert torch.equal(LazyEncoder(encoder).encode_text_raw(QUERY), found)
    assert len(encoder.encode_text_raw(LONG_QUERY)) == encoder.dim


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match=r"expected text to be a question, got ' \\n'"):
        tiny_encoder().encode_text(" \n")
    with pytest.raises(TypeError, match="expected text to be a str, got NoneType"):
        tiny_encoder().encode_text(None)
