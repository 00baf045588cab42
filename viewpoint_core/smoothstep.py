"""A step without corners."""

from torch import Tensor


def smoothstep(value: Tensor) -> Tensor:
    """0 up to 0, 1 from 1 on, and smooth between: 3 t^2 - 2 t^3."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)
