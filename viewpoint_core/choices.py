"""A value that must be one of a few."""

from collections.abc import Iterable


def check_choice(value: object, options: Iterable[str], name: str) -> None:
    """Raise ValueError for a value that is none of the options. `name`: what it is called where it was given."""
    if value not in (names := tuple(options)):
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(names)}")
