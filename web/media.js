/** The file that a viewer shows, streamed from the host: a picture or a video, or a plain message why not. */

const GONE = 'The file is gone: ComfyUI empties its temp folder when it starts. Queue the workflow again.'
const UNREACHABLE = 'ComfyUI does not answer, so the file cannot be loaded.'

/** What went wrong, for the user. */
export class MediaError extends Error {}

function damaged(name) {
  return `${name} cannot be shown: the file is damaged or of a kind that this browser does not read.`
}

async function fetched(url, name, options) {
  let response
  try {
    response = await fetch(url, options)
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new MediaError(UNREACHABLE)
  }
  if (response.status === 404) throw new MediaError(GONE)
  if (!response.ok) throw new MediaError(`${name} cannot be loaded: the server answers ${response.status}.`)
  return response
}

/** A still picture. Kept as its file; decoded again for each GL context. */
class Still {
  isVideo = false

  constructor(url, blob, name) {
    Object.assign(this, { url, blob, name })
  }

  /** Hand the decoded picture and its size to `use`. Throws MediaError for a damaged file. */
  async decode(use) {
    let bitmap
    try {
      bitmap = await createImageBitmap(this.blob)
    } catch {
      throw new MediaError(damaged(this.name))
    }
    try {
      use(bitmap, bitmap.width, bitmap.height)
    } finally {
      bitmap.close()
    }
  }

  /** What a browser without WebGL2 shows. */
  flat() {
    const image = document.createElement('img')
    image.src = this.url
    image.alt = this.name
    return image
  }

  dispose() {
    this.blob = null
  }
}

/** A video that loops. `onFrame` is called for each new picture, `onState` when it starts, stops or moves on. */
class Clip {
  isVideo = true

  constructor(url, name, { onFrame, onState, onError }) {
    this.url = url
    this.name = name
    this.onFrame = onFrame
    this.listening = new AbortController()
    const element = document.createElement('video')
    Object.assign(element, { muted: true, loop: true, playsInline: true, preload: 'auto', src: url })
    const on = (event, action) => element.addEventListener(event, action, { signal: this.listening.signal })
    for (const event of ['play', 'pause', 'timeupdate', 'durationchange', 'volumechange']) on(event, onState)
    for (const event of ['loadeddata', 'seeked']) on(event, onFrame)
    on('error', () => this.fail(onError))
    this.element = element
    this.follow()
  }

  /** Call onFrame whenever the video shows another picture; a browser that does not tell is asked on each repaint. */
  follow() {
    const { element } = this
    const tells = 'requestVideoFrameCallback' in element
    const next = () => {
      if (this.listening.signal.aborted) return
      if (this.hasPicture && (tells || this.playing)) this.onFrame()
      this.follow()
    }
    if (tells) element.requestVideoFrameCallback(next)
    else requestAnimationFrame(next)
  }

  /** Ask the server why: the element does not tell a missing file from a damaged one. */
  async fail(onError) {
    try {
      await fetched(this.url, this.name, { method: 'HEAD', signal: this.listening.signal })
      onError(new MediaError(damaged(this.name)))
    } catch (error) {
      if (error.name !== 'AbortError') onError(error)
    }
  }

  get hasPicture() {
    return this.element.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && this.element.videoWidth > 0
  }

  get playing() {
    return !this.element.paused
  }

  /** Start; a browser that refuses leaves it paused. */
  async play() {
    try {
      await this.element.play()
    } catch (error) {
      if (!['NotAllowedError', 'AbortError', 'NotSupportedError'].includes(error.name)) throw error
    }
  }

  pause() {
    this.element.pause()
  }

  flat() {
    this.element.controls = true
    return this.element
  }

  /** Stop the download and free the decoder, which a removed element keeps. */
  dispose() {
    this.listening.abort()
    this.element.pause()
    this.element.removeAttribute('src')
    this.element.load()
    this.element.remove()
  }
}

/** The picture or clip at a URL. Throws MediaError for a still that cannot be loaded; a clip reports by onError. */
export async function openMedia({ url, name, isVideo }, callbacks, signal) {
  if (isVideo) return new Clip(url, name, callbacks)
  const response = await fetched(url, name, { signal })
  return new Still(url, await response.blob(), name)
}
