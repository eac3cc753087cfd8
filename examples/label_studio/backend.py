"""A Label Studio ML backend: pre-annotates images with boxes by Chord.

    python backend.py --chord http://127.0.0.1:8080 --label-studio http://127.0.0.1:8082 --token TOKEN

Label Studio (Settings > Model > Connect Model) is given this server's address. Every <Label> of the
project's <RectangleLabels> becomes a prompt, "all VALUE"; predicted_values="..." on a Label gives the
prompt in words of your own.

Images are read from Label Studio itself (with the token), from its local files below --local-files, and
from data: URLs; other addresses in tasks are not fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from xml.etree import ElementTree

import httpx
from chord_client import ChordError, Client, GroundRequest, Image
from chord_client.export import Dataset
from chord_client.export.formats import label_studio

MAX_BODY_BYTES = 64 << 20
MAX_LABELS = 64
log = logging.getLogger("chord.label_studio")


@dataclass(frozen=True)
class LabelingConfig:
    """What of a labelling configuration concerns boxes: the names of its tags, and label -> prompt."""

    from_name: str
    to_name: str
    data_key: str
    prompts: dict[str, str]

    @classmethod
    def parse(cls, xml: str) -> LabelingConfig:
        try:
            root = ElementTree.fromstring(xml)
        except ElementTree.ParseError as error:
            raise ValueError(f"The labelling configuration is not XML: {error}") from error
        images = {tag.get("name"): tag for tag in root.iter("Image")}
        for labels in root.iter("RectangleLabels"):
            image = images.get(labels.get("toName"))
            if image is None:
                continue
            prompts = {
                label.get("value", ""): label.get("predicted_values") or f"all {label.get('value')}"
                for label in labels.iter("Label")
            }
            if not 0 < len(prompts) <= MAX_LABELS:
                raise ValueError(f"RectangleLabels needs 1 to {MAX_LABELS} labels.")
            return cls(
                from_name=labels.get("name", "label"),
                to_name=labels.get("toName", "image"),
                data_key=image.get("value", "$image").removeprefix("$"),
                prompts=prompts,
            )
        raise ValueError("The labelling configuration has no RectangleLabels for an Image.")


class ImageLoader:
    """The image that a task refers to."""

    def __init__(
        self, label_studio_url: str | None, token: str | None, local_files: pathlib.Path | None
    ) -> None:
        self._origin = label_studio_url.rstrip("/") + "/" if label_studio_url else None
        self._local_files = local_files.resolve() if local_files else None
        self._http = httpx.Client(
            headers={"Authorization": f"Token {token}"} if token else {},
            timeout=30,
            follow_redirects=False,
        )

    def load(self, value: str) -> Image:
        if value.startswith("data:"):
            return Image.from_base64(value)
        parts = urlsplit(value)
        if parts.path == "/data/local-files/" and self._local_files:
            return self._local(parse_qs(parts.query).get("d", [""])[0])
        if self._origin is None:
            raise ValueError("The image is on a server, and --label-studio is not given.")
        url = urljoin(self._origin, value)
        # The token goes to Label Studio alone, and nothing is fetched from elsewhere.
        if not url.startswith(self._origin):
            raise ValueError("The image is not on the Label Studio server of --label-studio.")
        response = self._http.get(url)
        response.raise_for_status()
        return Image(response.content)

    def _local(self, name: str) -> Image:
        assert self._local_files is not None
        path = (self._local_files / name).resolve()
        if not path.is_relative_to(self._local_files):
            raise ValueError("The image is not below --local-files.")
        return Image.from_path(path)


class Backend:
    """The calls of the ML backend protocol. Thread-safe."""

    def __init__(self, chord: Client, images: ImageLoader) -> None:
        self._chord = chord
        self._images = images

    def health(self, _: dict[str, Any]) -> dict[str, Any]:
        health = self._chord.health(timeout=5)
        return {
            "status": "UP" if health.ready else "DOWN",
            "model_class": "Chord",
            "detail": health.detail,
        }

    def setup(self, body: dict[str, Any]) -> dict[str, Any]:
        LabelingConfig.parse(str(body.get("schema", "")))  # refused now rather than with every task
        return {"model_version": "chord"}

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        config = LabelingConfig.parse(str(body.get("label_config", "")))
        tasks = body.get("tasks")
        if not isinstance(tasks, list):
            raise ValueError("tasks must be a list.")
        return {
            "results": [self._predict_task(task, config) for task in tasks],
            "model_version": "chord",
        }

    def ignore(self, _: dict[str, Any]) -> dict[str, Any]:
        return {}  # events about annotations: there is nothing to train

    def _predict_task(self, task: dict[str, Any], config: LabelingConfig) -> dict[str, Any]:
        """A task that fails has an empty prediction, so that the others keep theirs."""
        try:
            image = self._images.load(str(task["data"][config.data_key]))
            return self._ground(image, config)
        except (ChordError, OSError, ValueError, KeyError, TypeError, httpx.HTTPError) as error:
            log.warning("task %s: %s", task.get("id") if isinstance(task, dict) else "?", error)
            return {"model_version": "chord", "score": 0.0, "result": []}

    def _ground(self, image: Image, config: LabelingConfig) -> dict[str, Any]:
        """One upload, one request a label."""
        handle = self._chord.upload(image)
        dataset = Dataset()
        names = list(config.prompts)
        try:
            requests = [GroundRequest(handle, prompt) for prompt in config.prompts.values()]
            results = sorted(self._chord.ground_batch(requests), key=lambda result: result.index)
        finally:
            self._chord.delete(handle)
        for result in results:
            name = names[result.index]
            dataset.add("image", config.prompts[name], result.unwrap(), category=name)
        tasks = label_studio(
            dataset, from_name=config.from_name, to_name=config.to_name, data_key=config.data_key
        )
        prediction: dict[str, Any] = tasks[0]["predictions"][0]
        return prediction


Route = Callable[[dict[str, Any]], dict[str, Any]]


class Application:
    """WSGI; also for gunicorn and its like."""

    def __init__(self, backend: Backend) -> None:
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/"): backend.health,
            ("GET", "/health"): backend.health,
            ("POST", "/setup"): backend.setup,
            ("POST", "/predict"): backend.predict,
            ("POST", "/webhook"): backend.ignore,
        }

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        status, answer = self._answer(environ)
        body = json.dumps(answer, ensure_ascii=False).encode()
        start_response(
            status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        )
        return [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        route = self._routes.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if route is None:
            return "404 Not Found", {"error": "There is no such route."}
        try:
            return "200 OK", route(self._body(environ))
        except ValueError as error:
            return "400 Bad Request", {"error": str(error)}
        except ChordError as error:
            return "503 Service Unavailable", {"error": str(error)}

    @staticmethod
    def _body(environ: dict[str, Any]) -> dict[str, Any]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length > MAX_BODY_BYTES:
            raise ValueError(f"A body has at most {MAX_BODY_BYTES} bytes.")
        if length <= 0:
            return {}
        body = json.loads(environ["wsgi.input"].read(length))
        if not isinstance(body, dict):
            raise ValueError("The body must be a JSON object.")
        return body


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    timeout = 60  # of an idle connection

    def log_message(self, format: str, *args: Any) -> None:
        log.info(format, *args)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chord", default="http://127.0.0.1:8080", help="address of Chord")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--label-studio", help="address of Label Studio, for uploaded images")
    parser.add_argument("--token", help="access token of Label Studio")
    parser.add_argument(
        "--local-files", type=pathlib.Path, help="document root of Label Studio's local files"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with Client(args.chord) as chord:
        images = ImageLoader(args.label_studio, args.token, args.local_files)
        application = Application(Backend(chord, images))
        with make_server(
            args.host, args.port, application, ThreadingServer, QuietHandler
        ) as server:
            print(f"Label Studio ML backend: http://{args.host}:{server.server_port}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
