"""Every error afterglow raises on purpose.

    AfterglowError
    ├── ArtefactError                 start-up and swap: the artefact directory cannot be trusted
    │   └── ArtefactRefused           carries every reason found, not just the first
    ├── SettingsError                 start-up: a setting, scenarios.toml or the machine does not fit
    ├── FeatureError                  a caller inside the program broke a feature contract
    │   └── UnknownItemIndex
    ├── StoreUnavailable              the state store did not answer in time; the ladder decides what follows
    └── RequestError                  has an HTTP status and a stable code; becomes problem+json
        ├── MalformedJson             400 malformed_json
        ├── BadHeader                 400 bad_header
        ├── NotFound                  404 not_found, unknown_scenario, unknown_model
        ├── ReceiveTimeout            408 receive_timeout
        ├── BodyTooLarge              413 body_too_large
        ├── ValidationFailed          422 validation_failed
        ├── ModelFailed               500 model_failed (only where the request forbids a lower tier)
        ├── NotReady                  503 not_ready
        ├── Overloaded                503 overloaded (+ Retry-After)
        │   └── EngineUnavailable     503 engine_unavailable: the engine process is away and will be back
        ├── Draining                  503 draining
        ├── StateUnavailable          503 state_unavailable
        └── DeadlineExceeded          504 deadline_exceeded

One handler in `service.api.problems` turns a `RequestError` into RFC 9457 `application/problem+json`.
"""

from __future__ import annotations

from typing import Any


class AfterglowError(Exception):
    """Root of the tree."""


class ArtefactError(AfterglowError):
    """An artefact directory is missing, unreadable or contradicts itself."""


class ArtefactRefused(ArtefactError):
    """An artefact failed its checks. `reasons` holds one sentence per fault, each naming the file."""

    def __init__(self, artefact: str, reasons: list[str]) -> None:
        self.artefact = artefact
        self.reasons = reasons
        super().__init__(f"artefact {artefact!r} is refused:\n" + "\n".join(f"  - {reason}" for reason in reasons))


class SettingsError(AfterglowError):
    """A setting, the scenarios file or the machine does not fit what was asked for."""


class FeatureError(AfterglowError):
    """A feature function was given something outside its contract."""


class UnknownItemIndex(FeatureError):
    """An item index is outside 1..n_items."""


class StoreUnavailable(AfterglowError):
    """The state store did not answer within its timeout, or answered something it should not."""


class RequestError(AfterglowError):
    """A request that cannot be answered with 200. `detail` never echoes a value the caller sent."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.errors = errors or []
        self.retry_after_s = retry_after_s


class MalformedJson(RequestError):
    status, code, title = 400, "malformed_json", "Malformed JSON"


class BadHeader(RequestError):
    status, code, title = 400, "bad_header", "Bad header"


class NotFound(RequestError):
    status, code, title = 404, "not_found", "Not found"


class ReceiveTimeout(RequestError):
    status, code, title = 408, "receive_timeout", "Request Timeout"


class BodyTooLarge(RequestError):
    status, code, title = 413, "body_too_large", "Body too large"


class ValidationFailed(RequestError):
    status, code, title = 422, "validation_failed", "Validation failed"


class ModelFailed(RequestError):
    status, code, title = 500, "model_failed", "Model failed"


class NotReady(RequestError):
    status, code, title = 503, "not_ready", "Not ready"


class Overloaded(RequestError):
    status, code, title = 503, "overloaded", "Overloaded"


def crowded_loop() -> Overloaded:
    """Why a crowded event loop answers from what its process knows itself."""
    return Overloaded("More requests arrive than can be answered in time.", retry_after_s=1)


class EngineUnavailable(Overloaded):
    code, title = "engine_unavailable", "Engine unavailable"


class Draining(RequestError):
    status, code, title = 503, "draining", "Draining"


class StateUnavailable(RequestError):
    status, code, title = 503, "state_unavailable", "State store unavailable"


class DeadlineExceeded(RequestError):
    status, code, title = 504, "deadline_exceeded", "Deadline exceeded"
