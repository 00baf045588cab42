"""Slow references written from geometry.md's table and equations 5-12: loops and numpy, nothing of the core."""

import math

import numpy as np

YAW = {"L": -90, "F": 0, "B": 180, "R": 90}
QUADRANT = {"L": (0, 0), "F": (0, 1), "B": (1, 0), "R": (1, 1)}
UP = {"L": (-1, -1), "F": (1, -1), "B": (-1, 1), "R": (1, 1)}
Vector = tuple[float, float, float]


def turn_right(direction: Vector, yaw_deg: float) -> Vector:
    x, y, z = direction
    c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    return c * x + s * z, y, c * z - s * x


def own_direction(p: float, q: float) -> Vector:
    """The table of geometry.md, row by row: face-plane coordinates to a direction in the subregion's own frame."""
    if abs(p) <= 1 and abs(q) <= 1:
        return p, q, 1
    if p > 1:
        return 1, q, 2 - p
    if p < -1:
        return -1, q, 2 + p
    if q > 1:
        return p, 1, 2 - q
    d = -1 - q
    theta = math.atan2(d, p)
    s = math.sin(theta) + abs(math.cos(theta))
    return p * s, -1, 1 - d * s


def pixel_to_face_plane(column: int, row: int, map_size: int) -> tuple[str, float, float]:
    """The subregion that a map pixel lies in, and its p and q there."""
    side = map_size // 2
    face = next(face for face, at in QUADRANT.items() if at == (row // side, column // side))
    unit = side / (2 * math.sqrt(2))
    x, y = (column % side + 0.5 - side / 2) / unit, (row % side + 0.5 - side / 2) / unit
    up_x, up_y = (component / math.sqrt(2) for component in UP[face])
    right_x, right_y = -up_y, up_x
    return face, x * right_x + y * right_y, -(x * up_x + y * up_y)


def map_directions(map_size: int) -> np.ndarray:
    """Direction of every map pixel, float64 (S, S, 3)."""
    out = np.zeros((map_size, map_size, 3))
    for row in range(map_size):
        for column in range(map_size):
            face, p, q = pixel_to_face_plane(column, row, map_size)
            out[row, column] = turn_right(own_direction(p, q), YAW[face])
    return out


def places(direction: Vector) -> dict[str, tuple[float, float, float]]:
    """Every subregion that shows a direction: its p, q and raw weight. Away from edges, where several rows meet."""
    found = {}
    for face, yaw_deg in YAW.items():
        x, y, z = turn_right(direction, -yaw_deg)
        largest = max(abs(x), abs(y), abs(z))
        p = q = math.inf
        if largest == z:
            p, q = x / z, y / z
        elif largest == x and z > 0:
            p, q = 2 - z / x, y / x
        elif largest == -x and z > 0:
            p, q = z / -x - 2, y / -x
        elif largest == y and z > 0:
            p, q = x / y, 2 - z / y
        elif largest == -y:
            a, b = x / -y, 1 - z / -y
            radius, theta = math.hypot(a, b), math.atan2(b, a)
            s = math.sin(theta) + abs(math.cos(theta))
            if radius < 1:
                found[face] = (radius * math.cos(theta) / s, -1 - radius * math.sin(theta) / s, 1 - radius)
        if abs(p) + abs(q) <= 2:
            found[face] = (p, q, 1 - abs(p) / 2 if abs(p) > abs(q) else 1.0)
    return found


def rotate_clockwise(matrix: np.ndarray) -> np.ndarray:
    return matrix.swapaxes(-1, -2)[..., :, ::-1]


def rotate_counterclockwise(matrix: np.ndarray) -> np.ndarray:
    return matrix.swapaxes(-1, -2)[..., ::-1, :]


# Equations 9-12: subregion, its block, its neighbour, the neighbour's turn and the turn back.
PAIRS = (
    ("F", "top left", "L", rotate_clockwise, rotate_counterclockwise),
    ("F", "bottom right", "R", rotate_counterclockwise, rotate_clockwise),
    ("B", "top left", "L", rotate_counterclockwise, rotate_clockwise),
    ("B", "bottom right", "R", rotate_clockwise, rotate_counterclockwise),
)


def fuse_sides(viewpoint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 9-12 on a map (C, S, S), all pairs from the unfused map; and a bool (S, S): the shared blocks."""
    n = viewpoint.shape[-1] // 4
    i, j = np.meshgrid(np.arange(1, n + 1), np.arange(1, n + 1), indexing="ij")
    weight = (i + j - 2) / (2 * (n - 1))
    corner = {"top left": (slice(0, n), slice(0, n)), "bottom right": (slice(n, 2 * n), slice(n, 2 * n))}
    opposite = {"top left": corner["bottom right"], "bottom right": corner["top left"]}

    def subregion(array: np.ndarray, face: str) -> np.ndarray:
        row, column = QUADRANT[face]
        return array[..., 2 * n * row : 2 * n * (row + 1), 2 * n * column : 2 * n * (column + 1)]

    fused, shared = viewpoint.copy(), np.zeros(viewpoint.shape[-2:], dtype=bool)
    for face, block, neighbour, turn, back in PAIRS:
        w = weight if block == "top left" else weight[::-1, ::-1]
        twin = turn(subregion(viewpoint, neighbour))[(..., *opposite[block])]
        value = w * subregion(viewpoint, face)[(..., *corner[block])] + (1 - w) * twin
        subregion(fused, face)[(..., *corner[block])] = value
        subregion(shared, face)[corner[block]] = True
        turned, turned_shared = turn(subregion(fused, neighbour)).copy(), turn(subregion(shared, neighbour)).copy()
        turned[(..., *opposite[block])] = value
        turned_shared[opposite[block]] = True
        subregion(fused, neighbour)[...] = back(turned)
        subregion(shared, neighbour)[...] = back(turned_shared)
    return fused, shared


def view_direction(
    column: float, row: float, size: tuple[int, int], yaw_deg: float, pitch_deg: float, roll_deg: float, fov_deg: float
) -> Vector:
    """What a pinhole view (height, width) sees at a pixel, from its own axes: ahead, right and down, spelled out."""
    height, width = size
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    ahead = np.array([math.cos(pitch) * math.sin(yaw), -math.sin(pitch), math.cos(pitch) * math.cos(yaw)])
    level_right = np.array([math.cos(yaw), 0, -math.sin(yaw)])
    level_down = np.cross(ahead, level_right)
    right = math.cos(roll) * level_right + math.sin(roll) * level_down
    down = np.cross(ahead, right)
    scale = 2 * math.tan(math.radians(fov_deg) / 2) / width
    x, y, z = ahead + (column + 0.5 - width / 2) * scale * right + (row + 0.5 - height / 2) * scale * down
    return float(x), float(y), float(z)
