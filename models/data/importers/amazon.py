"""Amazon reviews and metadata, one JSON object a line, in the shapes of the 2014, 2018 and 2023 releases.

| | 2014 | 2018 | 2023 |
|---|---|---|---|
| user | `reviewerID` | `reviewerID` | `user_id` |
| item | `asin` | `asin` | `parent_asin` (`asin` is one variant of it) |
| time | `unixReviewTime`, s | `unixReviewTime`, s | `timestamp`, ms |
| rating | `overall` | `overall` | `rating` |
| metadata lines | Python literals | JSON | JSON |
| category | `categories`, a list of paths | `category`, one path | `categories`, one path, or `main_category` |
| brand | `brand` | `brand` | `store` |
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from models.data.importers.items import ItemRows, clean_text
from models.data.importers.rows import (
    EventRows,
    Imported,
    Rejects,
    RowError,
    TimeUnit,
    lines_of,
    parse_id,
    parse_number,
    parse_time,
)

ITEM_COLUMNS = ("title", "description", "category", "brand", "price", "features")


def read_amazon(reviews: Path, metadata: Path | None = None) -> Imported:
    """Interactions (timestamp, rating) of a review file and, where given, the items of a metadata file.

    Raises:
        DatasetError: a file cannot be opened, or none of its first 1,000 lines is what it should be.
    """
    rejects = Rejects()
    interactions = _reviews(reviews, rejects)
    items = _metadata(metadata, rejects) if metadata else None
    return Imported(interactions, items, None, rejects.rows)


def _reviews(path: Path, rejects: Rejects) -> pa.Table:
    events = EventRows("timestamp", "rating")
    for line, raw, review in _objects(path, rejects):
        try:
            if "reviewerID" in review:
                user, item, rating = review["reviewerID"], review.get("asin"), review.get("overall")
                time = parse_time(review.get("unixReviewTime"))
            else:
                user, item, rating = review.get("user_id"), review.get("parent_asin"), review.get("rating")
                time = parse_time(review.get("timestamp"), TimeUnit.ms)
            values = (parse_id(user, "user_id"), parse_id(item, "item_id"), time, parse_number(rating, "rating"))
        except RowError as reason:
            rejects.add(path, line, reason, raw)
        else:
            events.add(*values)
            rejects.accept(path)
    return events.table(path)


def _metadata(path: Path, rejects: Rejects) -> pa.Table:
    items = ItemRows(*ITEM_COLUMNS)
    for line, raw, product in _objects(path, rejects):
        texts = {
            "title": product.get("title"),
            "description": product.get("description"),
            "category": _category(product),
            "brand": product.get("brand") or product.get("store"),
            "price": product.get("price"),
            "features": product.get("features") or product.get("feature"),
        }
        items.add_or_reject(path, line, product.get("parent_asin") or product.get("asin"), texts, rejects, raw)
    return items.table()


def _category(product: dict[str, Any]) -> str | None:
    """The first category path, parts joined by ' > '; the main category where there is no path."""
    path = product.get("categories") or product.get("category") or []
    if isinstance(path, list) and path and isinstance(path[0], list):
        path = path[0]
    if isinstance(path, str):
        path = [path]
    joined = " > ".join(filter(None, map(clean_text, path)))
    return joined or product.get("main_category") or product.get("main_cat")


def _objects(path: Path, rejects: Rejects) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Line, bytes and object of every line that holds a JSON object or, as in 2014, a Python dictionary."""
    for line, raw in lines_of(path):
        if not raw.strip():
            continue
        try:
            found = _parse(raw)
            if not isinstance(found, dict):
                raise RowError(f"is a {type(found).__name__}, expected an object")
        except RowError as reason:
            rejects.add(path, line, reason, raw)
            continue
        yield line, raw, found


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        not_json = f"is not JSON: {error}"
    if not raw.lstrip().startswith(b"{'"):
        raise RowError(not_json)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # texts with a lone backslash are invalid escapes, but harmless here
            return ast.literal_eval(raw.decode("utf-8").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise RowError(f"is neither JSON nor a Python literal: {error}") from None
