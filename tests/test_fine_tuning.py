"""The shipped tiny model learns a new kind of question by recipe, in full and with LoRA."""

from __future__ import annotations

import json

import pytest
import torch

import vtc
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic import make_example
from vtc_recipes.synthetic.__main__ import main as write
from vtc_recipes.synthetic.dataset import write_dataset
from vtc_recipes.tiny.evaluate import asking, evaluate, examples
from vtc_recipes.tiny.trained import WEIGHTS
from vtc_recipes.training.components import part_of
from vtc_recipes.training.config import load_recipe
from vtc_recipes.training.models import open_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"  # read by peft and accelerate
)
RECIPES = ("tiny_full", "tiny_lora")


def recipe(name, *settings):
    return load_recipe(find_config(name, "training"), settings)


def weights(folder):
    return dict(vtc.from_pretrained(folder).state_dict())


def test_the_recipes_differ_in_how_parts_train_and_nothing_else():
    full, lora = (recipe(name).plain() for name in RECIPES)
    assert {section for section in full if full[section] != lora[section]} == {"train", "output"}
    assert full["output"] == {**lora["output"], "folder": "runs/tiny_full"}
    assert {part["how"] for part in lora["train"].values() if "how" in part} == {"lora", "frozen"}


def test_what_is_shipped_is_opened_by_its_name():
    model, processor = open_model(recipe("tiny_full"))
    state, shipped = model.state_dict(), weights(WEIGHTS / "vlm")
    assert all(torch.equal(state[name], value) for name, value in shipped.items())
    assert model.vtc.encoder.name == str(WEIGHTS / "dual_encoder")
    example = make_example(0, frames=16, kind="colour", split="test")
    answer = vtc.ask(model, processor, example.video, example.question.text, max_new_tokens=2)
    assert answer.text == example.question.answer


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_tuned_is_asked_like_any_model(name, tmp_path, command):
    data = write_dataset(tmp_path, videos=2, questions=2)
    folder = tmp_path / "tuned"
    settings = ("optimisation.steps=1", "optimisation.batch_size=2", "optimisation.warmup=0")
    places = (f"data.sources.0.path={data}", f"output.folder={folder}")
    code, out, err = command("train", name, *settings, *places, "--json")
    assert code == 0 and json.loads(out) == {"folder": str(folder)}, err
    before, after, moved = weights(WEIGHTS / "vlm"), weights(folder), set()
    model = vtc.from_pretrained(folder)
    for key, value in before.items():
        if not torch.equal(value, after[key]):
            moved.add(part_of(key, model.vtc))
    learning = {part for part, entry in recipe(name).train.parts() if entry.how != "frozen"}
    assert moved == learning >= {"projector", "language_model"} and before.keys() == after.keys()
    words = ("ask", tmp_path / "train" / "00000.mp4", "What is behind the square?")
    code, out, err = command(*words, "--model", folder, "--json")
    assert code == 0 and json.loads(out)["report"]["videos"][0]["keyframes"], err


@pytest.mark.slow
def test_both_ways_of_training_teach_what_the_model_could_not_answer(tmp_path, command):
    kinds = "texture,colour,texture,first,texture,last,texture,after"
    write([str(tmp_path), "--videos", "160", "--kinds", kinds, "--questions", "6"])

    def right(folder):
        """Share of right answers about unseen scenes: textures, and what it could before."""
        model = vtc.from_pretrained(
            folder, selector=vtc.selector("dks", keyframes=2), encoder=str(WEIGHTS / "dual_encoder")
        ).eval()
        asked = examples(80, frames=16, kinds=("texture", "colour"))
        found = evaluate(asking(model, model.vtc.processor), asked)
        return found["texture"]["accuracy"], found["colour"]["accuracy"]

    assert right(WEIGHTS / "vlm")[0] <= 0.2
    for name in RECIPES:
        folder = tmp_path / name
        places = (f"data.sources.0.path={tmp_path / 'train.jsonl'}", f"output.folder={folder}")
        code, _, err = command("train", name, "optimisation.steps=40", *places)
        assert code == 0, err
        texture, colour = right(folder)
        assert texture >= 0.6 and colour >= 0.8, name
