"""`python -m marketd`."""

from marketd.cli import main

main()
