"""``python -m cluster``: the command line, where no script `caucus` is installed."""

from cluster.cli import main

main()
