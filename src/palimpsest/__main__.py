"""`python -m palimpsest` is the command `palimpsest`, for where that is not on the path."""

import sys

from palimpsest.cli import main

sys.exit(main())
