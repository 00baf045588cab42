/** The viewer's elements: stage, compass, labels, message and toolbar. Looks are in viewer.css. */

import { FACES, FOV_MAX_DEG, FOV_MIN_DEG, directionToScreen } from './projection.js'

const SVG = 'http://www.w3.org/2000/svg'
const ICONS = {
  play: 'M7 5v14l12-7z',
  pause: 'M6 5h4v14H6zM14 5h4v14h-4z',
  sound: 'M4 9v6h4l5 4V5L8 9zM16 8.5a5 5 0 0 1 0 7M18.5 6a8.5 8.5 0 0 1 0 12',
  muted: 'M4 9v6h4l5 4V5L8 9zM16 9.5l5 5M21 9.5l-5 5',
  grid: 'M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18M3 12h18M12 3c-5 5-5 13 0 18M12 3c5 5 5 13 0 18',
  reset: 'M4 11l8-7l8 7M6 10v9h4v-6h4v6h4v-9',
  previous: 'M15 5l-7 7l7 7',
  next: 'M9 5l7 7l-7 7',
  full: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5',
}
const FILLED = ['play', 'pause']
const COMPASS = 18 // radius

export function element(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className, ...properties })
}

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  return made
}

function icon(name) {
  const drawing = svg('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true' })
  drawing.append(svg('path', { d: ICONS[name], class: FILLED.includes(name) ? 'vp360-filled' : 'vp360-line' }))
  return drawing
}

/** Give a button another icon and name. */
export function setButton(button, name, title) {
  if (button.dataset.icon === name) return
  button.dataset.icon = name
  button.title = title
  button.setAttribute('aria-label', title)
  button.replaceChildren(icon(name))
}

function button(name, title) {
  const made = element('button', `vp360-button vp360-${name}`, { type: 'button' })
  setButton(made, name, title)
  return made
}

function slider(className, title, properties) {
  const made = element('input', className, { type: 'range', title, ...properties })
  made.setAttribute('aria-label', title)
  return made
}

function makeCompass() {
  const dial = svg('svg', { viewBox: '-22 -22 44 44', class: 'vp360-dial', 'aria-hidden': 'true' })
  const wedge = svg('path', { class: 'vp360-wedge' })
  const front = svg('path', { d: `M0 ${-COMPASS - 3}l3 5h-6z`, class: 'vp360-front' })
  dial.append(svg('circle', { r: COMPASS, class: 'vp360-ring' }), wedge, front)
  const root = element('div', 'vp360-compass')
  const angles = element('div', 'vp360-angles')
  root.append(dial, angles)
  return { root, wedge, angles }
}

function makeLabels() {
  const root = element('div', 'vp360-labels')
  const letters = Object.keys(FACES).map((face) => element('span', 'vp360-face', { textContent: face }))
  root.append(...letters)
  return { root, letters }
}

const degrees = (value) => `${value.toFixed(1)}°`

export class Panel {
  constructor() {
    this.root = element('div', 'vp360 widget-expands', { tabIndex: 0 })
    this.root.setAttribute('role', 'application')
    this.root.setAttribute(
      'aria-label',
      '360 degree viewer: arrow keys turn, plus and minus zoom, space plays, G grid, R reset, F full screen, ' +
        'N and P next and previous panorama',
    )
    this.stage = element('div', 'vp360-stage')
    this.screen = element('div', 'vp360-screen')
    this.compass = makeCompass()
    this.labels = makeLabels()
    this.message = element('div', 'vp360-message')
    this.message.setAttribute('role', 'status')
    this.note = element('div', 'vp360-note')
    this.note.setAttribute('role', 'status')
    this.menu = element('div', 'vp360-menu')
    this.stage.append(this.screen, this.labels.root, this.compass.root, this.message, this.note, this.menu)
    this.makeToolbar()
    this.root.append(this.stage, this.listBar, this.clipBar, this.bar)
    this.setMessage('')
  }

  makeToolbar() {
    this.play = button('play', 'Play (space)')
    this.scrub = slider('vp360-scrub', 'Time', { min: 0, max: 1, step: 'any', value: 0 })
    this.time = element('span', 'vp360-time')
    this.mute = button('muted', 'Sound (M)')
    this.previous = button('previous', 'Previous panorama (P)')
    this.place = element('span', 'vp360-place')
    this.place.setAttribute('role', 'status')
    this.next = button('next', 'Next panorama (N)')
    this.listBar = element('div', 'vp360-bar vp360-list-bar')
    this.listBar.append(this.previous, this.place, this.next)
    this.clipBar = element('div', 'vp360-bar vp360-clip-bar')
    this.clipBar.append(this.play, this.scrub, this.time, this.mute)
    this.fov = slider('vp360-fov', 'Field of view', { min: FOV_MIN_DEG, max: FOV_MAX_DEG, step: 0.5, value: 90 })
    this.fovText = element('span', 'vp360-fov-text')
    this.grid = button('grid', 'Grid: latitude, longitude and cube faces (G)')
    this.reset = button('reset', 'Look to the front (R)')
    this.full = button('full', 'Full screen (F)')
    this.use = element('button', 'vp360-button vp360-use', {
      type: 'button',
      textContent: 'Use this view',
      title: 'Write this view into a node that looks into a panorama; yaw and pitch into one that places a clip',
    })
    const zoom = element('label', 'vp360-zoom')
    zoom.append(element('span', '', { textContent: 'FOV' }), this.fov, this.fovText)
    this.bar = element('div', 'vp360-bar')
    this.bar.append(zoom, this.grid, this.reset, this.use, this.full)
  }

  /** What stands in the middle of the stage; '' for nothing. */
  setMessage(text, kind = 'info') {
    this.message.textContent = text
    this.message.dataset.kind = kind
    this.message.hidden = !text
  }

  /** A line at the bottom of the stage that goes by itself. */
  setNote(text) {
    this.note.textContent = text
    this.note.hidden = !text
    clearTimeout(this.noteTimer)
    if (text) this.noteTimer = setTimeout(() => this.setNote(''), 6000)
  }

  /** A menu of [label, action] over the stage; an empty list closes it. */
  setMenu(entries) {
    if (this.menu.contains(document.activeElement)) this.root.focus({ preventScroll: true }) // not the page: keys are here
    const items = entries.map(([label, action]) => {
      const item = element('button', 'vp360-item', { type: 'button', textContent: label })
      item.addEventListener('click', () => {
        this.setMenu([])
        action()
      })
      return item
    })
    this.menu.replaceChildren(...items)
    this.menu.hidden = !items.length
    items[0]?.focus()
  }

  /** Show the angles, and the letters of the faces where they are. */
  setView(view, grid) {
    const { yaw_deg, pitch_deg, fov_deg } = view
    const half = (Math.min(fov_deg, 170) / 360) * Math.PI
    const [x, y] = [Math.sin(half) * COMPASS, Math.cos(half) * COMPASS]
    this.compass.wedge.setAttribute('d', `M0 0L${-x} ${-y}A${COMPASS} ${COMPASS} 0 0 1 ${x} ${-y}Z`)
    this.compass.wedge.setAttribute('transform', `rotate(${yaw_deg})`)
    this.compass.angles.textContent = `yaw ${degrees(yaw_deg)}\npitch ${degrees(pitch_deg)}\nfov ${degrees(fov_deg)}`
    this.fov.value = fov_deg
    this.fovText.textContent = degrees(fov_deg)
    this.grid.classList.toggle('vp360-on', grid)
    this.grid.setAttribute('aria-pressed', String(grid))
    this.labels.root.hidden = !grid
    if (grid) this.placeLabels(view)
  }

  placeLabels(view) {
    const { clientWidth: width, clientHeight: height } = this.stage
    Object.values(FACES).forEach((direction, index) => {
      const place = directionToScreen(direction, view, width, height)
      const letter = this.labels.letters[index]
      letter.hidden = !place
      if (place) letter.style.transform = `translate(-50%, -50%) translate(${place[0]}px, ${place[1]}px)`
    })
  }

  /** Show which of several files is shown; nothing for a single one. */
  setPlace(number, count) {
    this.listBar.hidden = count < 2
    this.place.textContent = count < 2 ? '' : `${number + 1} of ${count}`
  }

  /** Show where a clip is; null for a still picture. */
  setClip(clip) {
    this.clipBar.hidden = !clip
    if (!clip) return
    const { paused, currentTime, duration, muted } = clip.element
    setButton(this.play, paused ? 'play' : 'pause', paused ? 'Play (space)' : 'Pause (space)')
    setButton(this.mute, muted ? 'muted' : 'sound', muted ? 'Sound on (M)' : 'Sound off (M)')
    const total = Number.isFinite(duration) ? duration : 0
    this.scrub.max = total || 1
    this.scrub.value = currentTime
    this.time.textContent = `${currentTime.toFixed(1)} / ${total.toFixed(1)} s`
  }
}
