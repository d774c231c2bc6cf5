"""What is known of a request while it is answered, and what is kept of it: one log line and the metrics."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.deadline import Clock
from service.errors import BodyTooLarge
from service.logs import Logger, new_id
from service.metrics import Metrics

Reason = Literal["client_gone", "receive_timeout"]
GONE: Reason = "client_gone"
LATE: Reason = "receive_timeout"
GONE_STATUS = 499  # for the log and the metrics; nobody hears it

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:@-]{1,128}")
_QUIET = {"/livez", "/readyz", "/metrics"}


@dataclass(slots=True)
class Record:
    """What is known of a request while it is answered; `fields` is what its log line says beyond the usual."""

    request_id: str
    started_at: float
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    crowded: bool = False  # the event loop has no time for more than what it knows itself
    code: str | None = None
    abandoned: Reason | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class Records:
    """Opens and closes records; nothing else counts requests or writes their lines."""

    def __init__(self, metrics: Metrics, log: Logger, clock: Clock) -> None:
        self.log = log
        self._metrics, self._clock = metrics, clock

    def open(self, headers: Mapping[bytes, bytes], arrived_at: float | None, *, crowded: bool = False) -> Record:
        """A request that begins; named by its caller, or here."""
        given = headers.get(b"x-request-id")
        request_id = given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else new_id()
        self._metrics.n_inflight += 1
        self._metrics.fold_soon()
        return Record(request_id, arrived_at or self._clock(), headers, crowded)

    def close(self, record: Record, route: str, method: str, status: int) -> None:
        """A request that has ended. `route` is the template, never the path itself: labels must stay few."""
        took_s = self._clock() - record.started_at
        self._metrics.n_inflight -= 1
        self._metrics.http.observe(took_s, route, method if route != "unmatched" else "any", str(status))
        self._metrics.fold_soon()
        say, level = (self.log.debug, logging.DEBUG) if route in _QUIET else (self.log.info, logging.INFO)
        if not self.log.is_enabled_for(level):
            return
        say(
            "request",
            request_id=record.request_id,
            method=method[:16],
            route=route,
            status=status,
            ms=round(took_s * 1000, 3),
            **({"code": record.code} if record.code else {}),
            **record.fields,
        )


def check_declared(headers: Mapping[bytes, bytes], limit: int) -> None:
    """Nothing, when the declared length is within the limit.

    Raises:
        BodyTooLarge: it is not, or is no length.
    """
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > limit:
        raise too_large(limit)


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes.")
