"""The parts that decide without a server."""

import io
import json
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image as PilImage

import chord_client
from chord_client import (Answer, Box, ChordError, Code, ConnectionFailedError, Image, ImageError, InvalidRequestError,
                          NotFoundError, OverloadedError, PromptError, ProtocolError, RetryPolicy, Tls, UnavailableError)
from chord_client._config import parse_endpoint
from chord_client._http import _error_of, _error_of_problem
from chord_client._request import resolve, waves
from chord_client._sse import SseParser
from chord_client.errors import make_error
from chord_client.retry import Attempts, RetryBudget
from chord_client.types import GroundRequest, ImageHandle

ANSWER = {
    "text": "cup <box>(1,2),(3,4)</box>", "boxes": [[1, 2, 3, 4]],
    "objects": [{"label": "cup", "box": [1, 2, 3, 4], "confidence": 0.5, "needs_review": True}],
    "points": [{"label": "lid", "point": [5, 6], "confidence": 0.25}],
    "labels": [{"label": "cup", "objects": [0]}, {"label": "plate", "objects": []}],
    "image_size": [10, 20], "confidence": 0.5, "calibrated": True, "advice": "Name a thing.",
    "frame": {"resized_size": [28, 56], "scale": [0.4, 0.4], "orientation": 6,
              "tiles": [{"box": [0, 0, 5, 5], "resized_size": [28, 28]}]},
    "usage": {"prompt_tokens": 5, "completion_tokens": 4, "decode_steps": 3, "image_tokens": 2, "cache": "kv"},
    "timing": {"queue_ms": 0.5, "vision_ms": 1.5, "prefill_ms": 2.5, "ttft_ms": 3.5, "decode_ms": 4.5, "total_ms": 5.5},
    "finish_reason": "length", "request_id": "req_1", "model": "m", "image_id": "img_1"}


# Answers.


def test_AnAnswerIsTheJsonOfTheServerAndBack():
    assert Answer.from_dict(ANSWER).to_dict() == ANSWER


def test_UnknownFieldsOfLaterServersAreIgnored():
    assert Answer.from_dict({**ANSWER, "masks": [[1, 2]]}) == Answer.from_dict(ANSWER)


def test_AnswersOfServersWithoutPointsAndLabelsAreRead():
    older = {name: value for name, value in ANSWER.items() if name not in ("points", "labels")}
    answer = Answer.from_dict(older)
    assert answer.points == () and answer.labels == () and answer.by_label == {}


def test_ObjectsAreFoundByTheLabelsOfTheRequest():
    answer = Answer.from_dict(ANSWER)
    assert answer.by_label == {"cup": answer.objects, "plate": ()}
    assert answer.points[0].x == 5 and answer.points[0].y == 6


@pytest.mark.parametrize("change", [
    {"objects": [{"label": "cup", "box": [3, 2, 1, 4], "confidence": 1, "needs_review": False}]},
    {"objects": [{"label": "cup", "box": [1, 2, 3.5, 4], "confidence": 1, "needs_review": False}]},
    {"labels": [{"label": "cup", "objects": [1]}]}, {"points": [{"label": "cup", "point": [1], "confidence": 1}]},
    {"objects": None}, {"image_size": [1]}, {"confidence": "high"}, {"frame": {}}])
def test_AnAnswerThatIsNoneIsRefused(change):
    with pytest.raises(ProtocolError):
        Answer.from_dict({**ANSWER, **change})


def test_OverlapOfBoxes():
    assert Box(0, 0, 2, 2).iou(Box(1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert Box(0, 0, 2, 2).iou(Box(2, 0, 4, 2)) == 0


# Errors.


@pytest.mark.parametrize("status, problem, kind, code", [
    (415, {"code": "IMAGE_FORMAT_UNKNOWN", "detail": "d"}, ImageError, Code.INVALID_ARGUMENT),
    (400, {"code": "PROMPT_EMPTY", "detail": "d"}, PromptError, Code.INVALID_ARGUMENT),
    (400, {"code": "FIELD_UNKNOWN", "detail": "d"}, InvalidRequestError, Code.INVALID_ARGUMENT),
    (429, {"code": "OVERLOADED", "detail": "d"}, OverloadedError, Code.RESOURCE_EXHAUSTED),
    (503, {"code": "DEVICE_MEMORY", "detail": "d"}, OverloadedError, Code.RESOURCE_EXHAUSTED),
    (503, {}, UnavailableError, Code.UNAVAILABLE),
    (418, {}, InvalidRequestError, Code.INVALID_ARGUMENT)])
def test_ProblemsBecomeErrorsOfTheirClass(status, problem, kind, code):
    error = _error_of_problem({**problem, "request_id": "req_9"}, status, {})
    assert type(error) is kind and error.code is code and error.request_id == "req_9"
    assert error.reason == problem.get("code", "")


def test_ErrorsOfTheOpenAiRoutesAreReadToo():
    envelope = {"error": {"message": "No such model.", "type": "invalid_request_error", "param": "model", "code": "MODEL_UNKNOWN"}}
    error = _error_of(httpx.Response(404, json=envelope, headers={"x-request-id": "req_9"}))
    assert type(error) is NotFoundError and error.reason == "MODEL_UNKNOWN" and error.request_id == "req_9"
    assert error.message == "No such model."
    assert type(_error_of(httpx.Response(502, text="<html>"))) is UnavailableError


def test_AdviceComesFromTheBodyThenFromTheHeader():
    body = {"code": "OVERLOADED", "retry_after_seconds": 0.25}
    assert _error_of_problem(body, 429, {"retry-after": "1"}).retry_after == 0.25
    assert _error_of_problem({}, 429, {"retry-after": "3"}).retry_after == 3
    assert _error_of_problem({}, 429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}).retry_after is None


def test_TheServersWordOnRetryingIsTheLast():
    assert _error_of_problem({"code": "INTERNAL", "retryable": True}, 500, {}).retryable
    assert not _error_of_problem({"code": "OVERLOADED", "retryable": False}, 429, {}).retryable


# Retries.


def attempts(repeatable=True, **policy):
    chosen = RetryPolicy(**policy)
    return Attempts(chosen, RetryBudget(chosen), repeatable=repeatable)


def overloaded(retry_after=None):
    return make_error(Code.RESOURCE_EXHAUSTED, "full", reason="OVERLOADED", retry_after=retry_after)


def test_TheAdvisedTimeIsWaited():
    wait = attempts().delay(overloaded(2.0), remaining=60)
    assert 2.0 <= wait <= 2.2


def test_WithoutAdviceTheWaitGrowsToItsBound():
    tries = attempts(max_attempts=20, initial_backoff=1, max_backoff=4, budget=100)
    waits = [tries.delay(overloaded(), remaining=1000) for _ in range(10)]
    assert waits[0] <= 1 and waits[1] <= 2 and max(waits) <= 4


def test_AttemptsAreCounted():
    tries = attempts(max_attempts=3)
    assert [tries.delay(overloaded(), 60) is None for _ in range(3)] == [False, False, True]
    assert attempts(max_attempts=1).delay(overloaded(), 60) is None


def test_AWaitBeyondTheDeadlineIsNotBegun():
    assert attempts().delay(overloaded(5.0), remaining=4.9) is None


@pytest.mark.parametrize("reason", ["IMAGE_CORRUPT", "PROMPT_EMPTY", "INTERNAL", "CONTEXT_TOO_LONG"])
def test_WhatStaysWrongIsNotSentAgain(reason):
    assert attempts().delay(make_error(Code.INVALID_ARGUMENT, "d", reason=reason), 60) is None


def test_ATurnOfASessionIsNotSentTwiceWhenItMayHaveArrived():
    broken = ConnectionFailedError("broke")
    refused = ConnectionFailedError("no server", delivered=False)
    assert attempts(repeatable=False).delay(broken, 60) is None
    assert attempts(repeatable=False).delay(refused, 60) is not None
    assert attempts(repeatable=False).delay(overloaded(), 60) is not None
    assert attempts(repeatable=True).delay(broken, 60) is not None


def test_TheBudgetIsSharedAndRefilledBySuccess():
    policy = RetryPolicy(budget=2, budget_refill=0.5, max_attempts=100)
    budget = RetryBudget(policy)
    tries = Attempts(policy, budget, repeatable=True)
    assert [tries.delay(overloaded(), 60) is None for _ in range(3)] == [False, False, True]
    budget.succeeded()
    assert tries.delay(overloaded(), 60) is None
    budget.succeeded()
    assert tries.delay(overloaded(), 60) is not None


# Events.


STREAM = ('event: delta\ndata: {"text":"红"}\n\n' ': comment\nevent: result\r\ndata: a\r\ndata: b\r\n\r\n' "data: x\n\n").encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_EventsAreTheSameWhereverTheBytesAreCut(size):
    parser = SseParser(1000)
    found = [event for at in range(0, len(STREAM), size) for event in parser.feed(STREAM[at:at + size])]
    assert found == [("delta", '{"text":"红"}'), ("result", "a\nb"), ("message", "x")]


def test_AnEventWithoutEndIsRefused():
    parser = SseParser(1000)
    with pytest.raises(ProtocolError):
        for _ in range(100):
            list(parser.feed(b"data: xxxxxxxxxxxxxxxx"))


# Addresses.


def test_Addresses():
    assert parse_endpoint("http://h:80/chord").base_url == "http://h:80/chord/"
    assert parse_endpoint("grpc://[::1]:50051").target == "[::1]:50051"
    assert parse_endpoint("unix:/run/chord.sock").target == "unix:/run/chord.sock"
    assert parse_endpoint("grpcs://h:443", tls=Tls()).secure
    assert parse_endpoint("http://h", api_key="k").metadata == {"authorization": "Bearer k"}


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://h", "grpc://h", "grpc://h:1/x", "http://", "unix:", "http://h?x"])
def test_WhatIsNoAddressIsRefusedWithAdvice(url):
    with pytest.raises(ValueError):
        parse_endpoint(url)


# Images.


def pixels(image):
    return np.asarray(image.to_pil())


def image_file(format, **options):
    out = io.BytesIO()
    PilImage.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3).save(out, format, **options)
    return out.getvalue()


def test_AnImageComesFromAnything(tmp_path):
    data = image_file("PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with open(path, "rb") as file:
        sources = [data, bytearray(data), memoryview(data), path, str(path), io.BytesIO(data), file, Image(data)]
        assert all(Image.of(source).data == data for source in sources)
    assert Image.of(path).name == "a.png" and Image.of(path).mime_type == "image/png"
    assert Image.from_base64(Image(data).to_data_url()).data == data
    opened = PilImage.open(path)
    assert (pixels(Image.of(opened)) == np.asarray(opened)).all()
    array = np.asarray(opened)
    assert (pixels(Image.of(array)) == array).all()
    assert (pixels(Image.from_numpy(array[:, :, ::-1], bgr=True)) == array).all()
    assert (pixels(Image.of(array[:, :, 0])) == array[:, :, [0, 0, 0]]).all()


def test_ExifIsAppliedOnce():
    exif = PilImage.Exif()
    exif[0x0112] = 6
    data = image_file("JPEG", exif=exif)
    assert Image(data).to_pil().size == (4, 6)
    assert Image.of(PilImage.open(io.BytesIO(data))).to_pil().size == (4, 6)


def test_AlphaIsComposedOnWhite():
    clear = PilImage.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert (pixels(Image.of(clear)) == 255).all()


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), np.zeros((2,), np.uint8), np.zeros((0, 2, 3), np.uint8)])
def test_ArraysThatAreNoImageAreRefused(array):
    with pytest.raises(ImageError):
        Image.of(array)


def test_RefusesWhatNoServerTakes():
    with pytest.raises(ImageError):
        Image(b"")
    with pytest.raises(ImageError):
        Image.from_base64("not base64!")
    with pytest.raises(TypeError):
        Image.of(7)
    with pytest.raises(OSError):
        Image.of("/does/not/exist.jpg")


def test_AUrlIsAPathThatDoesNotExistAndIsNeverFetched():
    with pytest.raises(OSError):
        Image.of("http://127.0.0.1:1/a.jpg")


# Batches.


def test_WavesReadNoFurtherThanTheyMust():
    read = []

    def items():
        for index in range(10):
            read.append(index)
            yield GroundRequest(ImageHandle(f"img_{index}"), "p", tag=str(index))

    first = next(waves(items(), 4))
    assert [index for index, _ in first] == [0, 1, 2, 3] and len(read) == 5


def test_WavesAreBoundedByBytes():
    big = bytes(30 << 20)
    sizes = [len(wave) for wave in waves((GroundRequest(big, "p") for _ in range(3)), 16)]
    assert sizes == [1, 1, 1]


def test_AnImageThatIsRefusedHereSpoilsItsRequestAlone():
    (wave,) = waves([GroundRequest(b"", "p"), GroundRequest(b"x", "p")], 16)
    assert isinstance(wave[0][1].rejected, ChordError) and wave[1][1].rejected is None


@pytest.mark.parametrize("prompt, labels", [(None, ()), ("a cat", ("cat",))])
def test_ARequestHasEitherAPromptOrLabels(prompt, labels):
    with pytest.raises(ValueError):
        resolve(b"x", prompt, labels=labels)
    with pytest.raises(TypeError):
        resolve(b"x", None, labels="cat")


def test_AGrammarThatIsNoneIsRefused():
    with pytest.raises(ValueError):
        resolve(b"x", "p", grammar="strict")


# Isolation.


COLLIDE = """
from google.protobuf import descriptor_pb2, descriptor_pool
pool = descriptor_pool.Default()
for name, package in (("google/rpc/status.proto", "google.rpc"), ("chord/v1/grounding.proto", "chord.v1")):
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package)
    file.message_type.add(name="Status" if "rpc" in name else "GroundRequest").field.add(
        name="other", number=1, type=9, label=1)
    pool.AddSerializedFile(file.SerializeToString())
import chord_client
from chord_client._proto import grounding_pb2
assert "prompt" in grounding_pb2.GroundRequest.DESCRIPTOR.fields_by_name
"""


def test_OtherDefinitionsOfTheSameNamesDoNotCollide():
    subprocess.run([sys.executable, "-c", COLLIDE], check=True, timeout=60)


def test_WithoutTheExtrasEverythingElseWorks():
    """The environment that has the required dependencies alone."""
    python = minimal_python()
    code = ("import chord_client, importlib.util as u\n"
            "assert u.find_spec('PIL') is None and u.find_spec('numpy') is None\n"
            "print(chord_client.Image(b'\\xff\\xd8\\xff').mime_type, chord_client.Client().health(timeout=0.5).live)\n"
            "from chord_client.export import Dataset\n")
    done = subprocess.run([python, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith("image/jpeg")


def minimal_python():
    import pathlib
    return str(pathlib.Path(sys.prefix).parent / "minimal" / "bin" / "python")


def test_TheVersionIsThatOfTheProject():
    import pathlib
    text = (pathlib.Path(__file__).resolve().parents[2] / "CMakeLists.txt").read_text()
    assert f"project(chord VERSION {chord_client.__version__} " in text
    assert json.dumps(chord_client.__all__) == json.dumps(sorted(chord_client.__all__))
