"""What a viewer must show of the panorama whose colours tell the direction."""

import numpy as np

from tests.browser_inputs import colours
from tests.browser_page import ViewerOnPage
from viewpoint_core.camera import view_directions

CORNER = 6


def expected_colours(shape: tuple[int, ...], view: tuple[float, float, float]) -> np.ndarray:
    """What a view of the known colours looks like, (h, w, 3) in [0, 255]."""
    yaw, pitch, fov = view
    rays = view_directions(*shape[:2], yaw_deg=yaw, pitch_deg=pitch, fov_deg=fov)
    return (colours(rays) * 255).numpy()


def shows_the_view(shown: ViewerOnPage) -> bool:
    """Whether every pixel but for the round corners has the colour of the direction that it must show."""
    pixels = shown.pixels()
    difference = np.abs(pixels - expected_colours(pixels.shape, shown.view()))[CORNER:-CORNER, CORNER:-CORNER]
    return bool(difference.mean() < 1.5 and difference.max() < 8)


def assert_shows_the_view(shown: ViewerOnPage) -> None:
    """Raise AssertionError unless it does."""
    assert shows_the_view(shown)


def wait_for_the_view(shown: ViewerOnPage, tries: int = 40) -> None:
    """Wait for it, where the page lays its nodes out anew meanwhile, as after undo."""
    while not shows_the_view(shown) and tries:
        shown.page.wait_for_timeout(100)
        tries -= 1
    assert_shows_the_view(shown)
