"""How much may be asked of a language model, and what has been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens, read and written."""

    prompt: float = 0.0
    completion: float = 0.0


class Budget:
    """Counts calls and tokens, and knows when the next call could go beyond a limit.

    Every HTTP request is a call, also one that is repeated or fails. A call reserves its estimated tokens before it is
    sent and exchanges them for the reported ones, so calls in flight cannot go far beyond the limit together.
    """

    def __init__(
        self, max_calls: int | None = None, max_tokens: int | None = None, prices: Prices | None = None
    ) -> None:
        self.max_calls = max_calls
        self.max_tokens = max_tokens
        self.prices = prices or Prices()
        self.calls = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._reserved = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def dollars(self) -> float:
        return (self.prompt_tokens * self.prices.prompt + self.completion_tokens * self.prices.completion) / 1e6

    def exhausted(self, estimate: int) -> str | None:
        """The limit that forbids a call of about `estimate` tokens for good, in words; None if there is none."""
        if self.max_calls is not None and self.calls >= self.max_calls:
            return f"the budget of {self.max_calls:,} calls is spent"
        if self.max_tokens is not None and self.tokens + estimate > self.max_tokens:
            return (
                f"the budget of {self.max_tokens:,} tokens allows no further call: {self.tokens:,} are spent, "
                f"the next needs about {estimate:,}"
            )
        return None

    def must_wait(self, estimate: int) -> bool:
        """Whether the call could go beyond the limit if all calls in flight take what they reserved."""
        return self.max_tokens is not None and self.tokens + self._reserved + estimate > self.max_tokens

    def reserve(self, estimate: int) -> None:
        """Counts a call that starts."""
        self.calls += 1
        self._reserved += estimate

    def settle(self, estimate: int, body: Mapping[str, Any] | None) -> None:
        """Exchanges a reservation for what the `body` of a response reports; without one nothing was consumed."""
        self._reserved -= estimate
        if body is not None:
            self.prompt_tokens += reported_tokens(body, "prompt_tokens")
            self.completion_tokens += reported_tokens(body, "completion_tokens")

    def summary(self) -> str:
        """One line: calls, tokens, and cost where prices are known."""
        line = f"{self.calls:,} calls, {self.prompt_tokens:,} + {self.completion_tokens:,} tokens"
        return f"{line}, ${self.dollars:.4f}" if self.prices != Prices() else line


def reported_tokens(body: Mapping[str, Any], name: str) -> int:
    """`prompt_tokens` or `completion_tokens` of a response, 0 if it does not say."""
    usage = body.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value > 0 else 0
