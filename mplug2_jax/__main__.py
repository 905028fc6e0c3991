"""`python -m mplug2_jax COMMAND`, the same as `mplug2 COMMAND`."""

import sys

from mplug2_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
