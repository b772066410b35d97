"""`marketd`, the program: a module for each family of commands, put together in `main`.

A module of commands imports click at the top and everything else inside its functions: `marketd --help` stays quick.
"""

from marketd.cli.main import main

__all__ = ["main"]
