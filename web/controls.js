/** Pointer, touch, wheel and keys on a viewer's stage, turned into views and commands. */

import { HOME, draggedView, validView, wrapDegrees, zoomedView } from './projection.js'

const WHEEL_ZOOM = 0.0012 // per pixel of scrolling, as an exponent
const KEY_TURN = 1 / 12 // of the field of view
const KEY_ZOOM = 1.15
const LINE_HEIGHT = 16
const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }
const COMMANDS = {
  ' ': 'togglePlay',
  f: 'toggleFullscreen',
  g: 'toggleGrid',
  m: 'toggleMute',
  n: 'showNext',
  p: 'showPrevious',
  Escape: 'escape',
}
const ZOOMS = { '+': KEY_ZOOM, '=': KEY_ZOOM, '-': 1 / KEY_ZOOM, _: 1 / KEY_ZOOM }

/** The view after a key, or null for a key that turns or zooms nothing. */
export function viewAfterKey(view, key) {
  if (key in TURNS) {
    const [right, up] = TURNS[key].map((sign) => sign * view.fov_deg * KEY_TURN)
    return validView({ ...view, yaw_deg: wrapDegrees(view.yaw_deg + right), pitch_deg: view.pitch_deg + up })
  }
  if (key in ZOOMS) return zoomedView(view, ZOOMS[key])
  return key.toLowerCase() === 'r' ? { ...HOME } : null
}

function middle(points) {
  const sum = points.reduce(([x, y], point) => [x + point[0], y + point[1]], [0, 0])
  return sum.map((value) => value / points.length)
}

const spread = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1])

/** One finger or the mouse turns, two fingers turn and zoom. */
class Drag {
  constructor(stage, viewer) {
    this.stage = stage
    this.viewer = viewer
    this.pointers = new Map()
  }

  start(event) {
    this.pointers.set(event.pointerId, [event.clientX, event.clientY])
    this.stage.setPointerCapture(event.pointerId)
  }

  move(event) {
    if (!this.pointers.has(event.pointerId)) return
    const before = [...this.pointers.values()]
    this.pointers.set(event.pointerId, [event.clientX, event.clientY])
    const after = [...this.pointers.values()]
    const [from, to] = [middle(before), middle(after)]
    const width = this.stage.getBoundingClientRect().width
    let view = draggedView(this.viewer.view, to[0] - from[0], to[1] - from[1], width)
    if (after.length === 2 && spread(before) > 0) view = zoomedView(view, spread(after) / spread(before))
    this.viewer.setView(view)
  }

  end(event) {
    this.pointers.delete(event.pointerId)
  }
}

/** Zoom if the viewer has the focus; else the wheel is the graph's. */
function wheel(event, viewer) {
  if (!viewer.hasFocus()) return viewer.forwardToGraph(event)
  event.preventDefault()
  event.stopPropagation()
  const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * LINE_HEIGHT : event.deltaY
  viewer.setView(zoomedView(viewer.view, Math.exp(-pixels * WHEEL_ZOOM)))
}

/** Keys of a viewer that has the focus do not reach the graph, where some mean other things: Delete, what is selected. */
function key(event, viewer) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  event.stopPropagation()
  const inSlider = event.target instanceof HTMLInputElement
  const onButton = event.target instanceof HTMLButtonElement
  if (inSlider && event.key.startsWith('Arrow')) return
  if (onButton && (event.key === ' ' || event.key === 'Enter')) return // presses it
  const view = viewAfterKey(viewer.view, event.key)
  const command = COMMANDS[event.key.length === 1 ? event.key.toLowerCase() : event.key]
  if (!view && !command) return
  event.preventDefault()
  if (view) viewer.setView(view)
  else viewer[command]()
}

/** ComfyUI zooms the graph on a pinch anywhere, and listens before the event gets here: so listen before that. */
function keepTouches(stage, signal) {
  const keep = (event) => stage.contains(event.target) && event.stopPropagation()
  for (const name of ['touchstart', 'touchmove', 'touchend', 'touchcancel']) {
    window.addEventListener(name, keep, { signal, capture: true, passive: true })
  }
}

/** Listen on a stage inside a root element until the signal aborts. */
export function addControls(root, stage, viewer, signal) {
  const drag = new Drag(stage, viewer)
  const on = (element, name, action, options = {}) => element.addEventListener(name, action, { signal, ...options })
  on(stage, 'pointerdown', (event) => {
    if (event.button !== 0) return viewer.forwardToGraph(event)
    event.stopPropagation()
    viewer.goOn()
    root.focus({ preventScroll: true })
    drag.start(event)
  })
  on(stage, 'pointermove', (event) => (event.buttons & 4 ? viewer.forwardToGraph(event) : drag.move(event)))
  for (const name of ['pointerup', 'pointercancel']) {
    on(stage, name, (event) => {
      drag.end(event) // of several buttons only the last one's end is told
      if (event.button === 1) viewer.forwardToGraph(event)
    })
  }
  keepTouches(stage, signal)
  on(stage, 'dblclick', () => viewer.toggleFullscreen())
  on(root, 'wheel', (event) => wheel(event, viewer), { passive: false })
  on(root, 'keydown', (event) => key(event, viewer))
}
