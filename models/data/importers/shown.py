"""From rows of what was shown to the tables of a dataset: what was taken, what was shown, and every item of either."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from models.data.importers.rows import Imported, Rejects
from models.errors import DatasetError


def imported_from(shown: pa.Table, items: pa.Table, rejects: Rejects, *paths: Path) -> Imported:
    """Interactions are the rows of `shown` with label 1, impressions all of it; `items` gains what only `shown` names.

    What was shown to somebody, or in a scenario, without a single click has no row in the interactions that it could
    belong to: it is left out, and a note says how much that is.

    Raises:
        DatasetError: nothing was clicked; `paths` are named.
    """
    taken = shown.filter(pc.equal(shown.column("label"), 1)).drop_columns(["label"])
    if not taken.num_rows:
        raise DatasetError(f"{', '.join(map(str, paths))}: no row of {shown.num_rows:,} is a click")
    kept = shown
    for column in ("user_id", "scenario"):
        kept = kept.filter(pc.is_in(kept.column(column), value_set=pc.unique(taken.column(column))))
    n_left_out = shown.num_rows - kept.num_rows
    notes = (f"{n_left_out:,} impressions of users or scenarios without a click were left out",) if n_left_out else ()
    known = pc.is_in(shown.column("item_id"), value_set=items.column("item_id").combine_chunks())
    unlisted = pa.table({"item_id": pc.unique(shown.column("item_id").filter(pc.invert(known)))})
    everything = pa.concat_tables([items, unlisted], promote_options="default")
    return Imported(taken, everything, None, rejects.rows, impressions=kept, notes=notes)
