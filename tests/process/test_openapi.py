"""/openapi.json is true: the docs name the same routes, what the server answers keeps its schemas, and
no request that is made from them, good or bad, is a fault of the server."""

import json
import re

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from chord_server import ROOT, demo, multipart
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (content_type_conformance, response_headers_conformance,
                                               response_schema_conformance, status_code_conformance)
from test_openai import MODEL, data_url, messages

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)
DOCUMENT = json.loads((ROOT / "web" / "openapi.json").read_text())
METHODS = {"get", "post", "delete"}


def routes_of_document():
    return {(method.upper(), re.sub(r"{\w+}", "{}", path)) for path, item in DOCUMENT["paths"].items() for method in item if method in METHODS}


def routes_of_docs():
    """Of the tables of routes: cells such as `POST /api/ground`, or `/readyz` after a `GET /healthz`."""
    found = set()
    for name in ("http_api.md", "openai_api.md"):
        for line in (ROOT / "docs" / name).read_text().splitlines():
            if not line.startswith("|"):
                continue
            for method, path in re.findall(r"`(?:(GET|POST|DELETE) )?(/[\w./{}]*)`", line.split("|")[1]):
                found.add((method or "GET", re.sub(r"{\w+}", "{}", path)))
    return found


def test_the_docs_name_the_same_routes():
    documented = routes_of_document()
    assert routes_of_docs() == documented


def test_the_server_serves_the_document(chord):
    answer = chord.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json" and answer.json == DOCUMENT


def validator(name):
    return jsonschema_rs.Draft202012Validator({**DOCUMENT["components"]["schemas"][name], "components": DOCUMENT["components"]})


def post(chord, path, body, headers=()):
    return chord.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **dict(headers)})


def events(answer):
    return [line.removeprefix("data: ") for line in answer.body.decode().splitlines() if line.startswith("data: ")]


def test_real_answers_keep_their_schemas(chord):
    ask = {"image": data_url(GOOD), "prompt": PROMPT}
    validator("GroundRequest").validate(ask)
    answer = post(chord, "/api/ground", ask)
    assert answer.status == 200
    validator("Answer").validate(answer.json)
    form, body = multipart([("image", ("a.png", GOOD)), ("labels", "tractor"), ("labels", "cow")])
    by_label = chord.request("POST", "/api/ground", body, {"Content-Type": form})
    validator("Answer").validate(by_label.json)
    assert [match["label"] for match in by_label.json["labels"]] == ["tractor", "cow"]
    batch = {"requests": [{**ask, "tag": "a"}, {"prompt": "x"}, {"image": ask["image"], "labels": ["cow"]}]}
    validator("BatchRequest").validate(batch)
    answer = post(chord, "/api/ground/batch", batch)
    validator("BatchAnswer").validate(answer.json)
    assert [sorted(result)[0] for result in answer.json["results"]] == ["index", "error", "index"]
    upload = post(chord, "/api/images", {"image": data_url(GOOD)})
    validator("StoredImage").validate(upload.json)
    validator("Problem").validate(chord.get("/nowhere").json)


def test_real_completions_keep_their_schemas(chord):
    whole = {"model": MODEL, "messages": messages(), "logprobs": True, "top_logprobs": 2}
    validator("ChatRequest").validate(whole)
    answer = post(chord, "/v1/chat/completions", whole)
    assert answer.status == 200
    validator("ChatCompletion").validate(answer.json)
    *chunks, done = events(post(chord, "/v1/chat/completions", {**whole, "stream": True, "stream_options": {"include_usage": True}}))
    assert done == "[DONE]"
    for chunk in chunks:
        validator("ChatCompletionChunk").validate(json.loads(chunk))
    validator("ModelList").validate(chord.get("/v1/models").json)
    validator("OpenAiError").validate(chord.get("/v1/nowhere").json)


@pytest.mark.parametrize("body", [{"prompt": PROMPT}, {"image": data_url(GOOD)}, {"image": "http://x", "prompt": PROMPT},
                                  {"image": data_url(GOOD), "prompt": PROMPT, "labels": ["a"]},
                                  {"image": data_url(GOOD), "labels": []}, {"image": data_url(GOOD), "prompt": PROMPT, "max_new_tokens": 0}])
def test_what_the_schema_forbids_is_refused(chord, body):
    assert not validator("GroundRequest").is_valid(body)
    assert post(chord, "/api/ground", body).status == 400


schema = schemathesis.openapi.from_dict(DOCUMENT)


@schema.parametrize()
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
def test_generated_requests_find_no_fault(case, chord):
    if case.headers is not None:
        case.headers.pop("X-Request-Timeout", None)  # a millisecond would rightly be 504
    case.call_and_validate(base_url=f"http://{chord.http_address}",
                           checks=[not_a_server_error, status_code_conformance, content_type_conformance,
                                   response_headers_conformance, response_schema_conformance])
