"""`python -m palimpsest.cli`, where the script is not on the path."""

from palimpsest.cli import main

raise SystemExit(main())
