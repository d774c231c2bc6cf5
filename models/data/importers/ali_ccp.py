"""Ali-CCP (SIGIR 2018, data set of ESMM): products shown in three places of a shop's app, which are its scenarios.

No file has a header. A row of `sample_skeleton_*.csv` is: sample, click, conversion, index of common features, number
of features, features; one of `common_features_*.csv`: index, number of features, features. Features are separated by
\\x01, each is field \\x02 feature \\x03 value. Of the fields, 101 is the user, 205 the item, 206 its category, 207 its
shop, 216 its brand, and 301 the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from models.data.importers.items import ItemRows
from models.data.importers.rows import EventRows, Imported, Rejects, RowError, lines_of, parse_id, parse_label
from models.data.importers.shown import imported_from
from models.errors import DatasetError

USER, ITEM, SCENARIO = "101", "205", "301"
ITEM_FIELDS: Final = {"category": "206", "shop": "207", "brand": "216"}
SAMPLE_WIDTH, COMMON_WIDTH = 6, 3


def read_ali_ccp(folder: Path) -> Imported:
    """Impressions and clicks (scenario, split = train or test) and items (category, shop, brand) of an unpacked folder.

    The set has no times, and nothing says that its rows are in their order. Conversions are not read.

    Raises:
        DatasetError: a file is missing, or cannot be read at all.
    """
    rejects = Rejects()
    events, items = EventRows("scenario", "label", "split"), ItemRows(*ITEM_FIELDS)
    samples = {split: folder / f"sample_skeleton_{split}.csv" for split in ("train", "test")}
    if not samples["train"].is_file():
        raise DatasetError(f"{folder}: sample_skeleton_train.csv is missing, expected an unpacked Ali-CCP folder")
    there = {split: path for split, path in samples.items() if path.is_file()}
    listed: set[str] = set()
    for split, path in there.items():
        users = _users(folder / f"common_features_{split}.csv", rejects)
        for line, raw, fields in _rows(path, SAMPLE_WIDTH, rejects):
            try:
                if fields[3] not in users:
                    raise RowError(f"common features {fields[3]!r} are not in common_features_{split}.csv")
                features = _features(fields[5])
                item = parse_id(features.get(ITEM), f"item_id (field {ITEM})")
                scenario = parse_id(features.get(SCENARIO), f"scenario (field {SCENARIO})")
                label = parse_label(fields[1], "click")
            except RowError as reason:
                rejects.add(path, line, reason, raw)
                continue
            events.add(users[fields[3]], item, scenario, label, split)
            rejects.accept(path)
            if item not in listed:
                listed.add(item)
                texts = {name: features.get(field) for name, field in ITEM_FIELDS.items()}
                items.add_or_reject(path, line, item, texts, rejects, raw)
    return imported_from(events.table(*there.values()), items.table(), rejects, *there.values())


def _users(path: Path, rejects: Rejects) -> dict[str, str]:
    """The user of every index of common features."""
    found: dict[str, str] = {}
    for line, raw, (index, _, features) in _rows(path, COMMON_WIDTH, rejects):
        try:
            found[index] = parse_id(_features(features).get(USER), f"user_id (field {USER})")
        except RowError as reason:
            rejects.add(path, line, reason, raw)
        else:
            rejects.accept(path)
    return found


def _features(text: str) -> dict[str, str]:
    """Feature by field; of a field with several, which none of those above is, the last."""
    found = {}
    for feature in text.split("\x01"):
        field, _, rest = feature.partition("\x02")
        found[field] = rest.partition("\x03")[0]
    return found


def _rows(path: Path, width: int, rejects: Rejects) -> Iterator[tuple[int, bytes, list[str]]]:
    for line, raw in lines_of(path):
        fields = raw.decode("utf-8", "replace").split(",")
        if len(fields) != width:
            rejects.add(path, line, f"{len(fields)} fields between commas, expected {width}", raw)
            continue
        yield line, raw, fields
