"""docs/training.md: every whole command in it is one that its program takes."""

import re
import shlex
from pathlib import Path

import pytest

from viewpoint_core import encode, export, prepare, train
from viewpoint_core.checkpoint import check_target
from viewpoint_core.training.config import FIELDS, PRESETS, read_config

GUIDE = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
MODULE = "viewpoint_core."


def commands() -> list[tuple[str, list[str]]]:
    """(program, arguments) of the guide's commands, those with an ellipsis left out."""
    blocks = "\n".join(re.findall(r"(?:^    .*\n)+", GUIDE, re.M)).replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in blocks.splitlines() if MODULE in line and "..." not in line]
    starts = [next(i for i, word in enumerate(words) if word.startswith(MODULE)) for words in found]
    return [(words[at].removeprefix(MODULE), words[at + 1 :]) for words, at in zip(found, starts, strict=True)]


def of(program: str) -> list[list[str]]:
    """The arguments of the guide's commands of a program."""
    return [arguments for name, arguments in commands() if name == program]


def test_prepare_and_encode_take_the_guides_commands() -> None:
    assert len(of("prepare")) == len(of("encode")) == 3
    manifests = [prepare.parse_arguments(arguments).out for arguments in of("prepare")]
    encoded = [encode.parse_arguments(arguments) for arguments in of("encode")]
    for options in encoded:
        encode.check_options(options)
    assert [options.manifest for options in encoded] == manifests
    assert [options.known for options in encoded] == ["", "FRBL", ""]


def test_train_takes_the_guides_commands_and_export_what_they_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configs = [read_config(train.parse(arguments)) for arguments in of("train")]
    modes = {config.output: config.mode for config in configs}
    assert modes == {"runs/rides_lora": "lora", "runs/paper": "full", "runs/few": "full"}
    caches = {str(encode.parse_arguments(arguments).cache) for arguments in of("encode")}
    assert {config.cache for config in configs} == caches
    exported = [export.parse_arguments(arguments) for arguments in of("export")]
    for options in exported:
        check_target(export.target_file(options), replace=options.force)
    targets = [export.target_file(options) for options in exported]
    assert len(set(targets)) == len(targets)
    sources = [(options.command, "/".join(options.source.parts[:2])) for options in exported]
    assert ("diffusers", "viewpoint.safetensors") in sources
    trained = {(source, command) for command, source in sources if command != "diffusers"}
    assert {(source, {"checkpoint": "full", "lora": "lora"}[command]) for source, command in trained} == {
        *modes.items(),
        ("runs/calm", "full"),  # of the preset that the guide offers instead
    }


@pytest.mark.parametrize("name", sorted({file.stem for file in PRESETS.glob("*.yaml")} - {"tiny_viewpoint"}))
def test_the_guide_names_every_preset(name: str) -> None:
    assert f"| `{name}` |" in GUIDE


def test_settings_that_the_guide_sets_exist() -> None:
    named = re.findall(r"`([a-z_]+): [a-z0-9_]+`", GUIDE)
    assert named
    assert set(named) <= FIELDS.keys()
