"""`vtc new-plugin`: what it writes installs, passes its own tests and works; the example is it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import COMMAND, PYTEST, run_code

from vtc.plugins.scaffold import skeleton, write_skeleton

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "vtc-plugin-example"

DISPLAY = {"NO_COLOR": "1", "COLUMNS": "200"}


def run(code: str, *words: object, folder: Path, check: bool = True, path: str = "") -> str:
    """Run code in a folder; return its output, errors included."""
    done = run_code(code, *words, folder=folder, merged=True, PYTHONPATH=path, **DISPLAY)
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout


def install(source: str, folder: Path) -> None:
    """Install a distribution into ``folder / "site"``, offline."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", "site")
    command = [sys.executable, "-m", "pip", "install", *options, source]
    subprocess.run(command, cwd=folder, check=True)


def new_plugin(*words: object, folder: Path, **options: bool) -> str:
    return run(COMMAND, "new-plugin", *words, folder=folder, **options)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A folder with a plug-in `acme-parts` that the command wrote, and `site`, where it is."""
    folder = tmp_path_factory.mktemp("plugin")
    out = new_plugin("acme-parts", folder=folder)
    assert out.count("wrote ") == 7 and "pip install -e '.[test]'" in out
    install("./acme-parts", folder)
    return folder


def test_its_own_tests_pass(plugin):
    words = ("-q", "-p", "no:cacheprovider", "--color=no")
    out = run(PYTEST, *words, folder=plugin / "acme-parts", path=str(plugin / "site"))
    (passed,) = re.findall(r"(\d+) passed", out)
    assert int(passed) > 50  # the contracts and the two tests of its own


USE = """
import sys, vtc
from vtc.cli import main

model, processor = vtc.testing.tiny("llava_onevision")
model.save_pretrained("model")
processor.save_pretrained("model")
vtc.testing.save_tiny_clip("clip")
vtc.testing.write_video("video.mp4", vtc.testing.moving_squares(seconds=12))

parts = vtc.selector("acme_parts_changes", keyframes=3), "acme_parts_contrast"
vtc.wrap(model, *parts, processor=processor, encoder=vtc.testing.tiny_encoder())
print(vtc.ask(model, processor, "video.mp4", "Where is the square?", max_new_tokens=2).report)

named = ["--selector", "acme_parts_changes", "--merger", "acme_parts_contrast"]
small = ["--model", "model", "--encoder", "clip", "--keyframes", "3", "--max-new-tokens", "2"]
sys.argv = ["vtc", "ask", "video.mp4", "Where is the square?", *named, *small]
main()
"""


def test_it_is_used_by_wrap_and_by_the_command(plugin, tmp_path):
    out = run(USE, folder=tmp_path, path=str(plugin / "site"))
    assert "acme_parts_changes + acme_parts_contrast: 12 frames, 3 keyframes" in out
    assert "12 read, 3 keyframes" in out
    assert "selector acme_parts_changes(keyframes=3)" in out
    assert "merger acme_parts_contrast(temperature=0.1)" in out


def test_the_example_is_what_the_command_writes():
    left_by_use = {".pytest_cache", ".ruff_cache", "__pycache__", "build", "dist"}
    files = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.is_file() and not left_by_use & set(path.parts)
    }
    assert files == skeleton("vtc-plugin-example"), (
        "write it again: rm -r examples/vtc-plugin-example; "
        "vtc new-plugin vtc-plugin-example --folder examples"
    )


def test_the_plug_in_of_the_readme_installs_as_it_stands(tmp_path):
    readme = EXAMPLE.parents[1].joinpath("README.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(python|toml)\n((?:# my_plugin|build-system).*?)^```$", readme,
                             flags=re.S | re.M))  # fmt: skip
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "my_plugin.py").write_text(blocks["python"])
    (tmp_path / "plugin" / "pyproject.toml").write_text(blocks["toml"])
    install("./plugin", tmp_path)
    words = ("parts", "selector", "--json")
    parts = json.loads(run(COMMAND, *words, folder=tmp_path, path=str(tmp_path / "site")))
    (part,) = [part for part in parts if part["name"] == "every_nth"]
    assert part["summary"] == "Keeps every n-th frame." and part["error"] is None
    assert part["distribution"] == "my-plugin"


def test_parts_are_named_after_the_plug_in():
    assert '"example_changes"' in skeleton("vtc-plugin-example")["vtc_plugin_example/plugin.py"]
    assert '"acme_changes"' in skeleton("vtc-acme")["vtc_acme/plugin.py"]
    assert '"a_b2_contrast"' in skeleton("a-b2")["a_b2/plugin.py"]
    assert not any("$" in text for text in skeleton("acme").values())


@pytest.mark.parametrize(
    "name", ["", "Acme", "acme_parts", "2acme", "-acme", "acme-", "a--b", "a/b", "../a", "a" * 41]
)
def test_invalid_names_are_refused(name):
    with pytest.raises(ValueError, match=f"expected a name of up to 40 .*, got '{name}'"):
        skeleton(name)


@pytest.mark.parametrize("name", ["selectors", "class"])
def test_names_that_hide_modules_of_python_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"a package '{name}', which hides a module"):
        write_skeleton(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vtc", "torch", "vtc-selectors"])
def test_names_of_installed_modules_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is installed already; choose another name"):
        write_skeleton(name, tmp_path)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "acme").mkdir()
    out = new_plugin("acme", folder=tmp_path, check=False)
    assert out == "vtc: error: acme exists already; choose another name or --folder\n"
    assert not list((tmp_path / "acme").iterdir())


def test_another_folder(tmp_path):
    out = new_plugin("acme", "--folder", "a b/c", folder=tmp_path)
    assert "cd 'a b/c/acme'" in out
    assert (tmp_path / "a b" / "c" / "acme" / "acme" / "plugin.py").is_file()


def test_with_json_the_written_files_are_listed(tmp_path):
    result = json.loads(new_plugin("acme", "--json", folder=tmp_path))
    assert result["folder"] == "acme" and len(result["files"]) == 7
    assert all((tmp_path / file).is_file() for file in result["files"])
