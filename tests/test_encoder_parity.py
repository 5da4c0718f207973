"""Frame encoders equal open_clip's and transformers' own path, frame by frame in float64."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import transformers
from encoder_files import ARCHITECTURE, QUERY, textured
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.pretrained import _PRETRAINED
from PIL import Image
from torch.nn import functional as F

from vtc.encoders.lazy import load_encoder
from vtc.encoders.openclip import prepare_pixels
from vtc.encoders.tiny import tiny_encoder
from vtc.profiler.counting import counting
from vtc.profiler.subject import encoder_without_weights


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
    assert encoder.text_notes(QUERY) == []


SIZES = [(48, 64), (160, 91), (32, 32), (20, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_transformers_folder_matches_its_own_forward(family, size, request):
    folder = request.getfixturevalue(f"{family}_folder")
    frames = textured(5, *size)
    reference = hf_reference(folder, frames)
    assert_same_embeddings(load_encoder(folder), frames, reference)


@pytest.mark.parametrize(("size", "tolerance"), [((32, 32), 1e-5), ((48, 64), 0.02)])
def test_blip_scores_frames_as_retrieval_without_the_matching_head(size, tolerance, blip_folder):
    """At the size of the model nothing is resized, so Pillow makes no difference."""
    frames, model = textured(5, *size), transformers.BlipForImageTextRetrieval
    model = model.from_pretrained(blip_folder).double().eval()
    processor = transformers.AutoImageProcessor.from_pretrained(blip_folder, backend="pil")
    text = transformers.AutoTokenizer.from_pretrained(blip_folder)(QUERY, return_tensors="pt")
    ids = {name: text[name] for name in ("input_ids", "attention_mask")}
    scores = []
    with torch.no_grad():
        for frame in frames:
            pixels = processor(Image.fromarray(frame), return_tensors="pt").to(torch.float64)
            output = model(**ids, **pixels, use_itm_head=False)
            scores.append(output.itm_score[0, 0])
    scores = torch.stack(scores)
    assert scores.max() - scores.min() > 0.1
    encoder = load_encoder(blip_folder)
    embeddings, query = encoder.encode_frames(frames), encoder.encode_text(QUERY)
    assert embeddings.shape == (5, encoder.dim) and encoder.dim == 16
    torch.testing.assert_close((embeddings @ query).double(), scores, rtol=0, atol=tolerance)
    again, patches = encoder.encode_patches(frames)
    assert torch.equal(again, embeddings) and patches.shape == (5, 16, 32)
    last = output.last_hidden_state[0, 1:]
    if tolerance < 1e-3:
        torch.testing.assert_close(patches[-1].double(), last, rtol=0, atol=1e-4)


def test_blip_texts_of_different_lengths_share_a_batch(blip_folder):
    encoder = load_encoder(blip_folder)
    text = " ".join("abcdefghij" * 5)  # a token a letter, and two special ones
    assert encoder.text_notes(text) == [
        "query of 52 tokens is longer than the encoder's 40: split into 2 parts and averaged"
    ]
    parts = [encoder.encode_text(part) for part in (text[:75], text[76:])]
    mean = F.normalize(sum(parts), dim=0)
    torch.testing.assert_close(encoder.encode_text(text), mean, rtol=0, atol=1e-5)


def test_blip_without_the_towers_of_retrieval_is_refused(blip_folder, tmp_path):
    config = transformers.BlipConfig.from_pretrained(blip_folder)
    transformers.BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* weights of BlipForImageTextRetrieval, such as"):
        load_encoder(tmp_path)


def test_the_profiler_counts_blip(blip_folder):
    encoder = encoder_without_weights(str(blip_folder))
    frames = torch.zeros(2, 48, 64, 3, dtype=torch.uint8, device="meta")
    with counting() as cost:
        assert encoder.encode_frames(frames).shape == (2, 16)
    assert cost.flops > 2 * 2 * 2 * 17 * 8 * 32**2  # two layers on two frames


@pytest.mark.parametrize("size", SIZES)
def test_open_clip_checkpoint_matches_open_clip(size, open_clip_weights):
    frames = textured(5, *size)
    reference = open_clip_reference(ARCHITECTURE, frames, pretrained=open_clip_weights)
    encoder = load_encoder(f"open_clip:{ARCHITECTURE}/{open_clip_weights}")
    assert_same_embeddings(encoder, frames, reference)
    assert encoder.dim == 16 and encoder.name == f"open_clip:{ARCHITECTURE}/{open_clip_weights}"


def test_open_clip_folder_brings_its_own_preprocessing(open_clip_folder):
    frames = textured(5, 40, 100)
    reference = open_clip_reference(f"local-dir:{open_clip_folder}", frames)
    encoder = load_encoder(f"open_clip:{open_clip_folder}")
    assert_same_embeddings(encoder, frames, reference)


def test_open_clip_tag_decides_activation_and_preprocessing(open_clip_weights, monkeypatch):
    """As for ViT-B-32/openai, whose architecture says GELU and whose weights need QuickGELU."""
    published = {
        "file": open_clip_weights,
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
    from_file = load_encoder(f"open_clip:{ARCHITECTURE}/{open_clip_weights}")
    assert from_file._preprocessing == encoder._preprocessing


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
@pytest.mark.parametrize("family", ["blip", "clip", "siglip", "open_clip"])
def test_half_precision_stays_close_and_returns_float32(family, dtype, request):
    folder = request.getfixturevalue(f"{family}_folder")
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


def test_scenes_of_a_real_clip_differ(clips):
    import av

    with av.open(str(clips / "real" / "multi_scene_480p.mp4")) as container:
        frames = [
            frame.to_ndarray(format="rgb24")
            for i, frame in enumerate(container.decode(video=0))
            if i in (30, 40, 250, 260)  # two each of the first and second scene, 30 fps
        ]
    cosines = (e := tiny_encoder().encode_frames(np.stack(frames))) @ e.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.2


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([textured(1, 8, 8)], TypeError, "got list"),
        (textured(1, 8, 8).astype(np.float32), TypeError, "to be uint8.* got float32"),
        (textured(1, 8, 8)[0], ValueError, r"\[n, H, W, 3\], RGB last, got the shape \[8, 8, 3\]"),
        (textured(1, 8, 8).transpose(0, 3, 1, 2), ValueError, r"shape \[1, 3, 8, 8\]"),
        (textured(1, 8, 8)[:, :0], ValueError, r"shape \[1, 0, 8, 3\]"),
    ],
)
def test_wrong_frames_are_refused(frames, error, message):
    with pytest.raises(error, match=message):
        tiny_encoder().encode_frames(frames)
