"""`python -m troupe.cli`."""

from troupe.cli import main

main()
