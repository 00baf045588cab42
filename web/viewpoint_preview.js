/** The ComfyUI extension: puts a viewer into each ViewPointPreview360 node and feeds it the node's results. */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { nodeLabel, targetNodes, writeView } from './use_view.js'
import { Viewer } from './viewer.js'

const NODE = 'ViewPointPreview360'
const RESULT = 'viewpoint_360'
const NO_TARGET = 'No node to write to: add "look into a panorama" or "place a clip on the map" to the graph.'
const NODE_SIZE = [440, 480]
const MIN_HEIGHT = 260
const MARGIN = 10
const viewers = new Map() // node -> viewer, while the node is in a graph

function addStyles() {
  const href = new URL('./viewer.css', import.meta.url).href
  document.head.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href }))
}

/** A node's result as the viewer takes it. */
function fileOf({ filename, subfolder, type, projection, media, audio, note }) {
  const url = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
  return { url, name: filename, isVideo: media === 'video', isMap: projection === 'viewpoint', hasAudio: audio, note }
}

/** Show what a node made: several files where it ran over a list. */
function showResult(node, output) {
  const results = output?.[RESULT]
  if (results?.length) viewers.get(node)?.showAll(results.map(fileOf))
}

/** All nodes, those of subgraphs too, by the names under which the host keeps their outputs: a node's id after its
 * subgraph's, and after a workflow came back its id after those of the nodes that lead to it. */
function* nodesWithNames(graph, path = '', before = '') {
  for (const node of graph.nodes) {
    yield [node, [`${before}${node.id}`, `${path}${node.id}`]]
    if (node.subgraph) yield* nodesWithNames(node.subgraph, `${path}${node.id}:`, `${node.subgraph.id}:`)
  }
}

function showAllResults(outputs) {
  for (const [node, names] of nodesWithNames(app.rootGraph ?? app.graph)) {
    if (viewers.has(node)) showResult(node, names.map((name) => outputs?.[name]).find(Boolean))
  }
}

/** Nodes inside subgraphs are not told that they went. */
function removeLostViewers() {
  const placed = new Set([...nodesWithNames(app.rootGraph ?? app.graph)].map(([node]) => node))
  for (const node of [...viewers.keys()].filter((each) => !placed.has(each))) removeViewer(node)
}

/** Events that a viewer leaves to the graph. With the host's new node rendering they get there by themselves. */
function forwardToGraph(event) {
  if (window.LiteGraph?.vueNodesMode) return
  const actions = {
    wheel: 'processMouseWheel',
    pointerdown: 'processMouseDown',
    pointermove: 'processMouseMove',
    pointerup: 'processMouseUp',
  }
  if (event.type !== 'wheel' && event.button === 2) return
  if (event.type === 'wheel') event.preventDefault()
  app.canvas[actions[event.type]](event)
}

/** Write the view into the selected node, the only one, or the one that the user picks. */
function useView(node, viewer) {
  const selected = [...(app.canvas.selectedItems ?? Object.values(app.canvas.selected_nodes ?? {}))]
  const { nodes, chosen } = targetNodes(node.graph, selected)
  const write = (target) => viewer.panel.setNote(writeView(target, viewer.view))
  const candidates = chosen.length ? chosen : nodes
  if (candidates.length === 0) viewer.panel.setNote(NO_TARGET)
  else if (candidates.length === 1) write(candidates[0])
  else viewer.panel.setMenu(candidates.map((target) => [nodeLabel(target), () => write(target)]))
}

function addViewer(node) {
  const viewer = new Viewer({ forwardToGraph, useView: () => useView(node, viewer) })
  const widget = node.addDOMWidget('viewer', 'viewpoint_360', viewer.root, {
    serialize: false, // not an input of the node
    getMinHeight: () => MIN_HEIGHT,
    margin: MARGIN,
    selectOn: [], // a click must not deselect the node that "use this view" is for
  })
  widget.serialize = false // nor of the saved workflow
  chain(node, 'onAdded', () => {
    if (viewer.disposed) return
    viewer.attach()
    viewers.set(node, viewer)
  })
  chain(node, 'onExecuted', (output) => showResult(node, output))
  chain(node, 'onRemoved', () => removeViewer(node))
  node.setSize([Math.max(node.size[0], NODE_SIZE[0]), Math.max(node.size[1], NODE_SIZE[1])])
}

function removeViewer(node) {
  viewers.get(node)?.dispose()
  viewers.delete(node)
}

/** Call `action` after the method that the object has under this name. */
function chain(object, name, action) {
  const before = object[name]
  object[name] = function (...args) {
    const result = before?.apply(this, args)
    action(...args)
    return result
  }
}

app.registerExtension({
  name: 'ViewPoint.Preview360',
  setup: addStyles,
  nodeCreated(node) {
    if (node.comfyClass === NODE) addViewer(node)
  },
  /** Nodes that came back, by undo or with their workflow's tab, still have their results, in subgraphs too. */
  afterConfigureGraph() {
    removeLostViewers()
    showAllResults(app.nodeOutputs)
  },
  onNodeOutputsUpdated: showAllResults,
})
