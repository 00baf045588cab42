/** A 360 degree viewer in an element: one file at a time, drawn when something changes. Knows nothing of the graph. */

import { drop, use } from './context_pool.js'
import { addControls } from './controls.js'
import { MediaError, openMedia } from './media.js'
import { Panel } from './panel.js'
import { NoWebGL2, PanoramaGL } from './panorama_gl.js'
import { HOME, fittedSize, validView } from './projection.js'

const EMPTY = 'Queue the workflow to look around in its panorama.'
const FLAT = 'This browser has no WebGL2, so the picture is shown flat.'
const LOST = 'The graphics driver took this picture away. It comes back when the driver does.'
const PARKED = 'Paused, since many viewers are open. Click to go on.'
const RELEASE_MS = 2000 // out of sight for so long, and the context goes
const MAX_SIDE = 4096 // of the drawing

export class Viewer {
  /** `graph` is what surrounds it: forwardToGraph(event), useView(viewer). The element to place is `root`. */
  constructor(graph) {
    this.graph = graph
    this.panel = new Panel()
    this.root = this.panel.root
    this.view = { ...HOME }
    this.grid = false
    this.files = []
    this.number = 0
    this.listening = new AbortController()
    this.panel.setPlace(0, 0)
    this.clear()
  }

  /** Begin to listen, once the element has its place: copies that are never shown leave nothing behind. */
  attach() {
    if (this.attached) return
    this.attached = true
    this.addToolbar()
    addControls(this.root, this.panel.stage, this, this.listening.signal)
    this.observe()
  }

  addToolbar() {
    const { panel } = this
    const { signal } = this.listening
    const on = (element, name, action, options) => element.addEventListener(name, action, { signal, ...options })
    on(panel.play, 'click', () => this.togglePlay())
    on(panel.mute, 'click', () => this.toggleMute())
    on(panel.previous, 'click', () => this.showPrevious())
    on(panel.next, 'click', () => this.showNext())
    on(panel.scrub, 'input', () => this.seek(Number(panel.scrub.value)))
    on(panel.fov, 'input', () => this.setView({ ...this.view, fov_deg: Number(panel.fov.value) }))
    on(panel.grid, 'click', () => this.toggleGrid())
    on(panel.reset, 'click', () => this.setView({ ...HOME }))
    on(panel.full, 'click', () => this.toggleFullscreen())
    on(panel.use, 'click', () => this.graph.useView(this))
    on(panel.menu, 'pointerdown', (event) => event.stopPropagation())
    this.keepPresses(on)
    on(this.root, 'focusin', () => this.setFocused(true))
    on(this.root, 'focusout', (event) => this.setFocused(this.root.contains(event.relatedTarget)))
    on(this.root, 'pointerenter', () => this.requestDraw()) // the graph's zoom may have changed
  }

  /** A press that begins here is the viewer's to its end: the host's new node rendering moves and selects nodes also by
   * what follows a press that it was not told of. */
  keepPresses(on) {
    const pressed = new Set()
    const start = (event) => event.button === 0 && pressed.add(event.pointerId)
    const isOwn = (event) => pressed.has(event.pointerId)
    on(this.root, 'pointerdown', start, { capture: true })
    on(this.root, 'pointerdown', (event) => event.button === 0 && event.stopPropagation())
    on(this.root, 'pointermove', (event) => event.buttons & 1 && isOwn(event) && event.stopPropagation())
    for (const name of ['pointerup', 'pointercancel']) {
      on(this.root, name, (event) => pressed.delete(event.pointerId) && event.stopPropagation())
    }
  }

  observe() {
    this.resizes = new ResizeObserver(() => this.requestDraw())
    this.resizes.observe(this.panel.stage)
    this.sight = new IntersectionObserver((entries) => this.setVisible(entries.at(-1).isIntersecting))
    this.sight.observe(this.root)
  }

  // Files

  /** Show the first of a node's files, or the one that was chosen if they are the same again. */
  showAll(files) {
    const same = files.length === this.files.length && files.every((file, index) => file.url === this.files[index].url)
    this.files = files
    return this.showNumber(same ? this.number : 0)
  }

  /** Show one of the files; the last comes before the first. */
  showNumber(number) {
    const count = this.files.length
    if (!count) return
    this.number = (number + count) % count
    this.panel.setPlace(this.number, count)
    return this.show(this.files[this.number])
  }

  showNext() {
    return this.showNumber(this.number + 1)
  }

  showPrevious() {
    return this.showNumber(this.number - 1)
  }

  /** Show a file: { url, name, isVideo, isMap, hasAudio, note }. The same file again changes nothing. */
  async show(file) {
    if (this.file?.url === file.url) return
    this.clear()
    this.file = file
    this.loading = new AbortController()
    const { signal } = this.loading
    this.panel.setMessage('Loading …')
    const current = (action) => (value) => signal.aborted || action(value)
    const callbacks = {
      onFrame: current(() => this.pictureChanged()),
      onState: current(() => this.flat || this.panel.setClip(this.media)),
      onError: current((error) => this.fail(error)),
    }
    try {
      const media = await openMedia(file, callbacks, signal)
      if (signal.aborted) return media.dispose()
      this.media = media
      this.panel.mute.hidden = !file.hasAudio
      this.panel.setNote(file.note ?? '')
      this.panel.setClip(media.isVideo ? media : null)
      if (media.isVideo && this.visible) media.play()
      await this.connect()
    } catch (error) {
      if (!signal.aborted) this.fail(error)
    }
  }

  /** Let go of the file and of all it holds. */
  clear() {
    this.loading?.abort()
    this.releaseContext()
    this.media?.dispose()
    this.media = this.file = null
    this.flat = this.parked = false
    this.resume = true
    this.reset()
  }

  reset() {
    this.panel.screen.replaceChildren()
    this.panel.setClip(null)
    this.panel.setMenu([])
    this.panel.setNote('')
    this.panel.setMessage(EMPTY)
    this.panel.compass.root.hidden = this.panel.bar.hidden = false
    this.panel.setView(this.view, this.grid)
  }

  /** Say why the file is not shown. The same file may come again, and is then tried again. */
  fail(error) {
    if (!(error instanceof MediaError)) console.error(error)
    this.clear()
    this.panel.setMessage(error.message, 'error')
  }

  /** End for good: the element can be dropped. */
  dispose() {
    this.clear()
    this.disposed = true
    this.listening.abort()
    this.resizes?.disconnect()
    this.sight?.disconnect()
    clearTimeout(this.releaseTimer)
    cancelAnimationFrame(this.drawing)
    if (document.fullscreenElement === this.root) document.exitFullscreen()
    this.root.remove()
  }

  // The GL context: there while the viewer is in sight

  /** Make the context if it is wanted and not there, and give it the picture. */
  async connect() {
    if (this.disposed || !this.media || !this.visible || this.flat || this.gl) return
    try {
      this.gl = new PanoramaGL({
        onLost: () => this.panel.setMessage(LOST, 'over'),
        onRestored: () => this.upload().catch((error) => this.fail(error)),
      })
    } catch (error) {
      if (!(error instanceof NoWebGL2)) throw error
      return this.showFlat(error)
    }
    this.parked = false
    use(this)
    this.panel.screen.replaceChildren(this.gl.canvas)
    await this.upload()
  }

  /** Give the picture to the context. What went on with a file that is gone by now does not matter. */
  async upload() {
    const { gl, media } = this
    if (media.isVideo) return this.pictureChanged()
    const show = (bitmap, width, height) => {
      if (gl !== this.gl || gl.lost) return // uploaded anew once it is restored
      gl.upload(bitmap, width, height)
      this.panel.setMessage('')
      this.requestDraw()
    }
    try {
      await media.decode(show)
    } catch (error) {
      if (media === this.media) throw error
    }
  }

  /** A clip shows another picture. */
  pictureChanged() {
    this.pictureIsNew = true
    this.requestDraw()
  }

  showFlat(error) {
    console.warn(`ViewPoint 360: ${error.message}`)
    this.flat = true
    this.panel.screen.replaceChildren(this.media.flat())
    this.panel.compass.root.hidden = this.panel.bar.hidden = true
    this.panel.clipBar.hidden = true
    this.panel.setMessage(FLAT, 'over')
  }

  releaseContext() {
    drop(this)
    this.gl?.dispose()
    this.gl = null
  }

  /** Called by the pool: give the context to another viewer, keep the last picture. */
  parkContext() {
    const still = document.createElement('img')
    this.draw()
    if (this.gl.ready) still.src = this.gl.canvas.toDataURL('image/jpeg')
    this.releaseContext()
    this.parked = true
    this.panel.screen.replaceChildren(...(still.src ? [still] : []))
    this.panel.setMessage(PARKED, 'over')
    if (!this.media?.isVideo || !this.visible) return // out of sight it stopped before
    this.resume = this.media.playing
    this.media.pause()
  }

  setVisible(visible) {
    if (visible === this.visible) return
    this.visible = visible
    clearTimeout(this.releaseTimer)
    const clip = this.media?.isVideo ? this.media : null
    if (visible) {
      if (clip && this.resume) clip.play()
      this.connect().catch((error) => this.fail(error))
      return
    }
    if (!this.parked) this.resume = clip?.playing ?? true
    clip?.pause()
    this.releaseTimer = setTimeout(() => this.releaseContext(), RELEASE_MS)
  }

  // Drawing

  requestDraw() {
    if (this.disposed || this.drawing) return
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0
      this.draw()
    })
  }

  draw() {
    this.panel.setView(this.view, this.grid && !this.flat)
    if (!this.gl || this.gl.lost) return
    if (this.pictureIsNew && this.media.hasPicture) {
      const { element } = this.media
      this.gl.upload(element, element.videoWidth, element.videoHeight)
      this.panel.setMessage('')
      this.pictureIsNew = false
    }
    const { width, height } = this.panel.screen.getBoundingClientRect()
    if (!width || !height) return
    const [columns, rows] = fittedSize(...[width, height].map((side) => side * window.devicePixelRatio), MAX_SIDE)
    this.gl.draw(this.view, { width: columns, height: rows, isMap: this.file.isMap, grid: this.grid })
  }

  // What controls and toolbar call

  setView(view) {
    this.view = validView(view)
    this.wake()
    this.requestDraw()
  }

  /** Take a context again after the pool took this viewer's. */
  wake() {
    if (this.gl) use(this)
    else if (this.parked) this.connect().catch((error) => this.fail(error))
  }

  /** A press on the picture: a clip that was stopped with its context goes on. */
  goOn() {
    const stopped = this.parked && this.resume && this.media?.isVideo
    this.wake()
    if (stopped) this.media?.play()
  }

  toggleGrid() {
    this.grid = !this.grid
    this.requestDraw()
  }

  togglePlay() {
    if (!this.media?.isVideo) return
    this.wake()
    if (this.media.playing) this.media.pause()
    else this.media.play()
  }

  toggleMute() {
    if (this.media?.isVideo && this.file.hasAudio) this.media.element.muted = !this.media.element.muted
  }

  seek(seconds) {
    if (this.media?.isVideo) this.media.element.currentTime = seconds
  }

  async toggleFullscreen() {
    try {
      if (document.fullscreenElement === this.root) await document.exitFullscreen()
      else await this.root.requestFullscreen()
    } catch (error) {
      this.panel.setNote(`Full screen is not allowed here (${error.message}).`)
    }
  }

  escape() {
    if (this.panel.menu.childElementCount) this.panel.setMenu([])
    else if (this.hasFocus()) document.activeElement.blur()
  }

  hasFocus() {
    return this.root.contains(document.activeElement)
  }

  /** The host's new node rendering hands every wheel event to the graph, but for elements marked so. */
  setFocused(focused) {
    this.root.dataset.captureWheel = String(focused)
    if (focused) this.wake()
  }

  /** Leave an event to the graph. The new node rendering takes the middle button by itself, from unmarked elements. */
  forwardToGraph(event) {
    if (event.type === 'pointerdown' && event.button === 1) this.root.dataset.captureWheel = 'false'
    if (event.type === 'pointerup') setTimeout(() => this.setFocused(this.hasFocus())) // once it has got there
    this.graph.forwardToGraph(event)
  }
}
