"""Graphs of the browser tests, and the scripts that work on a graph in the page."""

from typing import Any

VIEWER_PLACE = {"pos": [430, 60], "size": [440, 480]}

# Types of the nodes that the page does not know.
UNKNOWN = """() => app.graph.nodes
  .filter((node) => node.has_errors || !LiteGraph.registered_node_types[node.type])
  .map((node) => node.type).filter((type) => !['Note', 'MarkdownNote'].includes(type))"""
# The text encoder is 11 GB: saved prompts stand in for it. Sizes that a CPU does in seconds.
SHRINK = """([positive, negative, length]) => {
  for (const node of [...app.graph.nodes]) {
    for (const [name, value] of [['map_size', 128], ['length', length], ['steps', 2], ['erp_width', 256]]) {
      const widget = node.widgets?.find((each) => each.name === name)
      if (node.type === 'ViewPointCameraPath') continue // its keyframes need its length
      if (widget && widget.value > value) widget.value = value
    }
    if (node.type === 'CLIPLoader') app.graph.remove(node)
    if (node.type !== 'CLIPTextEncode') continue
    const saved = LiteGraph.createNode('ViewPointLoadTextEmbedding')
    app.graph.add(saved)
    saved.widgets.find((each) => each.name === 'file').value = /Negative/.test(node.title) ? negative : positive
    for (const id of [...node.outputs[0].links]) {
      const link = app.graph.links.get(id)
      saved.connect(0, app.graph.getNodeById(link.target_id), link.target_slot)
    }
    app.graph.remove(node)
  }
}"""

# How many GL contexts the viewers hold, and which of the kept canvases lost theirs.
HOLDERS = "async () => (await import('/extensions/viewpoint/context_pool.js')).held()"
LOST = "canvases.map((canvas) => canvas.getContext('webgl2').isContextLost())"

# Show a file of the temp folder in the viewer.
RESULT = """([filename, media]) => {
  const node = app.graph.nodes.find((each) => each.type === 'ViewPointPreview360')
  const file = { filename, media, subfolder: '', type: 'temp', projection: 'erp', fps: 16, audio: false }
  node.onExecuted({ viewpoint_360: [file] })
}"""

# Angles of a node's widgets.
ANGLES = """(id) => Object.fromEntries(app.graph.getNodeById(id).widgets
  .filter((widget) => widget.name.endsWith('_deg')).map((widget) => [widget.name, widget.value]))"""

# Have the viewer's node run anew; whether the page has kept its result with the workflow.
SET_FPS = """(fps) => {
  const node = app.canvas.graph.nodes.find((node) => node.type === 'ViewPointPreview360')
  node.widgets.find((widget) => widget.name === 'fps').value = fps
}"""
KEPT = """() => {
  const kept = app.extensionManager.workflow.activeWorkflow.changeTracker.nodeOutputs ?? {}
  const name = (outputs) => Object.values(outputs).find((output) => output.viewpoint_360)?.viewpoint_360[0].filename
  return name(kept) === name(app.nodeOutputs)
}"""


def image(name: str, **place: Any) -> dict[str, Any]:
    """A LoadImage node."""
    return {"type": "LoadImage", "pos": [60, 100], "inputs": {"image": name}, **place}


def viewer(source: list[Any], projection: str = "erp", **place: Any) -> dict[str, Any]:
    """A viewer node."""
    inputs = {"panorama": source, "projection": projection}
    return {"type": "ViewPointPreview360", **VIEWER_PLACE, **place, "inputs": inputs}


def target(kind: str, **place: Any) -> dict[str, Any]:
    """A node that takes a view."""
    return {"type": kind, "pos": [920, 60], "inputs": {}, **place}


def viewer_alone() -> dict[str, Any]:
    """A viewer that nothing is connected to."""
    return {"type": "ViewPointPreview360", **VIEWER_PLACE, "inputs": {}}
