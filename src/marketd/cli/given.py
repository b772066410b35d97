"""What is given to several commands alike: the configuration file, times, the length of bars.

Each function turns the text of one option into a value, or says which option it was and what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from marketd.model import Interval

__all__ = ["config_option", "interval_of", "time_ns"]

config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="YAML file of the server."
)


def time_ns(option: str, text: str) -> int:
    """Nanoseconds UTC of a date or an RFC 3339 time."""
    from marketd.model import parse_ns

    try:
        return parse_ns(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def interval_of(option: str, text: str) -> Interval:
    from marketd.model import Interval

    try:
        return Interval.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
