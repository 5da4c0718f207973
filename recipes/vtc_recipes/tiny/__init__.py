"""A tiny vision-language model and a tiny dual encoder, trained from scratch on a CPU.

Both use real Hugging Face classes and learn only from the synthetic world, in five stages:

1. `pretext`: the vision tower learns the shape, colour and texture that each patch shows;
2. `dual_encoder`: a CLIP initialised with that tower learns to match texts with frames;
3. `vlm.Captions`: the language model learns to describe short videos;
4. `vlm.Answers`: it learns to answer questions about 4 to 1,024 frames;
5. `vlm.LongAnswers`: the same, mostly about 512 to 2,048 frames.

More stages (`evidence`) start from the result and train it on stories, whose answers need more
scenes than the keyframes show.

``vtc train tiny_vlm`` runs the five (`stages`) and checks each stage's metrics before the next. The
towers are frozen after their stage and run once over a bank of scenes (`features`). Stages 3 to 5
use the same compressed sequence as a wrapped model (`sequences`), with many questions per video.

``python -m vtc_recipes.tiny.evaluate`` evaluates the result on unseen videos;
``python -m vtc_recipes.tiny.results`` evaluates the models of several seeds on needles in
haystacks.
"""
