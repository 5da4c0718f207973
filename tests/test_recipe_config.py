"""Recipes as YAML: every shipped one is valid, and all errors come at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vtc_recipes import commands
from vtc_recipes.reading import apply_overrides, load_yaml
from vtc_recipes.schema import RecipeError
from vtc_recipes.shipped import CONFIGS, find_config, shipped
from vtc_recipes.tiny.reading import parse_tiny
from vtc_recipes.training.config import apply_settings, load_recipe, parse_recipe

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
DOCS = Path(__file__).parents[1] / "docs"

SMALL = {
    "model": {"name": "tiny:llava_onevision"},
    "data": {"sources": [{"name": "clips", "path": "clips.json"}]},
    "train": {"projector": {"how": "full"}},
    "optimisation": {"steps": 3},
    "output": {"folder": "runs/small"},
}


def changed(section: str, **values):
    return {**SMALL, section: {**SMALL.get(section, {}), **values}}


def problems(values) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values)
    return caught.value.problems


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_every_yaml_file_is_listed_with_its_first_line():
    assert {file.path for file in shipped()} == set(CONFIGS.rglob("*.yaml"))
    assert len(shipped("training")) >= 5 and all(file.summary for file in shipped())


@pytest.mark.parametrize("file", shipped("training"), ids=lambda file: file.name)
def test_every_shipped_recipe_is_valid_and_says_how_to_run_it(file):
    values = load_yaml(file.path)
    parse = parse_tiny if "stages" in values else parse_recipe
    assert parse(values, file.name).output.folder == f"runs/{file.name}"
    comment = re.match(r"(#.*\n)+", file.path.read_text(encoding="utf-8"))[0]
    assert f"vtc train {file.name}" in comment and "everal machines" in comment
    assert "launch --config_file" in comment or "torchrun" in comment
    for command in re.findall(rf"train {file.name} (.*)\n", comment):
        if command not in ("SETTINGS", "SETTINGS \\"):
            settings = [word for word in command.split() if word != "--resume"]
            parse(apply_overrides(values, settings), file.name)


@pytest.mark.parametrize("name", ["vilamp_pretrain", "vilamp_short", "vilamp_long"])
def test_the_settings_are_those_of_appendix_a3(name):
    recipe = load_recipe(find_config(name, "training"))
    rates = {part: entry.learning_rate for part, entry in recipe.train.parts()}
    assert rates.pop("vision_tower") == 2e-6
    assert set(rates.values()) == {1e-5}
    assert {entry.how for _, entry in recipe.train.parts()} == {"full"}
    run = recipe.optimisation
    assert (run.schedule, run.warmup, run.epochs) == ("cosine", 0.03, 1)
    assert (run.batch_size, run.accumulation) == (1, 4)
    assert recipe.vtc.selector == {"name": "dks", "keyframes": 32, "similarity_threshold": 0.85}
    assert recipe.vtc.merger["temperature"] == 0.01 and recipe.vtc.connector == "separate"
    assert {source.fps for source in recipe.data.sources} == {1.0}


def test_defaults_and_exponents(recipe_file):
    text = recipe_file.read_text().replace("how: full", "how: full\n    learning_rate: 2e-5")
    recipe_file.write_text(text)
    recipe = load_recipe(recipe_file)
    assert recipe.train.projector.learning_rate == 2e-5
    assert recipe.train.merger.how == "frozen"
    assert recipe.optimisation.warmup == 0.03


def test_all_errors_come_at_once():
    values = {
        "modle": {},
        "model": {"dtype": "float31"},
        "vtc": {"selector": {"name": "dks", "keyframe": 8}, "merger": 3, "adapter": {"a": [1]}},
        "data": {"sources": [{"name": "a", "shere": 1, "share": 1.5}, 7]},
        "train": {"merger": {"how": "all", "learning_rate": 0}},
        "optimisation": {"steps": -1, "warmup": "much", "epochs": True},
        "output": [],
    }
    found = problems(values)
    expected = (
        "modle is unknown; expected one of: model, vtc, data, train, optimisation, output. "
        "Did you mean 'model'?",
        "model.dtype: expected 'float32', 'bfloat16' or 'float16', got 'float31'",
        "model.name is missing",
        "vtc.selector: selector 'dks' has no option 'keyframe'; it takes: keyframes,",
        "vtc.merger: expected merger to be a name (",
        "vtc.adapter.a: expected true, false, a number, a string or null, got [1]",
        "data.sources.0.shere is unknown; expected one of: name, path,",
        "data.sources.0.share: expected a value <= 1, got 1.5",
        "data.sources.1: expected a mapping, got 7",
        "train.merger.how: expected 'full', 'lora' or 'frozen', got 'all'",
        "train.merger.learning_rate: expected a value > 0, got 0",
        "optimisation.steps: expected a value > 0, got -1",
        "optimisation.warmup: expected a number, got 'much'",
        "optimisation.epochs: expected a number, got True",
        "output: expected a mapping, got []",
    )
    for start in expected:
        assert any(line.startswith(start) for line in found), start
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("optimisation", epochs=1), "optimisation: set either epochs or steps"),
        (changed("optimisation", steps=None), "optimisation: set either epochs or steps"),
        (changed("data", sources=[]), "data.sources is empty"),
        (
            changed("model", name="shipped:clip"),
            "model.name: expected a name on the hub, a folder, or 'shipped:vlm', got 'shipped",
        ),
        (
            changed("vtc", encoder="shipped:vlm"),
            "vtc.encoder: expected a name on the hub, a folder, or 'shipped:dual_encoder', got",
        ),
        (changed("train", projector={"how": "frozen"}), "train: every part is frozen"),
        (
            changed("train", merger={"how": "lora"}),
            "train.merger.how: expected 'full' or 'frozen', got 'lora'",
        ),
        (
            changed("train", connector={"how": "full"}),
            "train.connector.how: there is no connector to",
        ),
        (
            changed("train", language_model={"how": "full"}, vision_tower={"how": "lora"}),
            "train.language_model.how: 'full' with LoRA",
        ),
    ],
)
def test_contradictions_are_named(values, message):
    (found,) = problems(values)
    assert found.startswith(message)


def test_overrides_reach_every_place(recipe_file):
    settings = [
        "optimisation.steps=10",
        "data.sources.0.path=other.json",
        "train.merger.learning_rate=1e-6",
        "vtc.merger.name=mean_pool",
        "output.keep=null",
    ]
    recipe = load_recipe(recipe_file, settings)
    assert recipe.optimisation.steps == 10 and recipe.output.keep is None
    assert recipe.data.sources[0].path == "other.json"
    assert recipe.train.merger.learning_rate == 1e-6
    assert recipe.vtc.merger == {"name": "mean_pool"}


@pytest.mark.parametrize("file", shipped("training"), ids=lambda file: file.name)
def test_documented_settings_are_valid_for_every_recipe(file):
    staged = "stages" in load_yaml(file.path)
    parse = parse_tiny if staged else parse_recipe
    texts = [Path(commands.__file__).read_text(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    settings = set(re.findall(r"\boptimisation\.\w+=[\w.-]+", "\n".join(texts)))
    assert "optimisation.steps=500" in settings and "optimisation.steps=10" in settings
    for setting in () if staged else settings:
        parse(apply_settings(load_yaml(file.path), [setting]), file.name)


def test_steps_on_the_command_line_replace_the_epochs_of_the_recipe(recipe_file):
    assert load_recipe(recipe_file, ["optimisation.epochs=2"]).optimisation.steps is None
    path = find_config("vilamp_lora", "training")
    run = load_recipe(path, ["optimisation.steps=500"]).optimisation
    assert (run.steps, run.epochs) == (500, None)
    both = ["optimisation.steps=500", "optimisation.epochs=1"]
    with pytest.raises(RecipeError, match="set either epochs or steps"):
        load_recipe(path, both)


def test_all_wrong_overrides_are_named(recipe_file):
    settings = ["steps", "data.sources.3.path=a", "model.name.x=1", "train.x=[", ".a=1"]
    with pytest.raises(RecipeError, match="the command line has 5 errors") as caught:
        load_recipe(recipe_file, settings)
    for text in (
        "steps: expected SECTION.NAME=VALUE",
        "data.sources has entries 0 to 0, got '3'",
        "model.name is 'tiny:llava_onevision', which has no 'x'",
    ):
        assert text in str(caught.value)
    with pytest.raises(RecipeError, match="optimisation.stepps is unknown.*'steps'"):
        load_recipe(recipe_file, ["optimisation.stepps=1"])


def test_templates_on_the_command_line_are_text():
    settings = ["prompt={question}", "other={question} One of: {choices}.", "empty={}", "seeds=[1]"]
    assert apply_overrides({}, [*settings, "quoted='{question}'"]) == {
        "prompt": "{question}",
        "other": "{question} One of: {choices}.",
        "empty": {},
        "seeds": [1],
        "quoted": "{question}",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "its aliases expand to more than 100000 values"),
        ("a: &a [*a]", "its aliases expand to more than"),
        ("[" * 5000, "nested too deeply|is not valid YAML"),
        ("model: {name: a, name: b}", "the key 'name' appears twice in the mapping at line 1"),
        ("model: [", r"small.yaml is not valid YAML"),
        ("- a", "small.yaml: expected a mapping of sections, got list"),
    ],
)
def test_unreadable_files_are_named(recipe_file, text, message):
    recipe_file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file)


def test_recipes_are_found_by_name_or_path(recipe_file, monkeypatch):
    smoke = CONFIGS / "training" / "smoke.yaml"
    assert find_config("smoke", "training") == find_config("smoke.yaml", "training") == smoke
    assert find_config(str(recipe_file), "training") == recipe_file
    monkeypatch.chdir(recipe_file.parent)
    assert find_config("small.yaml", "training").resolve() == recipe_file.resolve()
    with pytest.raises(ValueError, match="unknown recipe 'smok'.*Did you mean 'smoke'"):
        find_config("smok", "training")
    with pytest.raises(ValueError, match="unknown recipe './smoke'"):
        find_config("./smoke", "training")


@pytest.mark.parametrize("file", shipped("accelerate"), ids=lambda file: file.name)
def test_accelerate_reads_its_settings(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file.path))
    if file.name == "zero3":
        assert config.deepspeed_config["zero_stage"] == 3
        assert config.mixed_precision == "no"  # bf16 would be refused where a recipe says float32
    else:
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.mixed_precision == "bf16"
