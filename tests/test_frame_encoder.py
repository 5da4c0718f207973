"""Frame encoders agree with open_clip's and transformers' own path, frame by frame in float64."""

from __future__ import annotations

import copy
import json
import string
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.pretrained import _PRETRAINED
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from vtc.encoders.base import FrameEncoder
from vtc.encoders.clip import split_text
from vtc.encoders.lazy import LazyEncoder, load_encoder
from vtc.encoders.openclip import prepare_pixels
from vtc.testing.encoders import save_tiny_clip, save_tiny_siglip, tiny_encoder

CLIPS = Path(__file__).parents[1].parent / "shared" / "clips"
ARCHITECTURE = "vtc-tiny"
QUERY = "What colour is the car?"
LONG_QUERY = " ".join(f"word{i}" for i in range(60))


def textured(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames ``[n, H, W, 3]`` uint8 of smooth shapes with some noise, like pictures."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    frames = []
    for _ in range(n):
        waves = [np.sin(random.uniform(1, 20) * (x * c + y * (1 - c))) for c in random.random(3)]
        frames.append(np.stack(waves, -1) * 90 + 128 + random.normal(0, 8, (height, width, 3)))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def open_clip_files(tmp_path_factory):
    """A folder with a tiny open_clip model, whose architecture open_clip then knows by name."""
    folder = tmp_path_factory.mktemp("open_clip")
    tower = {"layers": 2, "width": 32}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 16, **tower},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower},
    }
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{ARCHITECTURE}.json")
    siglip_like = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": siglip_like})
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(ARCHITECTURE)
    weights = {name: value * 2.5 if value.ndim > 1 else value for name, value in
               model.state_dict().items()}  # fmt: skip
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def weights(open_clip_files):
    return f"{open_clip_files}/open_clip_model.safetensors"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    save_tiny_siglip(folder)
    return folder


@pytest.fixture(scope="module")
def siglip2_folder(tmp_path_factory):
    """A SigLIP2 model of variable resolution: patches, a mask and shapes instead of pictures."""
    folder = tmp_path_factory.mktemp("siglip2")
    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*special, "▁", *string.printable])}
    config = transformers.Siglip2Config(
        text_config=tower | {"vocab_size": len(vocabulary), "max_position_embeddings": 64},
        vision_config=tower | {"patch_size": 8, "num_patches": 16},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Siglip2Model(config).save_pretrained(folder)
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocabulary, padding_side="right")
    tokenizer.save_pretrained(folder)
    return folder


def hf_reference(folder, frames):
    """Embeddings of the whole model's forward in float64, each frame alone, through Pillow."""
    model = transformers.AutoModel.from_pretrained(folder).double()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    context = model.config.text_config.max_position_embeddings
    ids = tokenizer(QUERY).input_ids
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (context - len(ids))])
    images = []
    with torch.no_grad():
        for frame in frames:
            inputs = processor(Image.fromarray(frame), return_tensors="pt").to(torch.float64)
            output = model(input_ids=ids, **inputs)
            images.append(output.image_embeds[0])
    return torch.stack(images), output.text_embeds[0]


def open_clip_reference(architecture, frames, **options):
    """Embeddings by open_clip's own transform of Pillow images, model and tokenizer, float64."""
    model, _, transform = open_clip.create_model_and_transforms(architecture, **options)
    model = model.double().eval()
    with torch.no_grad():
        pictures = [transform(Image.fromarray(frame)).double()[None] for frame in frames]
        images = torch.cat([model.encode_image(picture) for picture in pictures])
        texts = model.encode_text(open_clip.get_tokenizer(architecture)([QUERY]))
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)[0]


def assert_same_embeddings(encoder, frames, reference):
    """Frames agree in direction (Pillow rounds otherwise, a level of 255 or two), QUERY exactly."""
    images, text = reference
    found = encoder.encode_frames(frames)
    assert found.shape == images.shape and found.dtype == torch.float32
    assert F.cosine_similarity(found.double(), images).min() > 0.999
    # The frames themselves must differ, or the line above would prove nothing.
    assert F.cosine_similarity(images[:1], images[1:]).min() < 0.99
    torch.testing.assert_close(encoder.encode_text(QUERY).double(), text, atol=1e-5, rtol=0)
    assert encoder.notes == []


SIZES = [(48, 64), (160, 91), (32, 32), (20, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_transformers_folder_matches_its_own_forward(family, size, request):
    folder = request.getfixturevalue(f"{family}_folder")
    frames = textured(5, *size)
    reference = hf_reference(folder, frames)
    assert_same_embeddings(load_encoder(folder), frames, reference)


@pytest.mark.parametrize("size", SIZES)
def test_open_clip_checkpoint_matches_open_clip(size, weights):
    frames = textured(5, *size)
    reference = open_clip_reference(ARCHITECTURE, frames, pretrained=weights)
    encoder = load_encoder(f"open_clip:{ARCHITECTURE}/{weights}")
    assert_same_embeddings(encoder, frames, reference)
    assert encoder.dim == 16 and encoder.name == f"open_clip:{ARCHITECTURE}/{weights}"


def test_open_clip_folder_brings_its_own_preprocessing(open_clip_files):
    frames = textured(5, 40, 100)
    reference = open_clip_reference(f"local-dir:{open_clip_files}", frames)
    encoder = load_encoder(f"open_clip:{open_clip_files}")
    assert_same_embeddings(encoder, frames, reference)


def test_open_clip_tag_decides_activation_and_preprocessing(weights, monkeypatch):
    """As for ViT-B-32/openai, whose architecture says GELU and whose weights need QuickGELU."""
    published = {
        "file": weights,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "quick_gelu": True,
    }
    monkeypatch.setitem(_PRETRAINED, ARCHITECTURE, {"quick": published})
    frames = textured(5, 48, 64)
    reference = open_clip_reference(ARCHITECTURE, frames, pretrained="quick", force_quick_gelu=True)
    encoder = load_encoder(f"open_clip:{ARCHITECTURE}/quick")
    assert_same_embeddings(encoder, frames, reference)
    # A file of such an architecture is prepared alike: the file itself does not say how.
    from_file = load_encoder(f"open_clip:{ARCHITECTURE}/{weights}")
    assert from_file._preprocessing == encoder._preprocessing


def test_default_encoder_is_known_to_need_quick_gelu():
    published = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    assert published["quick_gelu"] and not open_clip.get_model_config("ViT-B-32").get("quick_gelu")


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.sampled_from([32, 45]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_pixels_are_within_two_levels_of_pillows(size, target, resize_mode, interpolation):
    # open_clip itself fails where a side rounds to nothing.
    assume(resize_mode != "longest" or round(min(size) / (max(size) / target)) > 0)
    frames = textured(2, *size)
    config = open_clip.transform.PreprocessCfg(
        size=target, resize_mode=resize_mode, interpolation=interpolation, fill_color=7
    )
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    reference = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    pixels = prepare_pixels(torch.from_numpy(frames).permute(0, 3, 1, 2), vars(config))
    assert pixels.shape == reference.shape
    levels = (pixels - reference).abs() * torch.tensor(config.std).view(3, 1, 1) * 255
    assert levels.max() < 2.01 and levels.mean() < 0.5


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32])
def test_batches_do_not_change_embeddings(batch_size, clip_folder):
    frames = textured(10, 30, 40)
    alone = torch.cat([tiny_encoder().encode_frames(frame[None]) for frame in frames])
    encoder = load_encoder(clip_folder, batch_size=batch_size)
    torch.testing.assert_close(encoder.encode_frames(frames), alone, atol=1e-5, rtol=0)


def test_any_layout_of_frames_gives_the_same(clip_folder):
    frames = textured(4, 30, 40)
    encoder = load_encoder(clip_folder)
    expected = encoder.encode_frames(frames)
    read_only = frames.copy()
    read_only.setflags(write=False)
    planar = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for given_frames in (read_only, frames[::-1].copy()[::-1], torch.from_numpy(frames), planar):
        torch.testing.assert_close(encoder.encode_frames(given_frames), expected)
    assert encoder.encode_frames(frames[:0]).shape == (0, 16)
    assert encoder.encode_frames(textured(1, 1, 1)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
def test_half_precision_stays_close_and_returns_float32(family, dtype, request):
    folder = request.getfixturevalue("open_clip_files" if family == "open_clip" else
                                     f"{family}_folder")  # fmt: skip
    spec = f"open_clip:{folder}" if family == "open_clip" else folder
    frames = textured(4, 40, 40)
    full, half = load_encoder(spec), load_encoder(spec, dtype=dtype)
    for a, b in (
        (full.encode_frames(frames), half.encode_frames(frames)),
        (full.encode_text(QUERY)[None], half.encode_text(QUERY)[None]),
    ):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b.norm(dim=-1), torch.ones(len(b)))
        assert F.cosine_similarity(a, b).min() > 0.99


def test_embeddings_may_be_saved_for_a_backward_pass():
    encoder = tiny_encoder()
    embeddings = encoder.encode_frames(textured(2, 32, 32))
    weight = torch.ones(16, requires_grad=True)
    (embeddings * weight).sum().backward()
    torch.testing.assert_close(weight.grad, embeddings.sum(0))
    assert not embeddings.requires_grad
    # Frozen as well where the encoder's model is found among the parameters to be trained.
    assert not any(weight.requires_grad for weight in encoder._model.parameters())
    assert not encoder._model.training


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
        spec = f"open_clip:{request.getfixturevalue('open_clip_files')}"
        parts = [" ".join(["fish"] * n) for n in (75, 75, 50)]  # a word a token
        text, count, context = " ".join(parts), 202, 77
    else:
        spec, text = request.getfixturevalue(f"{family}_folder"), LONG_QUERY
        special, context = (2, 77) if family == "clip" else (1, 64)
        count = len(text) + special
        parts = textwrap.wrap(text, context - special)  # a byte a token
    encoder = load_encoder(spec)
    expected = sum(encoder.encode_text(part).double() for part in parts)
    assert encoder.notes == []
    found = encoder.encode_text(text)
    torch.testing.assert_close(found.double(), expected / expected.norm(), atol=1e-5, rtol=0)
    assert encoder.notes == [
        f"query of {count} tokens is longer than the encoder's {context}:"
        f" split into {len(parts)} parts and averaged"
    ]
    encoder.encode_text(QUERY)
    assert encoder.notes == []


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
    encoder.encode_text("x" * (64 - special))
    assert encoder.notes == []
    encoder.encode_text("x" * (65 - special))
    assert encoder.notes[0].startswith("query of 65 tokens is longer than the encoder's 64")


def test_long_text_may_be_truncated(clip_folder):
    encoder = load_encoder(clip_folder, long_text="truncate")
    found = encoder.encode_text(LONG_QUERY)
    assert encoder.notes == [
        f"query of {len(LONG_QUERY) + 2} tokens is longer than the encoder's 77: truncated"
    ]
    torch.testing.assert_close(found, encoder.encode_text(LONG_QUERY[:75]))


def test_tiny_encoder_reacts_to_frames_and_text_and_is_deterministic():
    state = torch.random.get_rng_state()
    encoder = tiny_encoder()
    assert torch.equal(state, torch.random.get_rng_state())
    frames = textured(6, 48, 48)
    embeddings = encoder.encode_frames(frames)
    cosines = embeddings @ embeddings.T
    assert cosines[~torch.eye(6, dtype=torch.bool)].max() < 0.95
    assert encoder.encode_text("a red car") @ encoder.encode_text("a blue dog") < 0.95
    assert torch.equal(tiny_encoder().encode_frames(frames), embeddings)
    assert not torch.allclose(tiny_encoder(seed=1).encode_frames(frames), embeddings, atol=0.1)
    assert tiny_encoder(dim=6).encode_text("a").shape == (6,)


def test_scenes_of_a_real_clip_differ():
    clip = CLIPS / "real" / "multi_scene_480p.mp4"
    if not clip.exists():
        pytest.skip(f"needs {clip.name} in shared/clips beside the project")
    import av

    with av.open(str(clip)) as container:
        frames = [
            frame.to_ndarray(format="rgb24")
            for i, frame in enumerate(container.decode(video=0))
            if i in (30, 40, 250, 260)  # two each of the first and second scene, 30 fps
        ]
    cosines = (e := tiny_encoder().encode_frames(np.stack(frames))) @ e.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.2


class Own:
    """The least that an encoder may be."""

    def __init__(self, embeddings=None):
        self.embeddings = embeddings

    def encode_frames(self, frames):
        if self.embeddings is None:
            return F.normalize(torch.ones(len(frames), 4), dim=-1)
        return self.embeddings

    def encode_text(self, text):
        return torch.tensor([1.0, 0, 0, 0])


def test_an_object_is_used_as_it_is():
    own = Own()
    assert load_encoder(own) is own
    lazy = LazyEncoder(own).to("cpu", torch.float16)
    assert lazy.loaded and lazy.dim == 4 and lazy.notes == [] and "Own" in lazy.name
    assert lazy.encode_frames(textured(3, 8, 8)).shape == (3, 4)


@pytest.mark.parametrize(
    ("embeddings", "error", "message"),
    [
        (np.ones((2, 4)), TypeError, r"returned ndarray; expected is a torch.Tensor \[2, d\]"),
        (torch.ones(3, 4) / 2, ValueError, r"shape \[3, 4\]; expected is \[2, d\]"),
        (torch.ones(4) / 2, ValueError, r"shape \[4\]; expected is \[2, d\]"),
        (torch.full((2, 4), torch.nan), ValueError, "NaN or infinity; expected are finite"),
    ],
)
def test_what_an_object_returns_is_checked(embeddings, error, message):
    with pytest.raises(error, match=message):
        LazyEncoder(Own(embeddings)).encode_frames(textured(2, 8, 8))


def test_what_an_object_returns_is_scaled_to_length_one():
    rows = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    scaled = LazyEncoder(Own(rows)).encode_frames(textured(2, 8, 8))
    assert torch.allclose(scaled, torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 0, 0]]))


@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
def test_raw_text_is_what_the_text_tower_gives(family, request):
    if family == "open_clip":
        folder = request.getfixturevalue("open_clip_files")
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
    assert len(encoder.encode_text_raw(LONG_QUERY)) == encoder.dim and encoder.notes


def test_raw_text_of_an_object_is_what_it_gives():
    own = Own()
    own.encode_text = lambda text: torch.tensor([0.0, 3, 0, 4])
    assert LazyEncoder(own).encode_text_raw("?").tolist() == [0, 3, 0, 4]
    assert LazyEncoder(own).encode_text("?").tolist() == pytest.approx([0, 0.6, 0, 0.8])

    class Unit(FrameEncoder):
        name = "unit"
        encode_frames = encode_text = lambda self, x: torch.ones(1)

    with pytest.raises(ValueError, match="encoder unit has no text embeddings before norm"):
        LazyEncoder(Unit()).encode_text_raw("?")


def test_lazy_encoder_loads_at_first_use(clip_folder):
    lazy = LazyEncoder(clip_folder, batch_size=2)
    assert isinstance(lazy, FrameEncoder) and lazy.name == str(clip_folder)
    assert lazy.to(dtype=torch.bfloat16) is lazy
    assert not lazy.loaded and lazy.notes == []
    frames = textured(3, 32, 32)
    as_bfloat16 = load_encoder(clip_folder, dtype=torch.bfloat16, batch_size=2)
    assert torch.equal(lazy.encode_frames(frames), as_bfloat16.encode_frames(frames))
    assert lazy.loaded and lazy.dim == 16
    lazy.encode_text(LONG_QUERY)
    assert "split into" in lazy.notes[0]
    lazy.to(dtype=torch.float32)
    assert not torch.equal(lazy.encode_frames(frames), as_bfloat16.encode_frames(frames))


LAZY = """
import sys
from vtc.encoders.lazy import LazyEncoder
encoder = LazyEncoder("open_clip:ViT-B-32/openai").to("cpu")
if {control}: import transformers
print(sorted({{"open_clip", "transformers", "torchvision"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("control", [False, True])
def test_lazy_encoder_imports_nothing_before_first_use(control):
    result = subprocess.run(
        [sys.executable, "-c", LAZY.format(control=control)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("transformers" in result.stdout) == control
    assert control or result.stdout.strip() == "[]"


@pytest.mark.parametrize("load", [load_encoder, LazyEncoder])
@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("ViT-B-32", ValueError, r"none of the known forms(.|\n)*open_clip:ViT-B-32/openai"),
        ("open_clip:ViT-B-32", ValueError, "none of the known forms"),
        ("open_clip:ViT-B-32/", ValueError, "none of the known forms"),
        ("hf:", ValueError, "none of the known forms"),
        ("open/clip", ValueError, "no such folder; for a model on the hub write 'hf:open/clip'"),
        (Path("no/such/folder"), ValueError, "none of the known forms"),
        (3, TypeError, "encoder=3 is without encode_frames and encode_text"),
        (Own, TypeError, "a class, not an object"),
    ],
)
def test_a_wrong_spec_is_refused_before_loading(load, spec, error, message):
    with pytest.raises(error, match=message):
        load(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: allowed is at least 1"),
        ({"dtype": torch.int8}, "dtype=torch.int8: allowed is a floating-point"),
        ({"long_text": "drop"}, "long_text='drop': allowed are 'split', 'truncate'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LazyEncoder("hf:some/model", **options)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([textured(1, 8, 8)], TypeError, "frames are list"),
        (textured(1, 8, 8).astype(np.float32), TypeError, "frames are float32; expected is uint8"),
        (textured(1, 8, 8)[0], ValueError, r"shape \[8, 8, 3\]; expected is \[n, H, W, 3\]"),
        (textured(1, 8, 8).transpose(0, 3, 1, 2), ValueError, r"shape \[1, 3, 8, 8\]"),
        (textured(1, 8, 8)[:, :0], ValueError, r"shape \[1, 0, 8, 3\]"),
    ],
)
def test_wrong_frames_are_refused(frames, error, message):
    with pytest.raises(error, match=message):
        tiny_encoder().encode_frames(frames)


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match=r"text=' \\n' is empty"):
        tiny_encoder().encode_text(" \n")
    with pytest.raises(TypeError, match="text is NoneType"):
        tiny_encoder().encode_text(None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:ViT-B-23/openai", "knows no model 'ViT-B-23'; similar: ViT-B-32"),
        ("open_clip:ViT-B-32/opnai", "tags: openai, .* Did you mean 'openai'?"),
        ("open_clip:ViT-B-32/old.pt", r"safetensors only.*torch.load\('old.pt', weights_only=True"),
        ("open_clip:ViT-B-32//no/w.safetensors", "'/no/w.safetensors' is not a .safetensors file"),
        ("open_clip:/no/such/folder", "there is no such folder"),
    ],
)
def test_unknown_open_clip_names_are_explained(spec, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(spec)


def test_open_clip_files_that_do_not_fit_are_explained(weights, tmp_path):
    with (
        pytest.warns(UserWarning, match="run with GELU.*write 'ViT-B-32-quickgelu'"),
        pytest.raises(ValueError, match="weights are not those of this architecture"),
    ):
        load_encoder(f"open_clip:ViT-B-32/{weights}")
    with pytest.raises(ValueError, match="ViT-L-14 differ in how frames are prepared"):
        load_encoder(f"open_clip:ViT-L-14/{weights}")
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="weights are not those of this architecture"):
        load_encoder(f"open_clip:{ARCHITECTURE}/{tmp_path}/w.safetensors")
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="lacks open_clip_config.json.*holds open_clip_py.*save_f"):
        load_encoder(f"open_clip:{tmp_path}")


def test_folders_of_something_else_are_explained(clip_folder, open_clip_files, tmp_path):
    with pytest.raises(ValueError, match="has no config.json; a transformers CLIP"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match="has no config.json; .* write 'open_clip:"):
        load_encoder(open_clip_files)
    config = json.loads((clip_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="no .safetensors file; weights are read from safetensors"):
        load_encoder(tmp_path)
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    model.vision_model.save_pretrained(tmp_path)  # the weights of one tower
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lacks .* weights of CLIPModel, such as"):
        load_encoder(tmp_path)
    other = copy.deepcopy(config) | {"model_type": "llava"}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="type 'llava'; allowed are CLIP, SigLIP and SigLIP2"):
        load_encoder(tmp_path)


def test_an_unreachable_hub_says_that_a_folder_will_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    published = open_clip.get_pretrained_cfg("ViT-B-32", "openai") | {"hf_hub": "no-one/nothing/"}
    monkeypatch.setitem(_PRETRAINED["ViT-B-32"], "openai", published)
    with pytest.raises(OSError, match="(?s)no-one/nothing.*Without a network.*open_clip:FOLDER"):
        load_encoder("open_clip:ViT-B-32/openai")
    with pytest.raises(OSError, match="(?s)'no-one/nothing' from the Hugging.*give the folder"):
        load_encoder("hf:no-one/nothing")
