"""What a request asks for, once it has been checked: plain data, cheap to make, for the online path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.fallback import Owner


@dataclass(slots=True)
class Told:
    """A history that came with a request, as columns of one length; None where no entry says anything."""

    item_ids: Sequence[str]
    types: Sequence[str | None] | None = None
    times: Sequence[float | None] | None = None  # seconds since 1970


@dataclass(slots=True)
class Ask:
    """Items for a history: the one told, or the stored one of a user and a session. None = not said."""

    scenario: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    history: Told | None = None
    count: int | None = None
    exclude: Sequence[str] = ()
    exclude_seen: bool | None = None
    model: tuple[str, str | None] | None = None  # name and version
    never_degrade: bool = False
    explain: bool = False
    diversity: float = 0.0

    @property
    def owners(self) -> list[Owner]:
        """Whose request it is; the first one's is the last good list."""
        owners: list[Owner] = []
        if self.user_id is not None:
            owners.append(("user", self.user_id))
        if self.session_id is not None:
            owners.append(("session", self.session_id))
        return owners


@dataclass(slots=True)
class RankAsk:
    """The caller's candidates in a scenario's order, for a history: the one told, or the stored one."""

    candidates: Sequence[str]
    scenario: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    history: Told | None = None
    never_degrade: bool = False


@dataclass(slots=True)
class SimilarAsk:
    """Items like the given ones."""

    item_ids: Sequence[str]
    scenario: str | None = None
    count: int | None = None
    exclude: Sequence[str] = ()
    model: tuple[str, str | None] | None = None
    never_degrade: bool = False
