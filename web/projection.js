/**
 * Angles, directions and screen positions, as viewpoint_core/camera.py and sphere.py have them: x right, y down,
 * z forward; yaw turns right, pitch looks up. Pure functions; degrees in names, radians inside.
 */

export const FOV_MIN_DEG = 15
export const FOV_MAX_DEG = 150
export const HOME = Object.freeze({ yaw_deg: 0, pitch_deg: 0, fov_deg: 90 })

/** A cube's faces and the directions of their centres. */
export const FACES = Object.freeze({
  F: [0, 0, 1],
  R: [1, 0, 0],
  B: [0, 0, -1],
  L: [-1, 0, 0],
  U: [0, -1, 0],
  D: [0, 1, 0],
})

const radians = (degrees) => (degrees * Math.PI) / 180
const clamp = (value, low, high) => Math.min(high, Math.max(low, value))

/** An angle in [-180, 180). */
export function wrapDegrees(degrees) {
  return ((((degrees + 180) % 360) + 360) % 360) - 180
}

/** The view with its angles in range: yaw in [-180, 180), pitch in [-90, 90], the field of view in its limits. */
export function validView({ yaw_deg, pitch_deg, fov_deg }) {
  return {
    yaw_deg: wrapDegrees(yaw_deg),
    pitch_deg: clamp(pitch_deg, -90, 90),
    fov_deg: clamp(fov_deg, FOV_MIN_DEG, FOV_MAX_DEG),
  }
}

/** Camera-to-world rotation, nine numbers row by row. */
export function viewRotation({ yaw_deg, pitch_deg }) {
  const [cy, sy] = [Math.cos(radians(yaw_deg)), Math.sin(radians(yaw_deg))]
  const [cp, sp] = [Math.cos(radians(pitch_deg)), Math.sin(radians(pitch_deg))]
  return [cy, sy * sp, sy * cp, 0, cp, -sp, -sy, cy * sp, cy * cp]
}

/** Tangents of half the field of view, [horizontal, vertical]; pixels are square, fov_deg is horizontal. */
export function halfExtent(fov_deg, width, height) {
  const horizontal = Math.tan(radians(fov_deg) / 2)
  return [horizontal, (horizontal * height) / width]
}

/** Where a direction lies on the screen in pixels, or null behind the camera. */
export function directionToScreen(direction, view, width, height) {
  const m = viewRotation(view)
  const [x, y, z] = [0, 1, 2].map((i) => m[i] * direction[0] + m[i + 3] * direction[1] + m[i + 6] * direction[2])
  if (z <= 1e-3) return null
  const [tx, ty] = halfExtent(view.fov_deg, width, height)
  return [((x / z / tx + 1) * width) / 2, ((y / z / ty + 1) * height) / 2]
}

/** The view after a drag by (dx, dy) pixels: what lay under the pointer follows it. */
export function draggedView(view, dx, dy, width) {
  const perPixel = ((2 * Math.tan(radians(view.fov_deg) / 2)) / width) * (180 / Math.PI)
  const perPixelAcross = perPixel / Math.max(0.2, Math.cos(radians(view.pitch_deg)))
  return validView({
    yaw_deg: view.yaw_deg - dx * perPixelAcross,
    pitch_deg: view.pitch_deg + dy * perPixel,
    fov_deg: view.fov_deg,
  })
}

/** The view with what it shows this many times as large. */
export function zoomedView(view, factor) {
  const half = Math.tan(radians(view.fov_deg) / 2) / factor
  return validView({ ...view, fov_deg: (2 * Math.atan(half) * 180) / Math.PI })
}

/** Width and height at most `limit`, in the same ratio. */
export function fittedSize(width, height, limit) {
  const scale = Math.min(1, limit / Math.max(width, height))
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))]
}
