"""One dictionary for what users may add: task kinds, readers, backbones, algorithms."""

from __future__ import annotations

import sys

import pytest
from plugin_packages import install_package

from mdmt.errors import ConfigError, PolicyError
from mdmt.registry import Registry, permit_plugins

GROUP = "mdmt.test"


@pytest.fixture
def colours():
    registry = Registry("colour", GROUP)
    registry.register("red", "crimson")("#f00")
    return registry


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package whose module has `code`."""

    def install(distribution, module, code, name, value):
        points = {GROUP: {name: f"{module}:{value}"}}
        package = tmp_path / distribution, distribution, {f"{module}.py": code}, points
        monkeypatch.syspath_prepend(install_package(*package))

    before = set(sys.modules)
    yield install
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_one_entry_may_have_several_names(colours):
    assert colours["red"] == colours["crimson"] == "#f00"
    assert colours.names() == ["crimson", "red"]


def test_a_name_is_registered_once(colours):
    with pytest.raises(ValueError, match="the colour red is registered already"):
        colours.register("red")("#e00")


def test_an_unknown_name_is_told_with_the_nearest_and_the_known_ones(colours):
    with pytest.raises(ConfigError) as error:
        colours["crimsn"]
    assert str(error.value) == ("unknown colour crimsn; did you mean crimson?; known: crimson, red")


def test_an_unknown_name_of_any_length_is_told_in_short(colours):
    with pytest.raises(ConfigError) as error:
        colours["x" * 10**6]
    assert len(str(error.value)) < 200


def test_a_plugin_is_imported_when_it_is_used_and_not_before(colours, install):
    install("colour-pack", "colour_pack", "BLUE = '#00f'", "blue", "BLUE")
    assert colours.names() == ["blue", "crimson", "red"]
    assert colours["red"] == "#f00"
    assert "colour_pack" not in sys.modules
    assert colours["blue"] == "#00f"
    assert "colour_pack" in sys.modules


def test_a_plugin_cannot_replace_what_is_built_in(colours, install):
    install("colour-thief", "colour_thief", "RED = 'stolen'", "red", "RED")
    assert colours["red"] == "#f00"


def test_two_plugins_of_one_name_are_told(colours, install):
    install("pack-one", "pack_one", "X = 1", "blue", "X")
    install("pack-two", "pack_two", "X = 2", "blue", "X")
    with pytest.raises(ConfigError, match="pack-one and pack-two both have a colour blue"):
        colours["blue"]


def test_a_plugin_that_cannot_be_imported_is_told_in_one_line(colours, install):
    install("colour-pack", "broken_pack", "import nothing_of_this_name", "blue", "BLUE")
    with pytest.raises(ConfigError) as error:
        colours["blue"]
    assert str(error.value) == (
        "the colour blue of colour-pack cannot be imported: ModuleNotFoundError: No module named"
        " 'nothing_of_this_name'"
    )


def test_a_plugin_that_is_not_permitted_is_refused_before_its_code_runs(colours, install):
    install("colour-pack", "refused_pack", "BLUE = '#00f'", "blue", "BLUE")
    with (
        permit_plugins(("another-pack",)),
        pytest.raises(PolicyError, match="plugins does not list colour-pack, whose colour blue"),
    ):
        colours["blue"]
    assert "refused_pack" not in sys.modules
    with permit_plugins(["Colour_Pack"]):  # names of distributions are compared as pip does
        assert colours["blue"] == "#00f"
    with permit_plugins(()), pytest.raises(PolicyError):  # a plug-in that is loaded already
        colours["blue"]
    assert colours["blue"] == "#00f"


def test_what_is_built_in_needs_no_permission(colours):
    with permit_plugins(()):
        assert colours["red"] == "#f00"
