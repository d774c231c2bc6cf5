"""Wall time and peak memory of choosing typical users among made-up ones.

    python scripts/measure_typical_users.py --users 1000000

Users are unit vectors around a few thousand tastes, as mean title vectors are; nothing is read or written.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from models.knowledge.typical import typical_users


def main() -> None:
    """Print users, typical users, seconds and the peak memory of the process."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--users", type=int, default=20_000)
    options.add_argument("--dimensions", type=int, default=384, help="of a title's vector")
    options.add_argument("--share", type=float, default=0.05, help="of typical users")
    options.add_argument("--seed", type=int, default=7)
    asked = options.parse_args()

    rng = np.random.default_rng(asked.seed)
    tastes = rng.standard_normal((max(10, asked.users // 200), asked.dimensions), dtype=np.float32)
    features = tastes[rng.integers(0, len(tastes), asked.users)]
    for start in range(0, asked.users, 65_536):
        block = features[start : start + 65_536]
        block += rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    chosen = typical_users(features, asked.share, seed=asked.seed)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{asked.users:,} users of {asked.dimensions} dimensions ({made:,.0f} MB): {len(chosen):,} typical "
        f"({len(chosen) / asked.users:.2%}), {seconds:.1f} s, peak {peak:,.0f} MB"
    )


if __name__ == "__main__":
    main()
