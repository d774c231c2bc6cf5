"""Say how long ago a Unix time was, and keep it: `python scripts/since.py TIME timings.json what was done`."""

import json
import sys
import time
from pathlib import Path


def note(started: int, timings: Path, what: str) -> None:
    """Prints the seconds since `started` and sets `what` to them in the JSON file `timings`."""
    seconds = round(time.time() - started, 1)
    print(f"[{seconds:6.1f} s] {what}", file=sys.stderr)
    kept = json.loads(timings.read_text()) if timings.exists() else {}
    timings.parent.mkdir(exist_ok=True)
    timings.write_text(json.dumps({**kept, what: seconds}, indent=2) + "\n")


if __name__ == "__main__":
    note(int(sys.argv[1]), Path(sys.argv[2]), " ".join(sys.argv[3:]))
