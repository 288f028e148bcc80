"""The web page as a server inside of the test's process, and its API as a stranger would call it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from demo.web.limits import Limits
from demo.web.models import Models
from demo.web.page import serve


@contextmanager
def running(models: Models, work: Path, limits: Limits | None = None) -> Iterator[str]:
    """Serve the page on a free port; yields its address."""
    page = serve(models, limits or Limits(), port=None, work=str(work), block=False)
    try:
        yield page.local_url.rstrip("/")
    finally:
        page.close(verbose=False)


@dataclass
class Answer:
    """What a call ended in: its data, or None and the sentence of an error."""

    data: list[Any] | None
    error: str | None


class Stranger:
    """A client of the page's API that sends whatever it is told."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=f"{url}/gradio_api", timeout=60)

    def upload(self, name: str, content: bytes) -> str | None:
        """The server's path of an upload, or None where the server refuses it."""
        reply = self.http.post("/upload", files={"files": (name, content)})
        return reply.json()[0] if reply.status_code == 200 else None

    def call(self, endpoint: str, *data: Any) -> Answer:
        """Call an endpoint and wait for its end."""
        reply = self.http.post(f"/call/{endpoint}", json={"data": list(data)})
        if reply.status_code != 200:
            return Answer(None, reply.text)
        event = None
        with self.http.stream("GET", f"/call/{endpoint}/{reply.json()['event_id']}") as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event in ("complete", "error"):
                    value = json.loads(line.removeprefix("data: "))
                    return Answer(value, None) if event == "complete" else Answer(None, json.dumps(value))
        return Answer(None, "the stream ended")

    @staticmethod
    def file(path: str) -> dict[str, Any]:
        """An uploaded file as a component's value."""
        return {"path": path, "meta": {"_type": "gradio.FileData"}}
