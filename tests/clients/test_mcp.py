"""`chord mcp` with the stock Python SDK as its host, and line by line where the SDK has no say."""

import asyncio
import base64
import io
import json
import subprocess

import jsonschema
import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client
from PIL import Image as PilImage

from chord_server import BIN, ROOT, demo, iou

DEMO = ROOT / "demo"
FARM, PROMPT, BOXES = demo()[0]
GREEN = (0, 255, 0)


def session(server, work, *flags, mode="auto", endpoint="grpc"):
    """Runs `work(client)` with a server process of its own."""
    address = ["--server", server.grpc_address] if endpoint == "grpc" else ["--http", server.http_address]

    async def main():
        parameters = StdioServerParameters(command=str(BIN / "chord"), args=["mcp", *address, *flags])
        async with Client(parameters, mode=mode, read_timeout_seconds=60) as client:
            return await work(client)

    return asyncio.run(main())


def image_of(result):
    (content,) = (item for item in result.content if item.type == "image")
    assert content.mime_type == "image/png"
    return PilImage.open(io.BytesIO(base64.b64decode(content.data))).convert("RGB")


def text_of(result):
    (content,) = (item for item in result.content if item.type == "text")
    return content.text


# With the SDK.


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_OffersItsToolsWithSchemas(server, mode):
    async def work(client):
        assert client.server_info.name == "chord" and "locate" in client.instructions
        return (await client.list_tools()).tools

    tools = session(server, work, mode=mode)
    assert [tool.name for tool in tools] == ["locate", "annotate", "zoom"]
    for tool in tools:
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        assert tool.annotations.read_only_hint and tool.title and len(tool.description) > 50


@pytest.mark.parametrize("endpoint", ["grpc", "http"])
@pytest.mark.parametrize("source", ["path", "data", "url"])
def test_LocateAnswersInOriginalPixels(server, endpoint, source):
    encoded = base64.b64encode(FARM).decode()
    image = {"path": {"path": str(DEMO / "farm.png")}, "data": {"data": encoded},
             "url": {"data": f"data:image/png;base64,{encoded}"}}[source]

    async def work(client):
        return await client.call_tool("locate", {**image, "prompt": PROMPT})

    result = session(server, work, endpoint=endpoint)
    found = result.structured_content
    assert not result.is_error and json.loads(text_of(result)) == found
    assert found["found"] and found["image_size"] == [560, 420] and found["model"] == "chord-nano"
    (thing,) = found["objects"]
    assert thing["label"] == "tractor" and iou(thing["box"], BOXES[0]) > 0.7 and not thing["needs_review"]


def test_LocateSaysThatAThingIsNotThere(server):
    async def work(client):
        return await client.call_tool("locate", {"path": str(DEMO / "music.png"), "prompt": "图中的自行车"})

    found = session(server, work).structured_content
    assert found["found"] is False and found["objects"] == [] and found["confidence"] > 0.5


def test_AnnotateDrawsWhatItFinds(server):
    async def work(client):
        return await client.call_tool("annotate", {"path": str(DEMO / "farm.png"), "prompt": PROMPT})

    result = session(server, work)
    image, found = image_of(result), result.structured_content
    assert image.size == (560, 420) and found["shown_size"] == [560, 420]
    x1, y1, x2, y2 = found["objects"][0]["box"]
    assert image.getpixel((x1, (y1 + y2) // 2)) == GREEN and image.getpixel(((x1 + x2) // 2, y2)) == GREEN


def test_AnnotateDrawsGivenBoxesOnASmallerCopy(server):
    async def work(client):
        return await client.call_tool("annotate", {
            "path": str(DEMO / "farm.png"), "boxes": [{"box": [100, 100, 300, 300], "label": "here"}], "max_side": 280})

    result = session(server, work)
    assert image_of(result).size == (280, 210)
    assert result.structured_content["objects"] == [{"label": "here", "box": [100, 100, 300, 300]}]


def test_ZoomShowsThePartEnlarged(server):
    async def work(client):
        by_box = await client.call_tool("zoom", {
            "path": str(DEMO / "farm.png"), "box": [265, 227, 426, 356], "margin": 0, "max_side": 322})
        by_prompt = await client.call_tool("zoom", {"path": str(DEMO / "farm.png"), "prompt": PROMPT})
        absent = await client.call_tool("zoom", {"path": str(DEMO / "music.png"), "prompt": "图中的自行车"})
        return by_box, by_prompt, absent

    by_box, by_prompt, absent = session(server, work)
    assert by_box.structured_content["region"] == [265, 227, 426, 356]
    assert image_of(by_box).size == (322, 258)
    with PilImage.open(io.BytesIO(FARM)) as whole:
        part = whole.convert("RGB").crop((265, 227, 426, 356)).resize((322, 258), PilImage.Resampling.BICUBIC)
    ours, theirs = image_of(by_box).tobytes(), part.tobytes()
    assert sum(abs(a - b) for a, b in zip(ours, theirs)) / len(ours) < 2
    found = by_prompt.structured_content
    assert found["object"]["label"] == "tractor" and max(found["shown_size"]) == 1024
    x1, y1, x2, y2 = found["region"]
    assert x1 < 266 and y1 < 228 and x2 > 425 and y2 > 355
    assert not absent.is_error and absent.structured_content["found"] is False
    assert [content.type for content in absent.content] == ["text"]


BAD = [
    ("locate", {"prompt": "a cat"}, "PARAMETER_INVALID"),
    ("locate", {"path": "a", "data": "b", "prompt": "a cat"}, "PARAMETER_INVALID"),
    ("locate", {"data": "not base64!", "prompt": "a cat"}, "PARAMETER_INVALID"),
    ("locate", {"data": "data:image/png,raw", "prompt": "a cat"}, "PARAMETER_INVALID"),
    ("locate", {"data": "https://example.org/a.png", "prompt": "a cat"}, "IMAGE_URL_REFUSED"),
    ("locate", {"data": base64.b64encode(b"GIF89a").decode(), "prompt": "a cat"}, "IMAGE_FORMAT_UNSUPPORTED"),
    ("locate", {"path": str(DEMO / "farm.png"), "prompt": ""}, "PARAMETER_INVALID"),
    ("locate", {"path": str(DEMO / "farm.png"), "prompt": 7}, "PARAMETER_INVALID"),
    ("locate", {"path": str(DEMO / "farm.png"), "prompt": "x" * 5000}, "PROMPT_TOO_LONG"),
    ("locate", {"path": str(DEMO / "farm.png"), "prompt": "x", "more": 1}, "PARAMETER_INVALID"),
    ("locate", {"path": str(DEMO), "prompt": "a cat"}, "CONFIG_INVALID"),
    ("annotate", {"path": str(DEMO / "farm.png")}, "PARAMETER_INVALID"),
    ("annotate", {"path": str(DEMO / "farm.png"), "boxes": []}, "PARAMETER_INVALID"),
    ("annotate", {"path": str(DEMO / "farm.png"), "boxes": [{"box": [5, 5, 5, 9]}]}, "PARAMETER_INVALID"),
    ("annotate", {"path": str(DEMO / "farm.png"), "boxes": [{"box": [900, 5, 999, 9]}]}, "PARAMETER_INVALID"),
    ("annotate", {"path": str(DEMO / "farm.png"), "boxes": [{"box": [0, 0, 9, 9]}], "max_side": 1e9}, "PARAMETER_INVALID"),
    ("zoom", {"path": str(DEMO / "farm.png"), "box": [0, 0, 9]}, "PARAMETER_INVALID"),
    ("zoom", {"path": str(DEMO / "farm.png"), "box": [0, 0, 9, 9], "margin": -1}, "PARAMETER_INVALID"),
    ("zoom", {"path": str(DEMO / "farm.png"), "box": [0, 0, 9, 9], "prompt": "a cat"}, "PARAMETER_INVALID")]


def test_WrongArgumentsAreResultsThatTheModelCanRead(server):
    async def work(client):
        return [await client.call_tool(name, arguments) for name, arguments, _ in BAD]

    for result, (name, arguments, reason) in zip(session(server, work), BAD):
        assert result.is_error, (name, arguments)
        assert text_of(result).startswith(reason + ": "), (name, arguments, text_of(result))


def test_FilesOutsideTheRootAreRefusedAlike(server, tmp_path):
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    (root / "below" / "farm.png").write_bytes(FARM)
    (tmp_path / "secret.png").write_bytes(FARM)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to(root / "below" / "farm.png")
    good = ["below/farm.png", "inside.png", str(root / "below" / "farm.png"), "./below/../below/farm.png"]
    bad = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "/does/not/exist", "../absent.png",
           str(root) + "-other/a.png", "below/farm.png\0.txt"]

    async def work(client):
        return [[await client.call_tool("locate", {"path": path, "prompt": PROMPT}) for path in paths]
                for paths in (good, bad)]

    right, wrong = session(server, work, "--root", str(root))
    assert all(result.structured_content["found"] for result in right)
    texts = {text_of(result) for result in wrong[:-1]}
    assert len(texts) == 1 and texts.pop().startswith("PARAMETER_INVALID") and wrong[-1].is_error


def test_CallsRunBesideEachOther(server):
    async def work(client):
        calls = (client.call_tool("locate", {"path": str(DEMO / "farm.png"), "prompt": PROMPT}) for _ in range(8))
        return await asyncio.gather(*calls)

    assert all(result.structured_content["found"] for result in session(server, work))


def test_WithoutAServerEveryCallSaysSo():
    async def main():
        parameters = StdioServerParameters(command=str(BIN / "chord"), args=["mcp", "--server", "127.0.0.1:1"])
        async with Client(parameters, read_timeout_seconds=60) as client:
            return await client.call_tool("locate", {"path": str(DEMO / "farm.png"), "prompt": PROMPT})

    result = asyncio.run(main())
    assert result.is_error and "chord serve" in text_of(result)


# Line by line.


def exchange(server, *lines, code=0):
    """The messages that come back for these lines (objects, or text as it is); the input ends after them."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    done = subprocess.run([BIN / "chord", "mcp", "--server", server.grpc_address], input=text, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def initialize(version, id=1):
    return {"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}}


def call(id, arguments=None, name="locate"):
    arguments = arguments or {"path": str(DEMO / "farm.png"), "prompt": PROMPT}
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_EveryProtocolVersionHasWhatItKnows(server, version):
    started, listed, called = exchange(server, initialize(version), LIST, call(3))
    assert started["result"]["protocolVersion"] == version
    tool = listed["result"]["tools"][0]
    assert ("annotations" in tool) == (version >= "2025-03-26")
    assert ("outputSchema" in tool) == ("title" in tool) == (version >= "2025-06-18")
    assert ("structuredContent" in called["result"]) == (version >= "2025-06-18")
    assert json.loads(called["result"]["content"][0]["text"])["found"]


def test_AnUnknownVersionIsAnsweredWithOurs(server):
    (started,) = exchange(server, initialize("2031-01-01"))
    assert started["result"]["protocolVersion"] == "2025-11-25"


def test_WhatIsNoRequestIsAnsweredAsJsonRpcSays(server):
    lines = [("{", -32700), ("[1,", -32700), ("nonsense", -32700), ("[" * 100 + "]" * 100, -32700), ("7", -32600),
             ("[]", -32600), ({"id": 1, "method": "ping"}, -32600), ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
             ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, -32600), ({"jsonrpc": "2.0", "id": 1, "method": 7}, -32600),
             ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, -32601), (LIST, -32002), (call(5), -32002),
             ({"jsonrpc": "2.0", "id": 1, "method": "initialize"}, -32602)]
    answers = exchange(server, *(line for line, _ in lines))
    assert [answer["error"]["code"] for answer in answers] == [code for _, code in lines]


def test_NotificationsAnswersAndBlankLinesHaveNoAnswer(server):
    answers = exchange(server, initialize("2025-06-18"), {"jsonrpc": "2.0", "method": "notifications/initialized"},
                       {"jsonrpc": "2.0", "method": "notifications/unknown"}, {"jsonrpc": "2.0", "id": 9, "result": {}},
                       "", "  ", {"jsonrpc": "2.0", "id": "p", "method": "ping"})
    assert [answer["id"] for answer in answers] == [1, "p"]


def test_AnUnknownToolIsAnError(server):
    answers = exchange(server, initialize("2025-06-18"), call(2, name="erase"))
    assert answers[1]["error"]["code"] == -32602


def test_ACancelledCallHasNoAnswer(server):
    answers = exchange(server, initialize("2025-06-18"), call("cancelled"),
                       {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "cancelled"}},
                       call("stays"), {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}})
    assert {answer["id"] for answer in answers} == {1, "stays"}


def test_PingIsAnsweredWhileACallRuns(server):
    answers = exchange(server, initialize("2025-06-18"), call(2), {"jsonrpc": "2.0", "id": 3, "method": "ping"})
    assert [answer["id"] for answer in answers] == [1, 3, 2]


def test_TooManyCallsAreRefusedAndTheOthersAnswered(server):
    answers = exchange(server, initialize("2025-06-18"), *(call(number) for number in range(100, 140)))
    answered = [answer for answer in answers[1:] if "result" in answer]
    refused = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert len(answered) + len(refused) == 40 and len(answered) >= 16 and set(refused) == {-32000}
    assert all(not answer["result"].get("isError") for answer in answered)


def test_BatchesAreForTheVersionThatHasThem(server):
    batch = json.dumps([{"jsonrpc": "2.0", "id": 4, "method": "ping"}, {"jsonrpc": "2.0", "method": "notifications/x"}, call(5)])
    started, together = exchange(server, initialize("2025-03-26"), batch)
    assert sorted(answer["id"] for answer in together) == [4, 5]
    for version in ("2024-11-05", "2025-06-18"):
        started, refused = exchange(server, initialize(version), batch)
        assert refused["error"]["code"] == -32600


def test_ALineThatIsTooLongIsSkipped(server):
    answers = exchange(server, initialize("2025-06-18"), '{"x":"' + "y" * (40 << 20) + '"}',
                       {"jsonrpc": "2.0", "id": 2, "method": "ping"})
    assert answers[1]["error"]["code"] == -32700 and "bytes" in answers[1]["error"]["message"]
    assert answers[2]["id"] == 2


def test_WrongCommandLinesAreRefused(server, tmp_path):
    for flags in (["--root", str(tmp_path / "absent")], ["--server", "nowhere"], ["x"], ["--timeout", "0"],
                  ["--server", "127.0.0.1:1", "--http", "127.0.0.1:1"]):
        done = subprocess.run([BIN / "chord", "mcp", *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=30)
        assert done.returncode == 2 and done.stderr.startswith("chord mcp: ") and not done.stdout, flags
