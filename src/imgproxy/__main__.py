"""`python -m imgproxy`: the command line."""

from imgproxy.cli.__main__ import main

main()
