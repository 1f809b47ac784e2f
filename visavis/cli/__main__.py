"""`python -m visavis.cli`: the command without its script on the PATH."""

from visavis.cli import main

main()
