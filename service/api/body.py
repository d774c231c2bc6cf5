"""Request bodies: strict JSON into a strict model, or the problem that says why not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.api.problems import findings, validation_failed
from service.errors import BodyTooLarge, MalformedJson

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, model: type[Body]) -> Body:
    """The body as `model`.

    Raises:
        MalformedJson: not JSON as RFC 8259 has it (NaN, invalid UTF-8, half a surrogate, nesting beyond 1024, ...).
        ValidationFailed: JSON that does not fit.
    """
    return parse(parse_json(await request.body()), model)


def parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # The parser's own message may quote the input; line and column are enough to find the place.
        raise MalformedJson(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None


def parse(document: Any, model: type[Body], *, prefix: Sequence[str | int] = ()) -> Body:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise validation_failed(findings(error), prefix=prefix) from None
    except RecursionError:
        raise MalformedJson("The body is nested too deeply.") from None


async def lines(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes | BodyTooLarge]:
    """Lines of a stream without their ends, blank ones left out; an error in the place of one that is too long.

    Never holds more than `max_bytes` and one chunk.
    """
    rest, skipping = bytearray(), False
    async for chunk in chunks:
        rest += chunk
        while (end := rest.find(b"\n")) >= 0:
            line = bytes(rest[:end]).strip()
            del rest[: end + 1]
            if skipping:
                skipping = False
            elif len(line) > max_bytes:
                yield _too_long(max_bytes)
            elif line:
                yield line
        if len(rest) > max_bytes:
            if not skipping:
                yield _too_long(max_bytes)
            skipping = True
            rest.clear()
    if (line := bytes(rest).strip()) and not skipping:
        yield line


def _too_long(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"A line is longer than {max_bytes} bytes.")
