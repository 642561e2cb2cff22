"""`python -m lowland` is `lowland`."""

from lowland.cli import main

main()
