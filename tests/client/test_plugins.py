"""A coordinator cannot make a site run code: plug-ins run if the site installed and lists them."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
import yaml
from builders import PROGNOSIS
from flwr.app import Context, RecordDict
from plugin_packages import install_package

from client.admission import admit
from client.app import app
from mdmt.algorithms import algorithms
from mdmt.config import FederationConfig, load_site
from mdmt.errors import PolicyError
from mdmt.messages import Query
from mdmt.models.backbones import backbones
from mdmt.plugins import _installed
from mdmt.registry import Registry
from mdmt.tasks import task_kinds

CODE = """
from typing import Literal
from mdmt.algorithms import FedAvg
from mdmt.tasks import Regression

class Best(FedAvg):
    name: Literal["best"] = "best"

class Score(Regression):
    kind: Literal["score"] = "score"

def build_it(config, pretrained):
    raise ValueError("not here")
"""
NEEDS = ["task kind score", "algorithm best", "backbone score_net"]
SCORE = {"kind": "score", "outputs": ["A"], "range": [0, 3]}


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    points = {
        "mdmt.tasks": {"score": "score_pack:Score"},
        "mdmt.backbones": {"score_net": "score_pack:build_it"},
        "mdmt.algorithms": {"best": "score_pack:Best"},
    }
    package = tmp_path / "lib", "mdmt-score", {"score_pack.py": CODE}, points
    monkeypatch.syspath_prepend(install_package(*package))
    yield
    sys.modules.pop("score_pack", None)
    registry: Registry
    for registry, name in (
        (task_kinds, "score"),
        (backbones, "score_net"),
        (algorithms, "best"),
    ):
        registry._entries.pop(name, None)
        registry._plugins.pop(name, None)


@pytest.fixture
def site_file(tmp_path):
    """The file of a site; what it names itself is no plug-in."""

    def write(**policy):
        site = {
            "name": "ward",
            "dataset": {"kind": "table", "root": "/nowhere"},
            "tasks": {"prognosis": PROGNOSIS},
            "state_dir": str(tmp_path / "state"),
            "device": "cpu",
            "policy": policy,
        }
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
        return tmp_path / "site.yaml"

    return write


@pytest.fixture
def recipes(make_config):
    """Recipes that need the plug-in's task kind, algorithm or backbone."""

    def changed(change):
        recipe = json.loads(make_config().recipe)
        change(recipe)
        return json.dumps(recipe)

    return {
        "task kind score": changed(lambda r: r["tasks"].update(scores={"space": SCORE})),
        "algorithm best": changed(lambda r: r.update(algorithm={"name": "best"})),
        "backbone score_net": changed(lambda r: r["model"].update(backbone="score_net")),
    }


@pytest.mark.parametrize("need", NEEDS)
def test_a_deployed_site_refuses_a_plugin_it_does_not_list(site_file, recipes, need, ask):
    """It is installed, but the policy does not name it: the server is told, and nothing ran."""
    approved = hashlib.sha256(recipes[need].encode()).hexdigest()
    context = Context(1, 2, {"site": str(site_file(recipes=[approved]))}, RecordDict(), {})
    answer = app(ask("query", Query(recipe=recipes[need]).model_dump_json()), context)
    assert answer.error.reason == (
        f"site ward: policy: plugins does not list mdmt-score, whose {need} is needed"
    )
    assert "score_pack" not in sys.modules


@pytest.mark.parametrize("need", NEEDS)
def test_a_site_that_lists_another_package_refuses_too(site_file, recipes, need):
    site = load_site(site_file(plugins=["mdmt-other"]))
    with pytest.raises(PolicyError, match="does not list mdmt-score"):
        admit(site, Query(recipe=recipes[need]))
    assert "score_pack" not in sys.modules


@pytest.mark.parametrize("need", NEEDS)
def test_a_site_that_lists_it_admits_it(site_file, recipes, need):
    site = load_site(site_file(plugins=["mdmt-score"]))
    federation = admit(site, Query(recipe=recipes[need]))
    assert federation.name == "test"
    assert "score_pack" in sys.modules


@pytest.fixture
def recipe():
    """The recipe of a federation of the plug-in's task kind, as its coordinator writes it."""
    model, training = {"backbone": "test_resnet"}, {"rounds": 1}
    config = {"name": "test", "tasks": {"scores": SCORE}, "training": training, "model": model}
    return FederationConfig.model_validate(config).recipe


def test_an_approval_pins_version_and_code_of_a_plugin(site_file, tmp_path, recipe):
    pinned = json.loads(recipe)["plugins"]["mdmt-score"]
    assert pinned["version"] == "1.0"
    code = hashlib.sha256(CODE.encode()).hexdigest()
    assert pinned["sha256"] == hashlib.sha256(f"score_pack.py {code}\n".encode()).hexdigest()
    approved = [hashlib.sha256(recipe.encode()).hexdigest()]
    site = load_site(site_file(plugins=["mdmt-score"], recipes=approved))
    assert admit(site, Query(recipe=recipe)).recipe == recipe
    (tmp_path / "lib" / "score_pack.py").write_text(CODE + "# changed after the approval")
    _installed.cache_clear()  # another process
    with pytest.raises(PolicyError, match=r"other code of 'mdmt-score'; here it is 1\.0, SHA-256"):
        admit(site, Query(recipe=recipe))


def test_a_recipe_without_plugins_pins_nothing(make_config):
    assert "plugins" not in json.loads(make_config().recipe)


@pytest.mark.parametrize("pinned", [{}, None, 7, {"mdmt-score": None}, {"other": {"version": "1"}}])
def test_a_recipe_that_pins_something_else_is_refused(site_file, pinned, recipe):
    text = json.dumps(json.loads(recipe) | {"plugins": pinned}, sort_keys=True)
    approved = [hashlib.sha256(text.encode()).hexdigest()]
    site = load_site(site_file(plugins=["mdmt-score"], recipes=approved))
    with pytest.raises(PolicyError):
        admit(site, Query(recipe=text))


def test_a_simulation_on_ones_own_machine_refuses_nothing(site_file, recipes):
    admit(load_site(site_file()), Query(recipe=recipes["task kind score"]))
    assert "score_pack" in sys.modules
