"""How a workflow is described here: nodes by name, links between them, a note beside them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Link(NamedTuple):
    """An input that takes the named output of another node."""

    node: str
    output: str


@dataclass
class Node:
    """A node; inputs that are not given take the host's default."""

    type: str
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""


class Graph(NamedTuple):
    """Nodes by a name used only here, and the note beside them."""

    nodes: dict[str, Node]
    note: str
