"""`python -m maskconver.cli` is the command `maskconver`."""

import sys

from .main import main

sys.exit(main())
