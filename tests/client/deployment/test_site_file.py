"""Approving a recipe changes one key of ``site.yaml`` and no other character."""

from __future__ import annotations

import difflib
import stat

import pytest
import yaml

from client.deployment.site_file import add_recipe
from mdmt.errors import BadInput

A, B, C = "a" * 64, "b" * 64, "c" * 64
HEAD = """\
# The hospital's own file.
name: ward  # registered
tasks: {outcome: {kind: classification, classes: [MILD, 'SEVERE']}}

"""
LAYOUTS = {
    "no policy": "",
    "no end of line": "device: cpu",
    "only comments": "policy:   # what this site allows\n  # max_rounds: 3\n",
    "null": "policy: null\ndevice: cpu\n",
    "other keys": "policy:  # ours\n    max_rounds: 3  # agreed\n    # apps: []\ndevice: cpu\n",
    "flow": "policy: {max_rounds: 3}\n",
    "empty flow": "policy: {}\n",
    "empty list": "policy:\n  recipes: []   # none yet\n  max_rounds: 3\n",
    "no value": "policy:\n  recipes:   # none yet\n  max_rounds: 3\n",
    "flow list": f"policy:\n  recipes: [{A}]  # 2026-01-02\n  max_rounds: 3\n",
    "long flow list": f"policy:\n  recipes: [\n    {A},  # first\n    {B}\n  ]\n",
    "trailing comma": f"policy:\n  recipes: [\n    {A},\n  ]\n",
    "block list": f"policy:\n  recipes:\n    - {A}  # first\n    - {B}  # 2nd\n\n  max_rounds: 3\n",
    "unindented list": f"policy:\n  recipes:\n  - {A}\n  max_rounds: 3\n",
    "list at the end": f"policy:\n  recipes:\n    - {A}",
    "quoted": f"policy:\n  'recipes': ['{A}']\n",
    "windows": f"policy:\r\n  recipes:\r\n    - {A}\r\n  max_rounds: 3\r\n",
    "byte order mark": f"policy:\n  recipes: [{A}]\n",
}


def write(tmp_path, layout):
    head = HEAD.replace("\n", "\r\n") if layout == "windows" else HEAD
    mark = "\ufeff" if layout == "byte order mark" else ""
    file = tmp_path / "site.yaml"
    file.write_bytes((mark + head + LAYOUTS[layout]).encode())
    return file


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_list_changes(tmp_path, layout):
    file = write(tmp_path, layout)
    before = file.read_bytes().decode()
    old = yaml.safe_load(before)
    assert add_recipe(file, C)
    text = file.read_bytes().decode()
    new = yaml.safe_load(text)
    known = ((old.get("policy") or {}).get("recipes")) or []
    assert new["policy"]["recipes"] == [*known, C]
    del new["policy"]["recipes"]
    expected = dict(old.get("policy") or {})
    expected.pop("recipes", None)
    assert new == old | {"policy": expected}
    kept = difflib.SequenceMatcher(None, before, text, autojunk=False).get_matching_blocks()
    lost = len(before) - sum(block.size for block in kept)
    assert lost <= len("null"), "every comment and every end of line stays"
    assert not add_recipe(file, C)
    assert file.read_bytes().decode() == text, "twice changes nothing"
    assert add_recipe(file, "d" * 64)
    assert yaml.safe_load(file.read_bytes().decode())["policy"]["recipes"] == [*known, C, "d" * 64]


@pytest.mark.parametrize(
    "text",
    [
        "{name: ward, device: cpu}\n",  # no place for a new section
        "base: &p\n  max_rounds: 3\npolicy: *p\n",  # would change `base` too
        "name: ward\n...\n",
    ],
)
def test_a_form_that_cannot_be_edited_is_left_alone(tmp_path, text):
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=rf"site.yaml: .*recipes: \[{C}\]"):
        add_recipe(file, C)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_mode_and_link_stay(tmp_path):
    real = tmp_path / "etc" / "site.yaml"
    real.parent.mkdir()
    real.write_text("name: ward\n")
    real.chmod(0o640)
    link = tmp_path / "site.yaml"
    link.symlink_to(real)
    add_recipe(link, C)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert C in real.read_text()
