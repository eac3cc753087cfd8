"""When a failed request is sent again. Decisions only: no clock, no waiting, no connection."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from chord_client.errors import ChordError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A request is sent again only when its error is retryable, at most `max_attempts` times in all,
    never beyond its deadline, and only while the budget lasts.

    The wait is what the server advises (Retry-After, RetryInfo) plus up to a tenth; without advice
    it is random up to initial_backoff * 2^n seconds, at most max_backoff.

    budget: retries in hand at the start, and at most; each retry takes one and each request that
    succeeds returns `budget_refill`. It bounds what clients add to a server in trouble.
    """

    max_attempts: int = 4
    initial_backoff: float = 0.2
    max_backoff: float = 10.0
    budget: float = 10.0
    budget_refill: float = 0.1

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.initial_backoff <= 0 or self.max_backoff <= 0:
            raise ValueError("A RetryPolicy needs at least one attempt and waits over 0 s.")
        if self.budget < 0 or self.budget_refill < 0:
            raise ValueError("The budget of a RetryPolicy is not negative.")

    @classmethod
    def none(cls) -> RetryPolicy:
        """Every request is sent once."""
        return cls(max_attempts=1)


class RetryBudget:
    """The retries that one client has in hand. Thread-safe."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._tokens = policy.budget

    def succeeded(self) -> None:
        with self._lock:
            self._tokens = min(self._policy.budget, self._tokens + self._policy.budget_refill)

    def take(self) -> bool:
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Attempts:
    """The attempts of one request."""

    def __init__(self, policy: RetryPolicy, budget: RetryBudget, *, repeatable: bool) -> None:
        """repeatable: the request may be carried out twice without harm."""
        self._policy = policy
        self._budget = budget
        self._repeatable = repeatable
        self._failed = 0

    def delay(self, error: ChordError, remaining: float) -> float | None:
        """Seconds to wait before the next attempt; None: `error` is final.

        remaining: seconds left of the request's time.
        """
        self._failed += 1
        if not error.retryable or self._failed >= self._policy.max_attempts:
            return None
        # The server's own refusals leave no trace of the request; a broken connection may.
        if not self._repeatable and error.delivered and not error.reason:
            return None
        if error.retry_after is not None:
            wait = error.retry_after * (1 + random.random() / 10)
        else:
            longest = self._policy.initial_backoff * 2.0 ** (self._failed - 1)
            wait = random.uniform(0, min(longest, self._policy.max_backoff))
        if wait >= remaining or not self._budget.take():
            return None
        return wait
