"""Images that stay for many prompts, and conversations about them, through real processes."""

import concurrent.futures
import datetime
import http.client
import io
import os
import re
import signal
import time

import grpc
import pytest
from PIL import Image
from chord_server import Chord, Reason, assert_problem, demo, grounding_pb2, images_pb2, images_pb2_grpc, multipart

GOOD, PROMPT, BOXES = next(d for d in demo() if len(d[2]) == 1)


def upload(chord, image, **fields):
    content_type, body = multipart([("image", ("x.png", image)), *fields.items()])
    return chord.request("POST", "/api/images", body, {"Content-Type": content_type})


def images(chord):
    return images_pb2_grpc.ImagesStub(grpc.insecure_channel(chord.grpc_address))


def parts(image, total=None, chunk=100_000, pin=False):
    yield images_pb2.UploadRequest(start=images_pb2.UploadStart(total_bytes=total or len(image), pin=pin))
    for at in range(0, len(image), chunk):
        yield images_pb2.UploadRequest(chunk=image[at:at + chunk])


def ask(chord, image_id, prompt=PROMPT, **fields):
    return chord.post(None, prompt, [("image_id", image_id), *fields.items()])


def png(width, height, pixels):
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(out, "PNG")
    return out.getvalue()


def test_an_uploaded_image_answers_like_the_file(chord):
    answer = upload(chord, GOOD)
    assert answer.status == 200, answer.body
    kept = answer.json
    assert set(kept) == {"image_id", "image_size", "expires_at"}
    assert re.fullmatch(r"img_[0-9a-f]{32}", kept["image_id"])
    expires = datetime.datetime.fromisoformat(kept["expires_at"])
    left = (expires - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    assert 590 < left < 610
    whole = chord.post(GOOD, PROMPT).json
    for _ in range(3):
        answer = ask(chord, kept["image_id"])
        assert answer.status == 200, answer.body
        got = answer.json
        assert got["boxes"] == whole["boxes"] and got["text"] == whole["text"]
        assert got["image_size"] == kept["image_size"] == whole["image_size"]
        assert got["image_id"] == kept["image_id"]
        assert got["usage"]["cache"] in ("none", "embeddings", "kv")


def test_a_first_request_keeps_its_image(chord):
    first = chord.post(GOOD, PROMPT).json
    second = ask(chord, first["image_id"]).json
    assert second["boxes"] == first["boxes"]
    over_grpc = chord.stub().Ground(grounding_pb2.GroundRequest(image_id=first["image_id"], prompt=PROMPT))
    assert [[b.x1, b.y1, b.x2, b.y2] for b in over_grpc.boxes] == first["boxes"]
    assert over_grpc.image_id == first["image_id"]


def test_a_second_request_is_served_by_what_the_worker_kept(chord):
    first = chord.post(GOOD, PROMPT).json
    assert first["usage"]["cache"] == "none"
    second = ask(chord, first["image_id"], "the star").json
    if second["usage"]["cache"] == "none":
        pytest.skip("this language worker keeps nothing of an image")
    assert second["usage"]["cache"] in ("embeddings", "kv")
    assert second["timing"]["vision_ms"] == 0
    assert second["boxes"] == chord.post(GOOD, "the star").json["boxes"]


def test_the_same_file_of_two_clients_shares_nothing(chord):
    one, two = chord.post(GOOD, PROMPT).json, chord.post(GOOD, PROMPT).json
    assert one["image_id"] != two["image_id"]
    assert two["usage"]["cache"] == "none", "the second client's image is not the first's"
    assert upload(chord, GOOD).json["image_id"] not in (one["image_id"], two["image_id"])


def test_images_of_equal_pixels_and_swapped_sides_share_nothing(chord):
    pixels = os.urandom(96 * 64 * 3)
    wide, tall = png(96, 64, pixels), png(64, 96, pixels)
    kept = [upload(chord, image).json for image in (wide, tall)]
    assert [k["image_size"] for k in kept] == [[96, 64], [64, 96]]
    for _ in range(2):
        answers = [ask(chord, k["image_id"], "a").json for k in kept]
        assert [a["image_size"] for a in answers] == [[96, 64], [64, 96]]
        frames = [a["frame"]["resized_size"] for a in answers]
        assert frames[0] == frames[1][::-1] and frames[0] != frames[1]


def test_deleted_and_unknown_images_are_not_found(chord):
    image_id = upload(chord, GOOD).json["image_id"]
    touched = chord.get(f"/api/images/{image_id}")
    assert touched.status == 200 and touched.json["image_id"] == image_id
    answer = chord.request("DELETE", f"/api/images/{image_id}")
    assert answer.status == 204 and answer.body == b""
    assert_problem(chord.request("DELETE", f"/api/images/{image_id}"), 404, "IMAGE_ID_UNKNOWN")
    assert_problem(chord.get(f"/api/images/{image_id}"), 404, "IMAGE_ID_UNKNOWN")
    for unknown in (image_id, "img_" + "0" * 32, "x", "../../etc/passwd"):
        assert_problem(ask(chord, unknown), 404, "IMAGE_ID_UNKNOWN")
    with pytest.raises(grpc.RpcError) as error:
        chord.stub().Ground(grounding_pb2.GroundRequest(image_id=image_id, prompt=PROMPT))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert Reason(error.value).reason == "IMAGE_ID_UNKNOWN"


def test_uploads_that_are_refused_keep_nothing(chord):
    before = chord.metric("chord_image_store_images")
    assert_problem(upload(chord, b"not an image"), 415, "IMAGE_FORMAT_UNKNOWN")
    assert_problem(upload(chord, b""), 400, "IMAGE_EMPTY")
    assert_problem(upload(chord, GOOD, pin="maybe"), 400, "PARAMETER_INVALID")
    assert_problem(upload(chord, GOOD, prompt="x"), 400, "FIELD_UNKNOWN")
    assert_problem(chord.post(GOOD, PROMPT, [("image_id", "img_" + "0" * 32)]), 400, "IMAGE_SOURCE_CONFLICT")
    assert chord.metric("chord_image_store_images") == before


def test_upload_in_chunks(chord):
    stub = images(chord)
    kept = stub.Upload(parts(GOOD, chunk=1000))
    assert kept.image_id.startswith("img_") and kept.image_size.width > 0
    assert kept.expires_at.seconds > time.time() + 500
    answer = ask(chord, kept.image_id).json
    assert answer["boxes"] == chord.post(GOOD, PROMPT).json["boxes"]
    later = stub.Touch(images_pb2.ImageRef(image_id=kept.image_id))
    assert later.expires_at.seconds >= kept.expires_at.seconds
    stub.Delete(images_pb2.ImageRef(image_id=kept.image_id))
    for method in (stub.Touch, stub.Delete):
        with pytest.raises(grpc.RpcError) as error:
            method(images_pb2.ImageRef(image_id=kept.image_id))
        assert Reason(error.value).reason == "IMAGE_ID_UNKNOWN"


@pytest.mark.parametrize("stream,reason", [
    (lambda: iter(()), "UPLOAD_MISMATCH"),
    (lambda: parts(GOOD, total=len(GOOD) + 1), "UPLOAD_MISMATCH"),
    (lambda: parts(GOOD, total=len(GOOD) - 1), "UPLOAD_MISMATCH"),
    (lambda: list(parts(GOOD))[1:], "UPLOAD_MISMATCH"),
    (lambda: [next(parts(GOOD))] * 2, "UPLOAD_MISMATCH"),
    (lambda: parts(b"x" * 3_000_000, chunk=1 << 20), "IMAGE_FORMAT_UNKNOWN"),
    (lambda: parts(b"x" * 3_000_000, chunk=(1 << 20) + 1), "UPLOAD_MISMATCH"),
    (lambda: parts(GOOD, total=1 << 40), "IMAGE_TOO_MANY_BYTES"),
    (lambda: parts(GOOD, total=-1), "IMAGE_EMPTY"),
    (lambda: parts(GOOD[:len(GOOD) // 3]), "IMAGE_CORRUPT"),
])
def test_uploads_in_chunks_that_are_wrong(chord, stream, reason):
    before = chord.metric("chord_image_store_images")
    with pytest.raises(grpc.RpcError) as error:
        images(chord).Upload(iter(stream()))
    assert Reason(error.value).reason == reason
    assert chord.metric("chord_image_store_images") == before


def test_a_conversation_carries_its_earlier_turns(chord):
    image_id = upload(chord, GOOD).json["image_id"]
    alone = ask(chord, image_id).json["usage"]["prompt_tokens"]
    first = ask(chord, image_id, session_id="talk").json
    second = ask(chord, image_id, session_id="talk").json
    third = ask(chord, image_id, session_id="talk").json
    assert first["usage"]["prompt_tokens"] == alone
    assert second["usage"]["prompt_tokens"] > alone
    assert third["usage"]["prompt_tokens"] > second["usage"]["prompt_tokens"]
    other = ask(chord, image_id, session_id="other").json
    assert other["usage"]["prompt_tokens"] == alone
    fresh = ask(chord, upload(chord, GOOD).json["image_id"], session_id="talk").json
    assert fresh["usage"]["prompt_tokens"] == alone, "the same name with another image is another conversation"
    assert_problem(ask(chord, image_id, session_id="no blanks"), 400, "PARAMETER_INVALID")


def test_a_conversation_with_the_file_sent_again_each_time(chord):
    first = chord.post(GOOD, PROMPT, [("session_id", "again")]).json
    second = chord.post(GOOD, PROMPT, [("session_id", "again")]).json
    assert second["image_id"] == first["image_id"]
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_one_request_of_a_conversation_at_a_time(chord):
    image_id = upload(chord, GOOD).json["image_id"]
    language = chord.pid("language")
    os.kill(language, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            held = pool.submit(ask, chord, image_id, session_id="busy")
            chord.wait_for(lambda: (chord.metric("chord_inflight_requests") or 0) >= 1)
            answer = ask(chord, image_id, session_id="busy")
            assert_problem(answer, 409, "SESSION_BUSY")
            os.kill(language, signal.SIGCONT)
            assert held.result(60).status == 200
    finally:
        os.kill(language, signal.SIGCONT)
    assert ask(chord, image_id, session_id="busy").status == 200


def test_the_grammar_can_be_switched_off(chord):
    for grammar in ("off", "auto"):
        answer = chord.post(GOOD, PROMPT, [("grammar", grammar)])
        assert answer.status == 200, answer.body
        assert answer.json["boxes"]


def test_room_is_bounded_and_the_longest_unused_goes():
    one = png(64, 64, os.urandom(64 * 64 * 3))  # about 12 KiB
    with Chord("--gateway-flag", f"image_store_bytes={4 * (len(one) + 1024)}",
               "--gateway-flag", "image_ttl_seconds=600") as chord:
        ids = [upload(chord, one).json["image_id"] for _ in range(4)]
        assert chord.get(f"/api/images/{ids[0]}").status == 200
        upload(chord, one)
        assert chord.get(f"/api/images/{ids[0]}").status == 200
        assert_problem(chord.get(f"/api/images/{ids[1]}"), 404, "IMAGE_ID_UNKNOWN")
        pins = [upload(chord, one, pin="true") for _ in range(3)]
        assert [p.status for p in pins] == [200, 200, 429]
        assert_problem(pins[2], 429, "IMAGE_STORE_FULL")
        assert int(pins[2].headers["Retry-After"]) > 500
        for _ in range(6):
            upload(chord, one)
        assert chord.get(f"/api/images/{pins[0].json['image_id']}").status == 200
        big = png(300, 300, os.urandom(300 * 300 * 3))
        assert_problem(upload(chord, big), 413, "IMAGE_TOO_MANY_BYTES")
        assert chord.metric("chord_image_store_bytes") <= 4 * (len(one) + 1024)
        answer = chord.post(big, PROMPT)
        assert answer.status == 200 and "image_id" not in answer.json


def test_images_expire():
    with Chord("--gateway-flag", "image_ttl_seconds=1.5") as chord:
        image_id = upload(chord, GOOD).json["image_id"]
        assert ask(chord, image_id).status == 200
        chord.wait_for(lambda: chord.metric("chord_image_store_images") == 0, 10)
        assert_problem(ask(chord, image_id), 404, "IMAGE_ID_UNKNOWN")
        assert chord.metric('chord_image_store_bytes') == 0


def test_a_restarted_language_worker_is_noticed(chord):
    first = chord.post(GOOD, PROMPT).json
    assert ask(chord, first["image_id"]).status == 200
    victim = chord.pid("language")
    os.kill(victim, signal.SIGKILL)
    chord.wait_for(lambda: chord.pid("language") not in (None, victim))
    answer = ask(chord, first["image_id"])
    assert answer.status == 200, answer.body
    assert answer.json["boxes"] == first["boxes"] and answer.json["usage"]["cache"] == "none"
