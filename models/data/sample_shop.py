"""A made-up shop with what the models are about: texts that carry the topics, interests that drift, a long tail.

Items have titles and descriptions from latent topics and styles. Shoppers have two to four interests at a time and a
favourite style, visit in sessions, and behave differently in each of the three scenarios. Nobody clicks an item twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.data.folder import check_writable, write_dataset
from models.data.shop_catalogue import BRANDS, STYLES, TOPICS, Style, Thing, Topic
from models.data.shop_shoppers import SCENARIOS, Event, Shelf, Shopper
from models.data.track import track
from models.errors import DatasetError

MINIMUM_ITEMS: Final = 10  # fewer leave a shopper nothing to choose from
# The r-th favourite item appeals as r ** -exponent, so that a fifth of the items gets most of the clicks.
POPULARITY_EXPONENT: Final = 1.6


class SampleShop(NamedTuple):
    """The tables of a shop: what was clicked, what is sold, and everything that was shown."""

    interactions: pa.Table  # user_id, item_id, timestamp (s, UTC), scenario, session_id
    items: pa.Table  # item_id, title, description, category, brand, price
    impressions: pa.Table  # the columns of interactions, and label: 1 clicked, 0 shown only


def generate(folder: Path, seed: int = 7, n_users: int = 1500, n_items: int = 600) -> None:
    """Writes the sample shop as a dataset folder; the same arguments give the same shop.

    Raises:
        DatasetError: a size is too small, or `folder` holds something else.
    """
    check_writable(folder)
    shop = make_shop(seed, n_users, n_items)
    write_dataset(folder, shop.interactions, shop.items, impressions=shop.impressions)


def make_shop(seed: int = 7, n_users: int = 1500, n_items: int = 600) -> SampleShop:
    """The tables of the sample shop. About 16 clicks per user over 180 days; 3 clicks at least."""
    if n_users < 1 or n_items < MINIMUM_ITEMS:
        raise DatasetError(
            f"sample shop: {n_users} users and {n_items} items, expected at least 1 user and {MINIMUM_ITEMS} items"
        )
    rng = np.random.default_rng(seed)
    shelf, items = _stock(rng, n_items)
    events: list[Event] = []
    users: list[str] = []
    for user in track(range(n_users), "Shoppers", total=n_users):
        visits = Shopper(rng, shelf).visits()
        events.extend(visits)
        users.extend([f"u{user + 1:0{len(str(n_users))}d}"] * len(visits))
    interactions, impressions = _tables(users, events, np.array(items.column("item_id").to_pylist()))
    return SampleShop(interactions, items, impressions)


def _stock(rng: np.random.Generator, n_items: int) -> tuple[Shelf, pa.Table]:
    """What shoppers see of the items, and the item table."""
    topics = np.arange(n_items) % len(TOPICS)
    things = np.arange(n_items) // len(TOPICS) % len(TOPICS[0].things)
    styles = rng.integers(len(STYLES), size=n_items)
    favourites = rng.permutation(n_items) + 1

    rows: list[dict[str, Any]] = []
    titles: set[str] = set()
    for item in range(n_items):
        topic, style = TOPICS[topics[item]], STYLES[styles[item]]
        row = _describe(rng, topic, topic.things[things[item]], style, titles)
        rows.append({"item_id": f"p{item + 1:0{max(4, len(str(n_items)))}d}", **row})
    items = pa.Table.from_pylist(rows)
    price = items.column("price").to_numpy()
    shelf = Shelf(
        topic=topics,
        thing=things,
        style=styles,
        log_appeal=-POPULARITY_EXPONENT * np.log(favourites),
        cheapness=-(np.log(price) - np.log(price).mean()),
        related=_related_topics(),
    )
    return shelf, items


def _describe(rng: np.random.Generator, topic: Topic, thing: Thing, style: Style, titles: set[str]) -> dict[str, Any]:
    """Title and texts of one item; the title is new and goes into `titles`."""
    brand = BRANDS[rng.integers(len(BRANDS))]
    adjective = style.adjectives[rng.integers(len(style.adjectives))]
    title = wanted = f"{brand} {adjective} {thing.noun}"
    edition = 2
    while title in titles:
        title, edition = f"{wanted}, Edition {edition}", edition + 1
    titles.add(title)
    return {
        "title": title,
        "description": f"The {brand} {thing.noun.lower()} {thing.purpose}. {topic.scene} {style.sentence}",
        "category": f"{topic.category} > {topic.name}",
        "brand": brand,
        "price": round(float(thing.price * style.price_factor * rng.uniform(0.85, 1.15)), 2),
    }


def _related_topics() -> NDArray[np.bool_]:
    """bool (topics, topics): true for two different topics of one category."""
    categories = np.array([topic.category for topic in TOPICS])
    related: NDArray[np.bool_] = (categories[:, None] == categories) & ~np.eye(len(TOPICS), dtype=bool)
    return related


def _tables(users: list[str], events: list[Event], item_ids: NDArray[Any]) -> tuple[pa.Table, pa.Table]:
    """The clicks and the impressions as tables, both ordered by time."""
    user_ids = np.array(users)
    times = np.array([event.timestamp for event in events], dtype=np.int64)
    sessions = np.array([f"{user}-s{event.session + 1:03d}" for user, event in zip(users, events, strict=True)])
    scenarios = np.array([SCENARIOS[event.scenario].name for event in events])

    order = np.argsort(times, kind="stable")
    clicks = np.array([event.item for event in events])
    n_passed = np.array([len(event.passed_over) for event in events])
    shown = np.repeat(order, 1 + n_passed[order])  # each click is followed by what was passed over for it
    slots = np.concatenate([[events[at].item, *events[at].passed_over] for at in order]).astype(np.int64)
    label = np.concatenate([[1] + [0] * n_passed[at] for at in order]).astype(np.int8)

    def table(at: NDArray[np.int64], items: NDArray[np.int64], **more: NDArray[Any]) -> pa.Table:
        columns = {"user_id": user_ids[at], "item_id": item_ids[items], "timestamp": times[at]}
        return pa.table({**columns, "scenario": scenarios[at], "session_id": sessions[at], **more})

    return table(order, clicks[order]), table(shown, slots, label=label)
