"""A tiny vision-language model and a tiny dual encoder, trained from nothing on a CPU.

Both are of real Hugging Face classes and learn from the synthetic world alone, in five stages:

1. `pretext`: the vision tower learns which shape, colour and texture each patch belongs to;
2. `dual_encoder`: a CLIP that starts from that tower learns which frames a text is about;
3. `vlm.Captions`: the language model learns to tell what short videos show;
4. `vlm.Answers`: it learns to answer questions, from 4 frames up to 1,024;
5. `vlm.LongAnswers`: the same, mostly about 512 to 2,048 frames.

``vtc train tiny_vlm`` runs them (`stages`); each is measured before the next may start. The towers
are frozen after their stage and run once over a bank of scenes (`features`). Stages 3 to 5 read
the compressed sequence that a wrapped model reads (`sequences`), with many questions a video.

``python -m vtc_recipes.tiny.evaluate`` examines the result on unseen videos, and
``python -m vtc_recipes.tiny.results`` those of several seeds on needles in haystacks.
"""
