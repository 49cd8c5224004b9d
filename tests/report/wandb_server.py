"""A stand-in for W&B's server, which cannot run here: it answers the queries of reports and keeps what is sent."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"


class Server(ThreadingHTTPServer):
    """Views by id, runs in the order they came, what they logged, and every query it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.views: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.runs: list[str] = []
        self.histories: dict[str, list[dict[str, Any]]] = {}

    @property
    def settings(self) -> dict[str, str]:
        """Environment of a client."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}", "WANDB_API_KEY": "0123456789" * 4}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(query)
        project = {"id": "p", "name": "dblocks", "entityName": ENTITY, "internalId": "1"}
        if "UpsertBucket" in query:
            return self.upsert_run(variables)
        if "RunResumeStatus" in query:
            return {
                "model": {**project, "entity": {"id": "e", "name": ENTITY}, "bucket": self.bucket(variables["name"])}
            }
        if "CreateRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.settings['WANDB_BASE_URL']}/put"} for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "upsertView" in query:
            return self.upsert(variables, project)
        if "allViews" in query:
            edges = [{"node": view, "cursor": ""} for view in self.views.values()]
            views = {"edges": edges, "pageInfo": {"endCursor": "", "hasNextPage": False}}
            return {"project": {**project, "allViews": views}}
        if "viewer" in query:
            teams = {"edges": [{"node": {"name": ENTITY}}]}
            names = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "admin": False, "flags": "{}"}
            return {"viewer": {**names, "teams": teams, "apiKeys": {"edges": []}}}
        if "models" in query:
            node = {
                **project,
                "entity": {"name": ENTITY},
                "createdAt": "2026-01-01T00:00:00",
                "isBenchmark": False,
                "user": None,
            }
            page = {"endCursor": "", "hasNextPage": False}
            return {"models": {"edges": [{"node": node, "cursor": ""}], "pageInfo": page}}
        return {"project": project}

    def bucket(self, run: str) -> dict[str, Any] | None:
        """What a client reads that would go on with a run; None: there is none of that name."""
        if run not in self.histories:
            return None
        lines = self.histories[run]
        counts = {"logLineCount": 0, "historyLineCount": len(lines), "eventsLineCount": 0}
        texts = {"historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]), "eventsTail": "[]"}
        known = {"id": run, "name": run, "displayName": run, "summaryMetrics": "{}", "config": "{}", "tags": []}
        return {**known, **counts, **texts, "notes": None, "wandbConfig": '{"t": {}}'}

    def take_files(self, run: str, files: dict[str, Any]) -> None:
        """Keep what a client logs, each line at the place it names."""
        part = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        lines = [json.loads(line) for line in part["content"]]
        if lines:
            self.histories[run] = self.histories.get(run, [])[: part["offset"]] + lines

    def upsert_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        self.runs.append(name)
        project = {"id": "p", "name": "dblocks", "entity": {"id": "e", "name": ENTITY}}
        run = {"id": name, "name": name, "displayName": name, "description": "", "config": "{}", "sweepName": None}
        return {"upsertBucket": {"bucket": {**run, "project": project, "historyLineCount": 0}, "inserted": True}}

    def upsert(self, variables: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
        key = variables.get("id") or f"view{len(self.views)}"
        times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
        names = ("name", "displayName", "description", "spec", "type")
        view = {"id": key, "project": project, "user": None, "viewCount": 0, **times}
        self.views[key] = view | {name: variables.get(name) for name in names}
        return {"upsertView": {"view": self.views[key], "inserted": True}}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("file_stream"):
            self.server.take_files(self.path.split("/")[-2], json.loads(body).get("files") or {})
        if not self.path.endswith("graphql"):  # logs, and the client's own statistics
            body = b'{"query": "nothing"}'
        content = json.loads(body)
        answer = json.dumps({"data": self.server.answer(content["query"], content.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def wandb_server() -> Iterator[Server]:
    """A running stand-in."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
