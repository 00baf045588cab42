/** "Use this view": writes a viewer's angles into the widgets of a node of the same graph. */

const ANGLES = ['yaw_deg', 'pitch_deg', 'roll_deg', 'fov_deg']
/** The angles that each kind of node takes: a clip keeps its lens, a panorama that is turned its horizon. */
const TARGETS = {
  ViewPointRenderView: ANGLES,
  ViewPointPlaceView: ['yaw_deg', 'pitch_deg'],
  ViewPointReorient: ['yaw_deg'],
}
const KEPT = { ViewPointPlaceView: " Roll and field of view stay as they are: the camera's and its lens's." }
const ON_PATH = " It follows a camera path: the angles turn the whole path, and the field of view is the path's."
const DIGITS = 10 // tenths of a degree

/** Nodes of a graph that take a view, those that the user selected first. */
export function targetNodes(graph, selected) {
  const nodes = (graph?.nodes ?? []).filter((node) => node.comfyClass in TARGETS)
  const chosen = nodes.filter((node) => selected.includes(node))
  return { nodes, chosen }
}

/** How a node is called in a menu. */
export function nodeLabel(node) {
  return `${node.title} #${node.id}`
}

/** Inputs of a node that take their value from a link, so that its widget does not count. */
function linkedAngles(node) {
  const linked = (node.inputs ?? []).filter((input) => input.link != null).map((input) => input.widget?.name)
  return TARGETS[node.comfyClass].filter((name) => linked.includes(name))
}

/** Write the view into the node's widgets, as one step for undo. Returns the message for the user. */
export function writeView(node, view) {
  const linked = linkedAngles(node)
  if (linked.length) return `${nodeLabel(node)} takes ${linked.join(', ')} from a link; disconnect it first.`
  const names = TARGETS[node.comfyClass]
  const widgets = names.map((name) => node.widgets?.find((widget) => widget.name === name))
  if (widgets.some((widget) => !widget)) return `${nodeLabel(node)} has no ${names.join(', ')}.`
  const level = { ...view, roll_deg: 0 } // as the viewer shows it
  node.graph?.beforeChange?.()
  widgets.forEach((widget, index) => {
    widget.value = Math.round(level[names[index]] * DIGITS) / DIGITS
    widget.callback?.(widget.value)
  })
  node.graph?.afterChange?.()
  node.setDirtyCanvas?.(true, true)
  const onPath = node.inputs?.some((input) => input.name === 'camera_path' && input.link != null)
  return `View written to ${nodeLabel(node)}.${onPath ? ON_PATH : (KEPT[node.comfyClass] ?? '')}`
}
