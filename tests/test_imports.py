"""What importing vtc costs, and that no root folder hides a module of the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("adapters", "mergers", "recipes", "selectors")
HEAVY = ("torch", "transformers", "peft", "open_clip", "timm", "av", "decord", "numpy", "PIL")
PLUGINS = ("vtc_adapters", "vtc_mergers", "vtc_recipes", "vtc_selectors")


def imported_by(code: str) -> set[str]:
    """Those of the heavy packages and plug-ins that a fresh interpreter imports for ``code``."""
    names = (*HEAVY, *PLUGINS)
    report = f"import sys; print(*[name for name in {names!r} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    "code", ["import vtc", "import vtc.cli", "import vtc.plugins.registry", "import vtc; dir(vtc)"]
)
def test_importing_vtc_imports_nothing_heavy(code: str) -> None:
    assert imported_by(code) == set()


def test_the_check_of_imports_can_fail() -> None:
    assert "torch" in imported_by("import vtc.interfaces.token_merger")
    assert "vtc_selectors" in imported_by("import vtc; import vtc_selectors.plugin")


def test_finding_plugins_imports_them_but_no_torch() -> None:
    assert imported_by("import vtc; vtc.parts('plug-in')") == {
        "vtc_adapters",
        "vtc_mergers",
        "vtc_recipes",
        "vtc_selectors",
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_root_folders_are_no_packages(folder: str) -> None:
    # A regular package called selectors would break asyncio and subprocess at the root.
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


SELECTORS_MODULE = "import selectors, asyncio, subprocess; print(selectors.__file__)"


def where_selectors_is(folder: Path) -> Path:
    # As a script in the folder would, `python -c` puts the folder first on sys.path.
    ended = subprocess.run(
        [sys.executable, "-c", SELECTORS_MODULE], cwd=folder, capture_output=True, text=True
    )
    return Path(ended.stdout.strip())


def test_selectors_at_the_root_is_the_standard_library() -> None:
    import selectors

    assert where_selectors_is(ROOT) == Path(selectors.__file__)


def test_the_check_of_selectors_can_fail(tmp_path: Path) -> None:
    package = tmp_path / "selectors"
    package.mkdir()
    (package / "__init__.py").touch()
    assert where_selectors_is(tmp_path) != where_selectors_is(ROOT)


def test_public_names_lead_somewhere() -> None:
    import vtc

    assert set(vtc.__all__) == {*vtc._HOME, "testing"}
    assert set(vtc.__all__) <= set(dir(vtc))
    with pytest.raises(AttributeError, match=r"^module 'vtc' has no attribute 'warp'$"):
        vtc.warp  # noqa: B018
