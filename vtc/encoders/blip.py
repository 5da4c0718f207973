"""BLIP as a frame encoder: the two towers of image-text retrieval."""

from __future__ import annotations

from torch import Tensor

from vtc.encoders.hf import HFClipEncoder


class BlipEncoder(HFClipEncoder):
    """A ``BlipForImageTextRetrieval`` of transformers, without its matching head.

    The embeddings are the projections that image-text contrast has trained (ITC, Li et al., "BLIP",
    ICML 2022), so a cosine is ``itm_score`` of transformers with ``use_itm_head=False``. The
    matching head (ITM) reads frame and text together: it gives no vector per frame, and is not
    used.
    """

    def _image_features(self, frames: Tensor) -> Tensor:
        return self._image_patches(frames)[0]

    def _image_patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        states = self._model.vision_model(**self._pixels(frames)).last_hidden_state
        features: Tensor = self._model.vision_proj(states[:, 0])
        return features, states[:, 1:]

    def _text_features(self, texts: list[str]) -> Tensor:
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self._device)
        states = self._model.text_encoder(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
        features: Tensor = self._model.text_proj(states[:, 0])
        return features
