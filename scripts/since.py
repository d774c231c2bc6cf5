"""Print the seconds since a Unix time: `python scripts/since.py TIME what was done`."""

import sys
import time

seconds = time.time() - int(sys.argv[1])
print(f"[{seconds:6.1f} s] {' '.join(sys.argv[2:])}", file=sys.stderr)
