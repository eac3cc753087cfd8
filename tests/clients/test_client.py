"""Both clients over both transports against a real Chord: one surface."""

import asyncio
import http.server
import re
import threading

import pytest

from chord_client import (Answer, AsyncClient, Client, Completed, ConnectionFailedError, DeadlineExceededError, GroundRequest,
                          ImageError, ImageHandle, ImageNotFoundError, InvalidRequestError, Model, NotFoundError,
                          ObjectFound, PromptError, ProtocolError, RetryPolicy, TextDelta)
from chord_client.export import Dataset
from chord_server import demo, iou
from conftest import url_of

FARM, PROMPT, BOXES = demo()[0]
FRUIT, APPLES, APPLE_BOXES = demo()[1]


def right(answer, boxes):
    return len(answer.boxes) == len(boxes) and all(iou(a, b) > 0.7 for a, b in zip(answer.boxes, boxes))


def test_FindsWhatIsThereAndSaysWhatIsNot(url):
    with Client(url) as chord:
        answer = chord.ground(FARM, PROMPT)
        assert right(answer, BOXES) and answer.found and answer.confidence > 0.5 and answer.calibrated
        assert answer.objects[0].label == "tractor" and answer.model == "chord-nano"
        assert answer.image_size == (560, 420) and answer.request_id.startswith("req_")
        assert answer.finish_reason == "stop" and answer.usage.image_tokens > 0 and answer.timing.total_ms > 0
        absent = next((image, prompt) for image, prompt, boxes in demo() if not boxes)
        assert not chord.ground(*absent).found


def test_BothTransportsSayTheSame(server):
    answers = []
    for transport in ("http", "grpc"):
        with Client(url_of(server, transport)) as chord:
            answers.append(chord.ground(FRUIT, APPLES).to_dict())
    for answer in answers:
        for name in ("timing", "request_id", "image_id"):
            del answer[name]
    assert answers[0] == answers[1]


def test_LabelsAreLookedForInOnePass(url):
    with Client(url) as chord:
        for answer in (chord.ground(FARM, labels=["tractor"]),
                       list(chord.ground_stream(FARM, labels=["tractor"]))[-1].answer,
                       next(iter(chord.ground_batch([GroundRequest(FARM, labels=["tractor"])]))).unwrap()):
            assert list(answer.by_label) == ["tractor"] and answer.points == ()
            (thing,) = answer.by_label["tractor"]
            assert iou(thing.box, BOXES[0]) > 0.7
        assert list(chord.ground(FARM, labels=["tractor", "ship"]).by_label) == ["tractor", "ship"]
        with pytest.raises(InvalidRequestError):
            chord.ground(FARM, labels=["a,b"])


def test_EventsComeBeforeTheAnswer(url):
    with Client(url) as chord:
        events = list(chord.ground_stream(FARM, PROMPT))
        kinds = [type(event) for event in events]
        assert kinds[-1] is Completed and kinds.count(Completed) == 1
        assert TextDelta in kinds and kinds.count(ObjectFound) == 1
        answer = events[-1].answer
        assert right(answer, BOXES)
        (found,) = (event for event in events if isinstance(event, ObjectFound))
        assert found.box == answer.boxes[0]


def test_AStreamThatIsClosedLeavesTheClientUsable(url):
    with Client(url) as chord:
        events = chord.ground_stream(FARM, PROMPT)
        next(events)
        events.close()
        assert chord.ground(FARM, PROMPT).found


def test_AnUploadedImageServesManyRequests(url):
    with Client(url) as chord:
        handle = chord.upload(FARM)
        assert handle.image_size == (560, 420) and handle.expires_at is not None
        chord.ground(handle, PROMPT)
        again = chord.ground(handle, PROMPT)
        assert again.usage.cache == "kv" and right(again, BOXES)
        assert again.image.image_id == handle.image_id
        assert chord.touch(handle).expires_at >= handle.expires_at
        chord.delete(handle)
        with pytest.raises(ImageNotFoundError) as caught:
            chord.ground(handle, PROMPT)
        assert caught.value.reason == "IMAGE_ID_UNKNOWN" and caught.value.request_id.startswith("req_")


def test_ALargeUploadGoesInChunks(url):
    """Of more than one chunk of gRPC's: an image that does not compress."""
    import numpy as np

    noise = np.random.default_rng(1).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    with Client(url) as chord:
        assert chord.upload(noise).image_size == (1300, 900)


def test_ASessionRemembersItsTurns(url):
    with Client(url) as chord:
        session = chord.session(FRUIT)
        first, second = session.ground(APPLES), session.ground(APPLES)
        assert right(first, APPLE_BOXES)
        assert second.usage.prompt_tokens > first.usage.prompt_tokens
        other = chord.session(session.image)
        assert other.ground(APPLES).usage.prompt_tokens == first.usage.prompt_tokens


def test_ABatchHasAResultForEveryRequest(url):
    with Client(url) as chord:
        handle = chord.upload(FARM)
        requests = [GroundRequest(handle, PROMPT, tag="kept"), GroundRequest(FRUIT, APPLES, tag="苹果"),
                    GroundRequest(b"GIF89a", "a cat", tag="gif"), GroundRequest(handle, "", tag="empty"),
                    GroundRequest(ImageHandle("img_" + "0" * 32), "a cat", tag="unknown"),
                    GroundRequest(b"", "a cat", tag="none")] * 2
        results = {result.index: result for result in chord.ground_batch(iter(requests), batch_size=4)}
        assert sorted(results) == list(range(12))
        for index, result in results.items():
            assert result.tag == requests[index].tag
        for at in (0, 6):
            assert right(results[at].unwrap(), BOXES) and right(results[at + 1].unwrap(), APPLE_BOXES)
            kinds = [type(results[at + number].error) for number in range(2, 6)]
            assert kinds == [ImageError, PromptError, ImageNotFoundError, ImageError]
            with pytest.raises(PromptError):
                results[at + 3].unwrap()


@pytest.mark.parametrize("image, prompt, options, kind", [
    (b"GIF89a" + bytes(40), "a cat", {}, ImageError),
    (FARM[:1000], "a cat", {}, ImageError),
    (FARM, "", {}, PromptError),
    (FARM, "a\0b", {}, PromptError),
    (FARM, "x" * 5000, {}, PromptError),
    (FARM, "a cat", {"max_new_tokens": 5000}, InvalidRequestError),
    (FARM, "a cat", {"session_id": "not/valid"}, InvalidRequestError),
    (FARM, "a cat", {"timeout": 0.002, "retry": None}, DeadlineExceededError)])
def test_ErrorsHaveTheSameClassOverBothTransports(url, image, prompt, options, kind):
    options.pop("retry", None)
    with Client(url) as chord, pytest.raises(kind) as caught:
        chord.ground(image, prompt, **options)
    if kind is not DeadlineExceededError:  # which may be the client's own
        assert caught.value.reason and caught.value.request_id.startswith("req_")
        assert caught.value.reason in str(caught.value)
    assert not caught.value.retryable


def test_AnImageOverTheLimitIsRefusedInBothStreams(url):
    with Client(url) as chord:
        large = b"\x89PNG\r\n\x1a\n" + bytes(21 << 20)
        for call in (lambda: chord.ground(large, "a cat"), lambda: chord.upload(large)):
            with pytest.raises((ImageError, InvalidRequestError)):
                call()
        assert chord.ground(FARM, PROMPT).found


def test_HealthAndModels(url):
    with Client(url) as chord:
        health = chord.health()
        assert health.live and health.ready
        chord.wait_until_ready(5)
        (model,) = chord.models()
        assert isinstance(model, Model) and (model.name, model.state) == ("chord-nano", "serving")
        assert re.fullmatch(r"[0-9a-f]{64}", model.fingerprint)


def test_LabelsAreGroupedAndEachHasItsConfidence(url):
    with Client(url) as chord:
        answer = chord.ground(FARM, labels=["tractor", "guitar", "cow"])
        assert [match.label for match in answer.labels] == ["tractor", "guitar", "cow"]
        assert {label: len(found) for label, found in answer.by_label.items()} == {"tractor": 1, "guitar": 0, "cow": 1}
        assert all(match.confidence is not None for match in answer.labels)
        assert not answer.absent and Answer.from_dict(answer.to_dict()) == answer
        nothing = chord.ground(answer.image, labels=["guitar", "horse"])
        assert nothing.absent and nothing.usage.cache == "kv"
        *events, last = chord.ground_stream(answer.image, labels=["tractor", "guitar", "cow"])
        assert [e.box for e in events if isinstance(e, ObjectFound)] == list(answer.boxes) == list(last.answer.boxes)


def test_AnAnswerThatIsCutIsNeitherFoundNorAbsent(url):
    with Client(url) as chord:
        cut = chord.ground(FARM, PROMPT, max_new_tokens=6)
        assert cut.truncated and not cut.found and not cut.absent and cut.confidence is None
        assert "max_new_tokens" in cut.advice and Answer.from_dict(cut.to_dict()) == cut
        labels = chord.ground(FARM, labels=["cow", "tractor"], max_new_tokens=6)
        assert labels.confidence is None and [match.confidence for match in labels.labels] == [None, None]
        dataset = Dataset()
        dataset.add("farm.png", PROMPT, cut)
        assert dataset.images[0].score == 0 and dataset.images[0].annotations == []
        assert chord.ground(FARM, "the guitar").absent


@pytest.mark.parametrize("url_without_server", ["http://127.0.0.1:1", "grpc://127.0.0.1:1"])
def test_WithoutAServerOneSentenceSaysSo(url_without_server):
    with Client(url_without_server, retry=RetryPolicy.none()) as chord:
        health = chord.health(timeout=5)
        assert not health.live and "chord serve" in health.detail
        with pytest.raises(ConnectionFailedError) as caught:
            chord.ground(FARM, PROMPT)
        assert caught.value.retryable and caught.value.request_id is None


def test_APathThatIsNotChordsIsNamed(server):
    with Client(f"http://{server.http_address}/nowhere") as chord, pytest.raises(NotFoundError) as caught:
        chord.ground(FARM, PROMPT)
    assert caught.value.reason == "ROUTE_UNKNOWN"


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that is not Chord."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *arguments):
        pass


def test_AServerThatIsNotChordIsNamed():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        thread = threading.Thread(target=stranger.serve_forever)
        thread.start()
        try:
            with Client(f"http://127.0.0.1:{stranger.server_port}") as chord, pytest.raises(ProtocolError) as caught:
                chord.touch(ImageHandle("img_1"))
            assert "Chord" in caught.value.message
        finally:
            stranger.shutdown()
            thread.join()


def test_ArgumentsThatNoServerTakesAreRefusedAtOnce(url):
    with Client(url) as chord:
        for bad in (lambda: chord.ground(FARM, PROMPT, timeout=0), lambda: chord.ground(FARM, PROMPT, grammar="x"),
                    lambda: chord.ground_batch([], batch_size=65)):
            with pytest.raises(ValueError):
                bad()
        with pytest.raises(TypeError):
            chord.upload(ImageHandle("img_1"))


# asyncio.


def test_TheAsyncClientHasTheSameCalls(url):
    async def main():
        async with AsyncClient(url) as chord:
            answers = await asyncio.gather(*(chord.ground(FARM, PROMPT) for _ in range(4)))
            assert all(right(answer, BOXES) for answer in answers)
            events = [event async for event in chord.ground_stream(answers[0].image, PROMPT)]
            assert isinstance(events[-1], Completed) and right(events[-1].answer, BOXES)
            handle = await chord.upload(FRUIT, pin=True)
            session = await chord.session(handle)
            assert right(await session.ground(APPLES), APPLE_BOXES)

            async def requests():
                for number in range(5):
                    yield GroundRequest(handle, APPLES, tag=str(number))

            results = [result async for result in chord.ground_batch(requests(), batch_size=2)]
            assert sorted(result.tag for result in results) == list("01234")
            assert all(right(result.unwrap(), APPLE_BOXES) for result in results)
            assert (await chord.touch(handle)).image_id == handle.image_id
            await chord.delete(handle)
            with pytest.raises(ImageNotFoundError):
                await chord.ground(handle, APPLES)
            await chord.wait_until_ready(5)
            assert (await chord.health()).ready

    asyncio.run(main())


def test_CancellingATaskLeavesTheClientUsable(url):
    async def main():
        async with AsyncClient(url) as chord:
            task = asyncio.create_task(chord.ground(FARM, PROMPT))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await chord.ground(FARM, PROMPT)).found

    asyncio.run(main())


def test_PublicMethodsAreTheSameInBothClients():
    def names(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(Client) == names(AsyncClient)
