"""A tiny vision-language model and a tiny dual encoder, trained from nothing on a CPU.

Both are of real Hugging Face classes and learn from the synthetic world alone, in four stages:

1. ``pretext``: the vision tower learns which shape, colour and texture each patch belongs to;
2. ``dual_encoder``: a CLIP that starts from that tower learns which frames a text is about;
3. ``vlm captions``: the language model learns to tell what short videos show;
4. ``vlm answers``: it learns to answer questions, from 8 frames up to 64.

A stage starts from what the one before saved, and refuses to when that failed its gate. The towers
are frozen after their stage and run once over a bank of scenes (`features`). Stages 3 and 4 read
the compressed sequence that a wrapped model reads (`sequences`), with many questions a video.

``python -m vtc_recipes.tiny.pretext --out runs/tiny`` runs the first stage, and so on;
``python -m vtc_recipes.tiny.evaluate`` examines the result on unseen videos.
"""
