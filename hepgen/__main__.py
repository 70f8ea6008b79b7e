"""``python -m hepgen``: the command line."""

from hepgen.cli import main

main()
