"""The kinds of synthetic worlds, and the world of a seed."""

from collections.abc import Callable

from ...choices import check_choice
from .indoors import chamber, courtyard, hall
from .outdoors import desert, gallery, meadow, sea, temple, town, winter
from .palette import Dice
from .scene import Scene
from .world import World, finish

THEMES: dict[str, Callable[[Dice], World]] = {
    kind.__name__: kind for kind in (meadow, winter, desert, sea, town, temple, gallery, chamber, hall, courtyard)
}
THEME_WEIGHTS = (3, 2, 2, 2, 3, 2, 2, 4, 2, 2)


def draw_scene(seed: int, theme: str | None = None) -> Scene:
    """The world of a seed, always the same; of a given theme, or of one that the seed chooses.

    Raises ValueError for an unknown theme.
    """
    if theme is not None:
        check_choice(theme, THEMES, "theme")
    dice = Dice(f"synthetic/{seed}")
    chosen = dice.choices(list(THEMES), THEME_WEIGHTS)[0]
    theme = theme or chosen
    return finish(THEMES[theme](dice), seed, theme)
