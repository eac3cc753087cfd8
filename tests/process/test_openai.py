"""The stock OpenAI client against a running server: sync, async, streaming, and what is refused."""

import asyncio
import base64
import json

import openai
import pydantic
import pytest
from chord_server import LEAKS, demo, iou

GOOD, PROMPT, BOXES = next(d for d in demo() if len(d[2]) == 1)
SEVERAL, SEVERAL_PROMPT, _ = next(d for d in demo() if len(d[2]) > 1)
MODEL = "chord-nano"


def data_url(image):
    return "data:image/png;base64," + base64.b64encode(image).decode()


def image_part(image):
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def messages(image=GOOD, prompt=PROMPT):
    return [{"role": "user", "content": [image_part(image), {"type": "text", "text": prompt}]}]


@pytest.fixture
def client(chord):
    return openai.OpenAI(base_url=f"http://{chord.http_address}/v1", api_key="none", max_retries=0)


def complete(client, **fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": messages(), **fields})


def raw(chord, body, path="/v1/chat/completions", method="POST", kind="application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return chord.request(method, path, data, {"Content-Type": kind})


def assert_error(answer, status, code, param=None):
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"].startswith("req_")
    error = answer.json["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert len(error["message"]) > 10 and not LEAKS.search(answer.body.decode())


# --- completions ------------------------------------------------------------------------------------

def test_a_completion_has_the_models_text_and_boxes_in_original_pixels(chord, client):
    answer = complete(client)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert json.loads(choice.message.content)[0]["bbox_2d"]
    assert iou(answer.chord["boxes"][0], BOXES[0]) > 0.7
    over_http = chord.post(GOOD, PROMPT).json
    assert answer.chord["boxes"] == over_http["boxes"] and answer.chord["text"] == over_http["text"]
    usage = answer.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
    assert usage.completion_tokens == answer.chord["usage"]["completion_tokens"]
    assert answer._request_id == answer.chord["request_id"]
    assert answer.id == "chatcmpl-" + answer._request_id.removeprefix("req_")
    assert answer.model == MODEL and answer.object == "chat.completion"


def test_the_async_client_works_at_once_for_many(chord):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"http://{chord.http_address}/v1", api_key="none") as client:
            return await asyncio.gather(*(client.chat.completions.create(model=MODEL, messages=messages()) for _ in range(4)))

    answers = asyncio.run(ask())
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert len({answer.id for answer in answers}) == 4


def streamed(chunks):
    chunks = list(chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, chunks


def test_a_stream_says_the_same_as_the_whole_answer(client):
    whole = complete(client)
    text, chunks = streamed(complete(client, stream=True, stream_options={"include_usage": True}))
    assert text == whole.choices[0].message.content and len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    last, usage = chunks[-2], chunks[-1]
    assert last.choices[0].finish_reason == "stop" and last.chord["boxes"] == whole.chord["boxes"]
    assert usage.choices == [] and usage.usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_ends_with_the_answer(client):
    _, chunks = streamed(complete(client, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[-1].chord["boxes"]


def test_the_async_client_streams(chord):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"http://{chord.http_address}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(model=MODEL, messages=messages(), stream=True)
            return [chunk async for chunk in stream]

    text, chunks = streamed(asyncio.run(ask()))
    assert json.loads(text) and chunks[-1].chord["boxes"]


def test_the_stream_helper_of_the_client_works(client):
    with client.chat.completions.stream(model=MODEL, messages=messages()) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in events and json.loads(final.choices[0].message.content)


def test_closing_a_stream_ends_the_request(chord, client):
    stream = complete(client, messages=messages(SEVERAL, SEVERAL_PROMPT), stream=True)
    next(iter(stream))
    stream.close()
    chord.wait_for(lambda: chord.metric("chord_inflight_requests") == 0)


def test_earlier_turns_and_system_messages_reach_the_model(client):
    first = complete(client)
    conversation = [{"role": "system", "content": "You are a helpful assistant."}, *messages(),
                    {"role": "assistant", "content": first.choices[0].message.content},
                    {"role": "user", "content": PROMPT}]
    second = complete(client, messages=conversation)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + 10
    bare = complete(client, messages=[{"role": "system", "content": ""}, *messages()])
    default = complete(client, messages=[{"role": "system", "content": "You are a helpful assistant."}, *messages()])
    assert bare.usage.prompt_tokens < first.usage.prompt_tokens == default.usage.prompt_tokens


def test_an_image_that_the_service_keeps_need_not_be_sent_again(client):
    first = complete(client)
    kept = [{"type": "image_url", "image_url": {"url": "chord:" + first.chord["image_id"]}}, {"type": "text", "text": PROMPT}]
    second = complete(client, messages=[{"role": "user", "content": kept}])
    assert second.choices[0].message.content == first.choices[0].message.content
    assert second.chord["usage"]["cache"] == "kv" and second.usage.prompt_tokens_details.cached_tokens > 0


# --- parameters -------------------------------------------------------------------------------------

def test_an_answer_ends_at_its_limit(client):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = complete(client, **{name: 5})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 5


def test_an_answer_ends_before_a_stop_sequence(client):
    whole = complete(client).choices[0].message.content
    for stop in ('"label"', ["never written", '"label"']):
        cut = complete(client, stop=stop)
        assert cut.choices[0].message.content == whole[:whole.index('"label"')]
        assert cut.choices[0].finish_reason == "stop"
    text, _ = streamed(complete(client, stop='"label"', stream=True))
    assert text == whole[:whole.index('"label"')]


def test_a_seed_repeats_what_was_drawn(client):
    prompt = messages(prompt="tell me a story")
    draw = lambda seed: complete(client, messages=prompt, temperature=2, top_p=0.99, seed=seed, max_tokens=24).choices[0].message.content
    answers = [draw(seed) for seed in (1, 1, 2, 3, -4)]
    assert answers[0] == answers[1] and len(set(answers)) > 2
    greedy = [complete(client, messages=prompt, max_tokens=24, **more).choices[0].message.content
              for more in ({}, {"temperature": 0, "seed": 5}, {"temperature": 2, "top_p": 0})]
    assert len(set(greedy)) == 1


def test_log_probabilities_tell_of_every_token(client):
    answer = complete(client, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    for token in content:
        assert token.logprob <= 1e-6 and bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) == 3
        tops = [top.logprob for top in token.top_logprobs]
        assert tops == sorted(tops, reverse=True) and tops[0] >= token.logprob - 1e-6
    assert complete(client).choices[0].logprobs is None
    _, chunks = streamed(complete(client, logprobs=True, stream=True))
    tokens = [token for chunk in chunks if chunk.choices and chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in tokens] == [token.token for token in content]


class Item(pydantic.BaseModel):
    bbox_2d: list[int]
    label: str


class Answer(pydantic.BaseModel):
    objects: list[Item]


def test_a_schema_gives_boxes_in_original_pixels(client):
    answer = client.chat.completions.parse(model=MODEL, messages=messages(SEVERAL, SEVERAL_PROMPT), response_format=Answer)
    parsed = answer.choices[0].message.parsed
    assert [item.bbox_2d for item in parsed.objects] == answer.chord["boxes"] and len(parsed.objects) > 1
    assert [item.label for item in parsed.objects] == [found["label"] for found in answer.chord["objects"]]
    with client.chat.completions.stream(model=MODEL, messages=messages(SEVERAL, SEVERAL_PROMPT), response_format=Answer) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


def test_values_that_change_nothing_are_taken(client):
    complete(client, n=1, frequency_penalty=0, presence_penalty=0, user="someone", store=False, service_tier="auto",
             response_format={"type": "text"}, parallel_tool_calls=False)


# --- refusals ---------------------------------------------------------------------------------------

REFUSED = [
    ({"n": 2}, "PARAMETER_UNSUPPORTED", "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "PARAMETER_UNSUPPORTED", "tools"),
    ({"modalities": ["text", "audio"]}, "PARAMETER_UNSUPPORTED", "modalities"),
    ({"logit_bias": {"5": 1}}, "PARAMETER_UNSUPPORTED", "logit_bias"),
    ({"response_format": {"type": "json_object"}}, "PARAMETER_UNSUPPORTED", "response_format.type"),
    ({"temperature": 3}, "PARAMETER_INVALID", "temperature"),
    ({"max_tokens": 100000}, "PARAMETER_INVALID", "max_tokens"),
    ({"extra_body": {"top_k": 3}}, "FIELD_UNKNOWN", "top_k"),
    ({"messages": messages(b"no image")}, "IMAGE_FORMAT_UNKNOWN", "messages"),
    ({"messages": [{"role": "user", "content": "hello"}]}, "IMAGE_MISSING", "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]},
     "PARAMETER_UNSUPPORTED", "messages[0].content[0].type"),
    *(({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}, "IMAGE_URL_REFUSED",
       "messages[0].content[0].image_url.url") for url in ("http://127.0.0.1:1/x.png", "https://x.example/y.png", "file:///etc/passwd")),
]


@pytest.mark.parametrize("fields,code,param", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(client, fields, code, param):
    with pytest.raises(openai.APIStatusError) as error:
        complete(client, **fields)
    assert error.value.status_code in (400, 415) and error.value.request_id.startswith("req_")
    assert (error.value.code, error.value.param, error.value.type) == (code, param, "invalid_request_error")
    with pytest.raises(openai.APIStatusError):  # before its first event a stream has its status too
        list(complete(client, **fields, stream=True))


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        complete(client, model="gpt-4o")
    assert error.value.code == "MODEL_UNKNOWN" and error.value.param == "model"


def test_the_servers_own_refusals_have_the_same_form(chord):
    assert_error(raw(chord, b"{"), 400, "BODY_MALFORMED")
    assert_error(raw(chord, b"[" * 100_000), 400, "BODY_MALFORMED")
    assert_error(raw(chord, {}, kind="text/plain"), 415, "CONTENT_TYPE_UNSUPPORTED")
    assert_error(raw(chord, {}, path="/v1/completions"), 404, "ROUTE_UNKNOWN")
    assert_error(raw(chord, b"", method="GET"), 405, "METHOD_NOT_ALLOWED")
    assert_error(chord.request("GET", "/v1"), 404, "ROUTE_UNKNOWN")
    large = chord.request("POST", "/v1/chat/completions", headers={"Content-Length": str(1 << 40), "Content-Type": "application/json"})
    assert_error(large, 413, "BODY_TOO_LARGE")
    late = chord.request("POST", "/v1/chat/completions", json.dumps({"model": MODEL, "messages": messages()}),
                         {"Content-Type": "application/json", "X-Request-Timeout": "0.001"})
    assert_error(late, 504, "DEADLINE_EXCEEDED")


def test_a_clients_own_id_comes_back(chord, client):
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages(),
                                                              extra_headers={"X-Request-Id": "my-request-17"})
    assert answer.headers["x-client-request-id"] == "my-request-17"
    assert answer.headers["x-request-id"] == answer.parse().chord["request_id"]


# --- models -----------------------------------------------------------------------------------------

def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model.id == MODEL and model.owned_by == "chord" and model.created > 1_600_000_000
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt/4o")
    assert error.value.code == "MODEL_UNKNOWN"


def test_completions_are_counted(chord, client):
    count = lambda: chord.get("/metrics").body.decode().count('method="chat_completions"')
    complete(client)
    assert count() > 0
