"""Retries against a server that is really too busy, and one that really goes away."""

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chord_client import AsyncClient, Client, GroundRequest, OverloadedError, RetryPolicy
from chord_server import Chord, demo
from conftest import url_of

FARM, PROMPT, BOXES = demo()[0]
PATIENT = RetryPolicy(max_attempts=50, budget=1000)


@pytest.fixture(scope="module")
def narrow():
    """Answers one request at a time and refuses the others with a time to wait."""
    with Chord("--gateway-flag", "max_in_flight=1", "--gateway-flag", "client_requests=1") as running:
        running.wait_ready()
        yield running


@pytest.fixture(params=["http", "grpc"])
def narrow_url(request, narrow):
    return url_of(narrow, request.param)


def together(count, work):
    start = threading.Barrier(count)

    def one(_):
        start.wait(30)
        return work()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_WithoutRetriesTheRefusalHasTheTimeToWait(narrow_url):
    with Client(narrow_url, retry=RetryPolicy.none()) as chord:

        def attempt():
            try:
                return chord.ground(FARM, PROMPT)
            except OverloadedError as error:
                return error

        outcomes = together(6, attempt)
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    assert refused and len(refused) < 6
    for error in refused:
        assert error.retryable and error.retry_after > 0 and error.reason in ("OVERLOADED", "CLIENT_LIMIT")


def test_WithRetriesEveryoneIsAnswered(narrow_url):
    with Client(narrow_url, retry=PATIENT) as chord:
        assert all(answer.found for answer in together(6, lambda: chord.ground(FARM, PROMPT)))


def test_AsyncRetriesToo(narrow_url):
    async def main():
        async with AsyncClient(narrow_url, retry=PATIENT) as chord:
            answers = await asyncio.gather(*(chord.ground(FARM, PROMPT) for _ in range(6)))
            assert all(answer.found for answer in answers)

    asyncio.run(main())


def test_ABatchSendsAgainWhatWasRefused(narrow_url):
    with Client(narrow_url, retry=PATIENT) as chord:
        results = list(chord.ground_batch(GroundRequest(FARM, PROMPT) for _ in range(8)))
    assert sorted(result.index for result in results) == list(range(8))
    assert all(result.unwrap().found for result in results)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_AWorkerThatDiesCostsOnlyTime(transport):
    with Chord() as running:
        running.wait_ready()
        with Client(url_of(running, transport), retry=PATIENT) as chord:
            assert chord.ground(FARM, PROMPT).found
            os.kill(running.pid("language"), signal.SIGKILL)
            assert chord.ground(FARM, PROMPT).found
