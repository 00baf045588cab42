/** One WebGL2 context that draws perspective views of a panorama or of a ViewPoint map. */

import { fittedSize, halfExtent, viewRotation } from './projection.js'
import { FRAGMENT, VERTEX } from './shaders.js'

const ATTRIBUTES = { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: 'low-power' }
const UNIFORMS = ['size', 'maxLod', 'rotation', 'extent', 'isMap', 'grid']

export class NoWebGL2 extends Error {}

function compile(gl, type, source) {
  const shader = gl.createShader(type)
  gl.shaderSource(shader, source)
  gl.compileShader(shader)
  return shader
}

function link(gl) {
  const program = gl.createProgram()
  for (const [type, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ]) {
    const shader = compile(gl, type, source)
    gl.attachShader(program, shader)
    gl.deleteShader(shader)
  }
  gl.linkProgram(program)
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new NoWebGL2(`the shader does not link: ${gl.getProgramInfoLog(program)}`)
  }
  return program
}

export class PanoramaGL {
  /** Makes a canvas and its context. Throws NoWebGL2. `onLost` and `onRestored` follow the context's fate. */
  constructor({ onLost, onRestored }) {
    this.canvas = document.createElement('canvas')
    this.listening = new AbortController()
    this.gl = this.canvas.getContext('webgl2', ATTRIBUTES)
    if (!this.gl) throw new NoWebGL2('this browser gives no WebGL2 context')
    this.listen('webglcontextlost', (event) => {
      event.preventDefault() // without this it is never restored
      this.ready = false
      onLost()
    })
    this.listen('webglcontextrestored', () => {
      this.setUp()
      onRestored()
    })
    this.setUp()
  }

  listen(name, action) {
    this.canvas.addEventListener(name, action, { signal: this.listening.signal })
  }

  setUp() {
    const { gl } = this
    this.ready = false // until there is a picture
    this.program = link(gl)
    this.at = Object.fromEntries(UNIFORMS.map((name) => [name, gl.getUniformLocation(this.program, name)]))
    this.texture = gl.createTexture()
    gl.bindTexture(gl.TEXTURE_2D, this.texture)
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.REPEAT) // longitude goes round
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE)
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR)
    gl.useProgram(this.program)
  }

  /** Whether the driver took the context away. */
  get lost() {
    return this.gl.isContextLost()
  }

  /** Largest side of a texture here. */
  get limit() {
    return this.gl.getParameter(this.gl.MAX_TEXTURE_SIZE)
  }

  /** Upload a picture (ImageBitmap, video, canvas) of this size, made smaller if the context cannot hold it. */
  upload(picture, width, height) {
    const { gl } = this
    const [fitWidth, fitHeight] = fittedSize(width, height, this.limit)
    const source = fitWidth < width || fitHeight < height ? this.shrunk(picture, fitWidth, fitHeight) : picture
    gl.bindTexture(gl.TEXTURE_2D, this.texture)
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, source)
    this.size = [fitWidth, fitHeight]
    this.hasMipmaps = false
    this.ready = true
  }

  /** The picture on a canvas that is kept for the next frame. */
  shrunk(picture, width, height) {
    this.scaler ??= document.createElement('canvas')
    if (this.scaler.width !== width || this.scaler.height !== height) Object.assign(this.scaler, { width, height })
    const context = this.scaler.getContext('2d')
    context.imageSmoothingQuality = 'high'
    context.drawImage(picture, 0, 0, width, height)
    return this.scaler
  }

  /** Mip levels cost time on each frame of a video, so they are made only for a view coarser than the picture. */
  filter(view, isMap) {
    const { gl } = this
    const density = isMap ? this.size[0] / (4 * Math.SQRT2) : this.size[0] / (2 * Math.PI)
    const wanted = density * 2 * halfExtent(view.fov_deg, 1, 1)[0] > 1.2 * this.canvas.width
    if (wanted && !this.hasMipmaps) {
      gl.generateMipmap(gl.TEXTURE_2D)
      this.hasMipmaps = true
    }
    const filter = this.hasMipmaps ? gl.LINEAR_MIPMAP_LINEAR : gl.LINEAR
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter)
    return this.hasMipmaps ? Math.floor(Math.log2(Math.max(...this.size))) : 0
  }

  /** Draw the view on the canvas, width x height pixels. */
  draw(view, { width, height, isMap, grid }) {
    const { gl, at } = this
    if (!this.ready || this.lost) return
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height })
    gl.viewport(0, 0, width, height)
    gl.uniform1f(at.maxLod, this.filter(view, isMap))
    gl.uniform2f(at.size, ...this.size)
    gl.uniformMatrix3fv(at.rotation, true, viewRotation(view))
    gl.uniform2f(at.extent, ...halfExtent(view.fov_deg, width, height))
    gl.uniform1i(at.isMap, isMap ? 1 : 0)
    gl.uniform1i(at.grid, grid ? 1 : 0)
    gl.drawArrays(gl.TRIANGLES, 0, 3)
  }

  /** Give everything back; browsers allow only some sixteen contexts at once. */
  dispose() {
    this.listening.abort()
    this.ready = false
    this.gl.deleteTexture(this.texture)
    this.gl.deleteProgram(this.program)
    this.gl.getExtension('WEBGL_lose_context')?.loseContext()
    this.canvas.remove()
    this.scaler = null
  }
}
