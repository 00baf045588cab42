"""What the estimate of a camera's path found, and what a user should know of its errors."""

import math
from dataclasses import dataclass

from torch import Tensor

from .camera_path import CameraPath


@dataclass(frozen=True)
class Estimate:
    """A camera path and what is known of its errors.

    drift_deg: by how much the rotation between far frames, measured from their matches alone, differs from the path at
    most (nan where no far frames show the same). chained_drift_deg: how far following from frame to frame alone would
    have gone astray at the end (nan where the chain breaks). unsure: why, for each frame whose camera is a guess.
    contradicted: which part of the links between far frames the path contradicts, 0 where few enough for chance.
    """

    path: CameraPath
    drift_deg: float
    chained_drift_deg: float
    agreeing: Tensor
    matched: Tensor
    unsure: dict[int, str]
    contradicted: float = 0.0

    def lowest_confidence(self) -> float:
        """Of all frames."""
        assert self.path.confidence is not None
        return float(self.path.confidence.min())

    def report(self) -> str:
        """What a user should know, in lines."""
        confidence = self.path.confidence
        assert confidence is not None
        lowest = int(confidence.argmin())
        share = float(self.agreeing.sum() / self.matched.sum().clamp(min=1))
        lines = [
            f"{len(self.path)} frames; field of view {span(self.path.fov_deg)} degrees",
            f"{share:.0%} of {int(self.matched.sum()) // 2} matches between neighbouring frames agree with the path",
            f"confidence {float(confidence.mean()):.2f} on average, {float(confidence[lowest]):.2f} at frame {lowest}, "
            "the lowest",
            f"drift {degrees(self.drift_deg)} between far frames that show the same; "
            f"from frame to frame alone it would have been {degrees(self.chained_drift_deg)}",
        ]
        if self.contradicted:
            lines.append(
                f"unsure as a whole: {self.contradicted:.0%} of the links between frames far apart contradict the "
                f"path, by up to {self.drift_deg:.1f} degrees"
            )
        return "\n".join(lines + [f"cannot tell: {line}" for line in grouped(self.unsure)])


def span(values: Tensor) -> str:
    """The values' range in words."""
    low, high = float(values.min()), float(values.max())
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"


def degrees(value: float) -> str:
    """An angle, or that it is unknown."""
    return "unknown" if math.isnan(value) else f"{value:.2f} degrees"


def grouped(unsure: dict[int, str]) -> list[str]:
    """Reasons with the runs of frames that they hold for."""
    runs: list[tuple[int, int, str]] = []
    for frame, reason in sorted(unsure.items()):
        if runs and runs[-1][1] == frame - 1 and runs[-1][2] == reason:
            runs[-1] = runs[-1][0], frame, reason
        else:
            runs.append((frame, frame, reason))
    return [f"frame{f' {a}' if a == b else f's {a} to {b}'}: {reason}" for a, b, reason in runs]
