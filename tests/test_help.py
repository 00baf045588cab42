"""Help pages, tooltips, and the English texts, compared with the nodes that a real ComfyUI server lists."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.build_locale import (
    LOCALE,
    label,
    locale,
    message,
    node_inputs,
    node_outputs,
    pack_nodes,
)
from scripts.build_workflows import workflow_files
from scripts.comfy_server import PACK, ComfyServer, make_base_directory
from scripts.host import ROOT, provide_host

PAGES = ROOT / "web" / "docs"
SECTIONS = ["Inputs", "Outputs", "Which value when", "Errors", "In a workflow"]
ROW = re.compile(r"^\| (?:([^|`]+) )?`([^`|]+)` \| ([^|]+) \|$", re.MULTILINE)
pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(provide_host(), make_base_directory(tmp_path_factory.mktemp("comfy"))) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.client.get("/object_info")


@pytest.fixture(scope="module")
def nodes(object_info: dict[str, Any]) -> dict[str, Any]:
    """The pack's nodes as the host describes them."""
    return pack_nodes(object_info)


def sections(page: str) -> dict[str, str]:
    """A page's text by its second-level headings."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(table: str) -> list[tuple[str, str]]:
    """Name in files and name in the editor, where it is another, of each row of a table."""
    return [(name, shown or name) for shown, name, text in ROW.findall(table) if text.strip()]


def message_of(node: ast.AST) -> str | None:
    """The text of a string in the code, ... for what is filled in; None for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def messages() -> list[str]:
    """All texts of the code that the nodes run."""
    files = [*(ROOT / "nodes").glob("*.py"), *(ROOT / "viewpoint_core").glob("*.py")]
    found = [message_of(node) for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return [text for text in found if text]


def quoted_errors(page: str) -> list[str]:
    """What a page quotes of errors, ... standing for any value."""
    return [quote for quotes in re.findall(r"^- \*\*(.+?)\*\*: ", page, re.MULTILINE) for quote in quotes.split(" / ")]


def is_said(quote: str, texts: list[str]) -> bool:
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in quote.split("...")), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_every_node_has_a_page_and_no_page_is_of_another_node(nodes: dict[str, Any]) -> None:
    assert {page.stem for page in PAGES.iterdir()} == set(nodes)
    assert len(nodes) >= 14


def test_a_page_names_every_input_and_output_as_files_and_editor_do(nodes: dict[str, Any]) -> None:
    for node, info in nodes.items():
        parts = sections((PAGES / f"{node}.md").read_text(encoding="utf-8"))
        assert rows(parts["Inputs"]) == [(name, label(name)) for name in node_inputs(info)], node
        assert rows(parts["Outputs"]) == [(name, label(name)) for name, _ in node_outputs(info)], node


def test_a_page_starts_with_the_nodes_name_and_has_all_sections(nodes: dict[str, Any]) -> None:
    for node, info in nodes.items():
        page = (PAGES / f"{node}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {info['display_name']}\n\n"), node
        parts = sections(page)
        assert list(parts) == SECTIONS, node
        assert all(text.strip() for text in parts.values()), node


def test_errors_that_a_page_quotes_are_those_of_the_code() -> None:
    texts = messages()
    pages = {page.stem: quoted_errors(page.read_text(encoding="utf-8")) for page in PAGES.iterdir()}
    assert sum(map(len, pages.values())) > 30
    assert [(node, quote) for node, quotes in pages.items() for quote in quotes if not is_said(quote, texts)] == []
    assert not is_said("the map has ... corners", texts)


def test_a_page_names_only_nodes_that_there_are(object_info: dict[str, Any]) -> None:
    titles = {info["display_name"] for info in object_info.values()}
    for page in PAGES.iterdir():
        named = re.findall(r"'(ViewPoint: [^']+(?:'s [^']+)?)'", page.read_text(encoding="utf-8"))
        assert [title for title in named if title not in titles] == [], page.stem


def test_the_readmes_table_names_every_node(nodes: dict[str, Any]) -> None:
    table = sections((ROOT / "README.md").read_text(encoding="utf-8"))["Nodes"]
    assert set(nodes) - set(re.findall(r"ViewPoint\w+", table)) == set()


def test_the_host_serves_a_page_where_the_editor_asks_for_it(server: ComfyServer) -> None:
    served = server.client.request("GET", f"/extensions/{PACK}/docs/ViewPointPlaceView.md")
    assert served.content == (PAGES / "ViewPointPlaceView.md").read_bytes()


def test_the_host_serves_a_workflows_picture_where_the_template_browser_asks_for_it(server: ComfyServer) -> None:
    assert "video_to_360" in server.client.get("/workflow_templates")[PACK]
    served = server.client.request("GET", f"/api/workflow_templates/{PACK}/video_to_360.jpg")
    assert served.headers["Content-Type"] == "image/jpeg"
    assert served.content == (ROOT / "workflows" / "video_to_360.jpg").read_bytes()


def test_every_node_has_a_description_and_every_input_and_output_a_tooltip(nodes: dict[str, Any]) -> None:
    assert [node for node, info in nodes.items() if len(info["description"]) < 20] == []
    bare = [
        (node, name)
        for node, info in nodes.items()
        for name, given in node_inputs(info).items()
        if not given.get("tooltip")
    ]
    bare += [(node, name) for node, info in nodes.items() for name, tooltip in node_outputs(info) if not tooltip]
    assert bare == []


def test_the_workflows_are_current(object_info: dict[str, Any]) -> None:
    for file, content in workflow_files(object_info).items():
        assert json.loads(file.read_text(encoding="utf-8")) == content, (
            f"{file.name}: run python -m scripts.build_workflows"
        )


def test_the_english_file_is_current(object_info: dict[str, Any]) -> None:
    assert json.loads(LOCALE.read_text(encoding="utf-8")) == locale(object_info), "run python -m scripts.build_locale"


def test_the_host_hands_out_the_english_texts(server: ComfyServer) -> None:
    served = server.client.get("/i18n")["en"]["nodeDefs"]
    assert served == json.loads(LOCALE.read_text(encoding="utf-8"))
    assert served["ViewPointPlaceView"]["inputs"]["fov_deg"]["name"] == "field of view (degrees)"


def test_readable_names_of_one_node_are_all_different(nodes: dict[str, Any]) -> None:
    for node, info in nodes.items():
        names = [label(name) for name in node_inputs(info)]
        assert len(set(names)) == len(names), node


def test_signs_of_the_editors_message_format_are_quoted() -> None:
    assert message("a {b} | c@d") == "a {'{'}b{'}'} {'|'} c{'@'}d"


def test_other_packs_nodes_are_left_out() -> None:
    listed = {"A": {"python_module": "custom_nodes.other"}, "B": {"python_module": f"custom_nodes.{PACK}"}}
    assert list(pack_nodes(listed)) == ["B"]
