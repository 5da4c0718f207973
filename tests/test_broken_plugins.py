"""Plug-ins that fail to load, are malformed, or register the same names."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from plugin_sources import SELECTOR, assert_shipped_work, registering

import vtc
from vtc.plugins.registry import Registry


def broken(install_plugin, source: str, **options: str) -> str:
    """The error recorded for a plug-in ``acme``, having checked all that must go with it."""
    install_plugin("acme-vtc", "acme", source, **options)
    registry = Registry()
    with pytest.warns(UserWarning) as warned:
        (info,) = registry.parts("plug-in")
    assert (info.kind, info.name, info.plugin) == ("plug-in", "acme", "acme")
    assert (info.distribution, info.version, info.options) == ("acme-vtc", "1.5", {})
    assert info.error is not None
    (message,) = [str(w.message) for w in warned]
    assert message == f"plug-in 'acme' (acme-vtc 1.5) is skipped: acme: {info.error}"
    with pytest.raises(ValueError) as unknown:
        registry.get_class("selector", "even")
    assert str(unknown.value).endswith(f"Skipped plug-ins: acme ({info.error}).")
    assert_shipped_work(registry)
    return info.error


def test_a_broken_import_is_skipped(install_plugin) -> None:
    error = broken(install_plugin, "import nowhere_to_be_found")
    assert error == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            registering("{}", hook="vtc_register_selector"),
            "ValueError: unknown hook 'vtc_register_selector'; hooks: vtc_register_selectors, "
            "vtc_register_mergers, vtc_register_budgets, vtc_register_adapters, "
            "vtc_register_commands, vtc_register_models. Did you mean 'vtc_register_selectors'?",
        ),
        (
            "def vtc_register_selectors():\n    return {}",
            "ValueError: these functions need @vtc.hookimpl: vtc_register_selectors",
        ),
        (
            registering("{}") + "\ndef vtc_register_mergers():\n    return {}\n",
            "ValueError: these functions need @vtc.hookimpl: vtc_register_mergers",
        ),
        (
            "import vtc",
            "ValueError: it has no hook; mark one of vtc_register_selectors, vtc_register_mergers, "
            "vtc_register_budgets, vtc_register_adapters, vtc_register_commands, "
            "vtc_register_models with @vtc.hookimpl",
        ),
        (registering("1 / 0"), "ZeroDivisionError: division by zero"),
        (
            registering("None"),
            "TypeError: expected vtc_register_selectors to return a mapping from names to classes, "
            "got NoneType",
        ),
        (
            registering("['acme:Even']"),
            "TypeError: expected vtc_register_selectors to return a mapping from names to classes, "
            "got list",
        ),
        (
            registering("{1: 'acme:Even'}"),
            "TypeError: vtc_register_selectors: expected names of type str, got 1",
        ),
        (
            registering("{'even': 5}"),
            "TypeError: vtc_register_selectors: expected 'even' to be a class or 'module:Class', "
            "got 5",
        ),
        (
            registering("{'even': 'acme.Even'}"),
            "ValueError: vtc_register_selectors: expected 'even' to be 'module:Class', got "
            "'acme.Even'",
        ),
    ],
)
def test_wrong_hooks_break_their_plugin_alone(install_plugin, source: str, error: str) -> None:
    assert broken(install_plugin, source) == error


def test_a_hook_of_a_wrong_signature_is_one_line(install_plugin) -> None:
    source = "import vtc\n@vtc.hookimpl\ndef vtc_register_selectors(extra):\n    return {}\n"
    error = broken(install_plugin, source)
    assert error.startswith("PluginValidationError: ") and "'extra'" in error and "\n" not in error


def test_a_hook_of_another_version_may_be_optional(install_plugin) -> None:
    source = "import vtc\n@vtc.hookimpl(optionalhook=True)\ndef vtc_register_later():\n    pass\n"
    install_plugin("acme-vtc", "acme", source)
    assert Registry().parts("plug-in") == []


# Broken parts of plug-ins that work


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("unfinished", TypeError, "acme:Unfinished must define select"),
        ("stranger", TypeError, "acme:Stranger must be a subclass of vtc.FrameSelector"),
    ],
)
def test_classes_of_the_wrong_kind(even: Registry, name: str, kind: type, message: str) -> None:
    (info,) = [info for info in even.parts("selector") if info.name == name]
    assert info.error == message
    with pytest.raises(kind) as error:
        even.get_class("selector", name)
    start = f"selector '{name}' of plug-in 'acme' (acme-vtc 1.5): "
    assert str(error.value) == start + message


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("nowhere_at_all:Even", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("acme:Evn", "AttributeError: module 'acme' has no attribute 'Evn'"),
        ("acme_exits:Even", "SystemExit: 3"),
    ],
)
def test_class_strings_that_fail(install_plugin, target: str, cause: str) -> None:
    install_plugin("acme-exits", "acme_exits", "import sys\nsys.exit(3)")
    registered = registering(f"{{'even': {target!r}, 'bare': 'acme:Bare'}}")
    install_plugin("acme-vtc", "acme", SELECTOR + registered)
    registry = Registry()
    with pytest.warns(UserWarning, match="is skipped: acme_exits: SystemExit: 3"):
        infos = {info.name: info for info in registry.parts("selector")}
    assert infos["even"].error == f"cannot load {target}: {cause}"
    assert infos["bare"].error is None
    with pytest.raises(ImportError) as error:
        registry.get_class("selector", "even")
    start = "selector 'even' of plug-in 'acme' (acme-vtc 1.5): cannot load "
    assert str(error.value) == f"{start}{target}: {cause}"
    assert_shipped_work(registry)


def test_classes_may_be_given_themselves(install_plugin) -> None:
    install_plugin("acme-vtc", "acme", SELECTOR + registering("{'even': Even, 'wrong': Stranger}"))
    registry = Registry()
    part = registry.build("selector", {"name": "even", "stride": 7})
    assert registry.spec_of(part)["stride"] == 7
    infos = {info.name: info for info in registry.parts("selector")}
    assert infos["even"].summary == "Takes every other frame."
    assert "must be a subclass of vtc.FrameSelector" in str(infos["wrong"].error)


# Plug-ins that meet


def test_two_plugins_that_claim_one_name(install_plugin) -> None:
    install_plugin("acme-vtc", "acme", SELECTOR + registering("{'uniform': Even, 'even': Even}"))
    registry = Registry()
    version = vtc.__version__
    message = (
        "selector 'uniform' is registered by plug-in 'acme' (acme-vtc 1.5) and by plug-in "
        f"'vtc_selectors' (video-token-compression {version}); uninstall one, or disable "
        "one with VTC_DISABLED_PLUGINS=NAME"
    )
    with pytest.raises(ValueError) as error:
        registry.build("selector", "uniform")
    assert str(error.value) == message
    claimed = [info for info in registry.parts("selector") if info.name == "uniform"]
    assert [(i.plugin, i.error) for i in claimed] == [
        ("acme", message),
        ("vtc_selectors", message),
    ]
    assert registry.build("selector", "even").config.stride == 2
    assert registry.build("selector", "dks").config.keyframes == 32
    with pytest.raises(ValueError, match="is registered by"):
        registry.spec_of(vtc.selector("uniform"))


def test_one_entry_point_name_in_two_distributions(install_plugin) -> None:
    install_plugin("a-dist", "module_a", SELECTOR + registering("{'one': Even}"), name="same")
    install_plugin("b-dist", "module_b", SELECTOR + registering("{'two': Even}"), name="same")
    infos = {i.name: i for i in Registry().parts("selector")}
    assert (infos["one"].plugin, infos["one"].distribution) == ("same", "a-dist")
    assert (infos["two"].plugin, infos["two"].distribution) == ("same", "b-dist")


def test_metadata_installed_twice_counts_once(install_plugin, monkeypatch) -> None:
    source = SELECTOR + registering("{'even': Even}")
    install_plugin("acme-vtc", "acme", source)
    install_plugin("acme-vtc", "acme", source, folder="again")
    twice = [*entry_points(group="vtc"), *entry_points(group="vtc")]
    monkeypatch.setattr("vtc.plugins.discovery.entry_points", lambda group: twice)
    assert Registry().build("selector", "even").config.stride == 2
    assert Registry().build("selector", "dks").config.keyframes == 32


def test_plugins_can_be_switched_off(install_plugin, monkeypatch) -> None:
    install_plugin("acme-vtc", "acme", "raise RuntimeError('imported although disabled')")
    monkeypatch.setenv("VTC_DISABLED_PLUGINS", " acme ,vtc_mergers")
    registry = Registry()
    infos = registry.parts()
    off = [(i.name, i.error) for i in infos if i.kind == "plug-in"]
    reason = "disabled by VTC_DISABLED_PLUGINS"
    assert off == [("acme", reason), ("vtc_mergers", reason)]
    assert not [i for i in infos if i.kind == "merger"]
    assert_shipped_work(registry)
    with pytest.raises(
        ValueError, match=r"known: none\. Skipped plug-ins: acme \(disabled by .*vtc_mergers"
    ):
        registry.get_class("merger", "dfm")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "beta_part",
            r"no plug-in 'beta_part' is installed; installed: beta_parts, vtc_adapters, .*"
            r"vtc_selectors\. Did you mean 'beta_parts'\?$",
        ),
        ("beta-vtc", r"'beta-vtc' is a distribution, not a plug-in\. Did you mean 'beta_parts'\?$"),
        ("zzz", r"no plug-in 'zzz' is installed; installed: beta_parts, .*vtc_selectors\.$"),
    ],
)
def test_switching_off_what_is_not_there_warns(
    install_plugin, monkeypatch, name: str, message: str
) -> None:
    install_plugin("beta-vtc", "beta_parts", registering("{}"))
    monkeypatch.setenv("VTC_DISABLED_PLUGINS", name)
    with pytest.warns(UserWarning, match=f"^VTC_DISABLED_PLUGINS: {message}"):
        Registry().parts()
