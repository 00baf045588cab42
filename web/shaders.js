/** GLSL of the viewer: a view ray per pixel, the panorama or the ViewPoint map sampled there, and the grid over it. */

export const VERTEX = `#version 300 es
out vec2 place;

void main() {
  vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
  place = vec2(corner.x, -corner.y);
  gl_Position = vec4(corner, 0.0, 1.0);
}
`

const HEAD = `#version 300 es
precision highp float;
precision highp sampler2D;

const float PI = 3.14159265358979;
const float SQRT2 = 1.41421356237310;

uniform sampler2D panorama;
uniform vec2 size;
uniform float maxLod;
uniform mat3 rotation;
uniform vec2 extent;
uniform bool isMap;
uniform bool grid;
in vec2 place;
out vec4 colour;
`

// Half an angle's tangent, since atan(y, x) of a negative zero is half a turn in software rendering.
const LATITUDE = `
float latitude(vec3 d) {
  return 2.0 * atan(-d.y / (1.0 + length(d.xz)));
}
`

// The level comes from the view's angle per pixel, not from the derivative of longitude: that jumps at +-180 degrees
// and grows without bound at the poles.
const ERP = `
vec3 sampleErp(vec3 d, float angle) {
  float lod = clamp(log2(angle * size.x / (2.0 * PI)), 0.0, maxLod);
  float u = atan(d.x, d.z) / (2.0 * PI) + 0.5;
  float v = 0.5 - latitude(d) / PI;
  float edge = 0.5 / size.y * exp2(lod);
  float row = clamp(v, edge, 1.0 - edge);
  vec3 here = textureLod(panorama, vec2(u, row), lod).rgb;
  if (row == v) return here;
  vec3 overPole = textureLod(panorama, vec2(u + 0.5, row), lod).rgb;
  return mix(here, overPole, 0.5 * abs(v - row) / edge);
}
`

// viewpoint_core/map_layout.py: direction_to_subregion, weight_on_grid, subregion_pixels, on_up, ease_share.
const MAP = `
vec3 subregionPlace(vec3 d) {
  vec3 a = abs(d);
  float largest = max(a.x, max(a.y, a.z));
  float tolerance = 1e-6 * largest;
  if (d.z > 0.0 && d.z >= largest - tolerance) {
    vec2 pq = d.xy / d.z;
    return vec3(pq, abs(pq.x) > abs(pq.y) ? 1.0 - 0.5 * abs(pq.x) : 1.0);
  }
  if (d.y < 0.0) {
    vec2 disc = vec2(d.x, a.y - d.z) / max(a.y, 1e-12);
    float rho = length(disc);
    if (disc.y >= 0.0 && rho <= 1.0) {
      float s = rho > 0.0 ? (disc.y + abs(disc.x)) / rho : 1.0;
      return vec3(disc.x / s, -1.0 - disc.y / s, 1.0 - rho + 1e-6);
    }
  }
  if (d.y > 0.0 && d.y >= d.z && d.z >= a.x - tolerance) return vec3(d.x / d.y, 2.0 - d.z / d.y, 1.0);
  if (a.x >= d.z && d.z >= a.y - tolerance) {
    vec2 pq = vec2(sign(d.x) * (2.0 - d.z / a.x), d.y / a.x);
    return vec3(pq, abs(pq.x) > abs(pq.y) ? 1.0 - 0.5 * abs(pq.x) : 1.0);
  }
  return vec3(0.0);
}

float weightOnGrid(vec3 at) {
  float n = size.x / 4.0;
  return abs(at.x) > abs(at.y) ? clamp((2.0 * n * at.z - 1.0) / (2.0 * (n - 1.0)), 0.0, 1.0) : at.z;
}

vec4 sampleSubregion(vec3 d, vec2 corner, vec2 up, float lod) {
  vec3 at = subregionPlace(d);
  float weight = weightOnGrid(at);
  if (weight <= 0.0) return vec4(0.0);
  float side = size.x / 2.0, unit = side / (2.0 * SQRT2);
  up /= SQRT2;
  vec2 pixel = vec2(-up.y * at.x - up.x * at.y, up.x * at.x - up.y * at.y) * unit + side / 2.0;
  // Only D goes on beyond its subregion's border; elsewhere the neighbour on the map is no neighbour on the sphere.
  float margin = min(0.5 * exp2(ceil(lod)), side / 4.0);
  if (at.y <= 1.0) pixel = clamp(pixel, vec2(margin), vec2(side - margin));
  return vec4(textureLod(panorama, (pixel + corner * side) / size.x, lod).rgb, 1.0) * weight;
}

const float EASED_BELOW = 0.4;

vec3 sampleMap(vec3 d, float angle) {
  float lod = clamp(log2(angle * size.x / (4.0 * SQRT2)), 0.0, min(maxLod, 4.0));
  vec4 shown[4] = vec4[4](
    sampleSubregion(vec3(d.z, d.y, -d.x), vec2(0.0, 0.0), vec2(-1.0, -1.0), lod),
    sampleSubregion(d, vec2(1.0, 0.0), vec2(1.0, -1.0), lod),
    sampleSubregion(vec3(-d.x, d.y, -d.z), vec2(0.0, 1.0), vec2(-1.0, 1.0), lod),
    sampleSubregion(vec3(-d.z, d.y, d.x), vec2(1.0, 1.0), vec2(1.0, 1.0), lod)
  );
  vec4 most = vec4(0.0), other = vec4(0.0);
  for (int i = 0; i < 4; i++) {
    if (shown[i].a > most.a) {
      other = most;
      most = shown[i];
    } else if (shown[i].a > other.a) {
      other = shown[i];
    }
  }
  float share = other.a / max(most.a + other.a, 1e-6), t = share / EASED_BELOW;
  if (-d.y >= max(abs(d.x), abs(d.z)) && t < 1.0) share = EASED_BELOW * t * t * (2.0 - t);
  return mix(most.rgb / max(most.a, 1e-6), other.rgb / max(other.a, 1e-6), share);
}
`

const GRID = `
float line(float distance, float width) {
  return 1.0 - smoothstep(width - 0.5, width + 0.5, abs(distance));
}

vec3 drawGrid(vec3 shown, vec3 d, float angle) {
  float horizontal = length(d.xz);
  float lat = latitude(d), lon = atan(d.x, d.z), step = PI / 6.0;
  float fromParallel = abs(fract(lat / step + 0.5) - 0.5) * step / angle;
  float fromMeridian = abs(fract(lon / step + 0.5) - 0.5) * step * horizontal / angle;
  float thin = max(line(fromParallel, 0.7), line(fromMeridian, 0.7) * smoothstep(0.03, 0.08, horizontal));
  float strong = max(line(lat / angle, 1.2), d.z > 0.0 ? line(lon * horizontal / angle, 1.2) : 0.0);
  vec3 a = abs(d);
  float largest = max(a.x, max(a.y, a.z)), smallest = min(a.x, min(a.y, a.z));
  float middle = a.x + a.y + a.z - largest - smallest;
  float edge = line((largest - middle) / SQRT2 / angle, 1.2);
  shown = mix(shown, vec3(1.0), 0.4 * thin);
  shown = mix(shown, vec3(0.35, 0.75, 1.0), 0.85 * strong);
  return mix(shown, vec3(1.0, 0.65, 0.1), 0.9 * edge);
}
`

const MAIN = `
void main() {
  vec3 d = normalize(rotation * vec3(place * extent, 1.0));
  float angle = sqrt(length(dFdx(d)) * length(dFdy(d)));
  vec3 shown = isMap ? sampleMap(d, angle) : sampleErp(d, angle);
  colour = vec4(grid ? drawGrid(shown, d, angle) : shown, 1.0);
}
`

export const FRAGMENT = HEAD + LATITUDE + ERP + MAP + GRID + MAIN
