"""Print how long ago a file's Unix time was: `python scripts/since.py FILE what was done`."""

import sys
import time
from pathlib import Path

seconds = time.time() - int(Path(sys.argv[1]).read_text())
print(f"[{seconds:6.1f} s] {' '.join(sys.argv[2:])}", file=sys.stderr)
