#!/usr/bin/env python3
"""A vault for API tokens in Python: `certautopilot serve` encrypts and decrypts over HTTP, pymongo stores the envelopes."""
from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bson import ObjectId, json_util
from pymongo import MongoClient
from pymongo.errors import WriteError

COLLECTION = "vault_python"
TRIES = 10
FENCE = 121  # MongoDB's DocumentValidationFailure: the envelope is of a KEK version that a rotation has left

API = os.environ.get("VAULT_API", "http://127.0.0.1:8181")
with open(os.environ["VAULT_API_TOKEN_FILE"], encoding="ascii") as file:
    BEARER = file.read().strip()
client: MongoClient[dict[str, Any]] = MongoClient(os.environ["VAULT_DATABASE_URI"])
secrets = client[os.environ["VAULT_DATABASE_NAME"]][COLLECTION]


class Unavailable(Exception):
    """The API did not answer, or not now: whoever asked may ask again."""


def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request to the API; asked again while it answers 503, or not at all."""
    data = json_util.dumps(body, json_options=json_util.CANONICAL_JSON_OPTIONS).encode()
    for attempt in range(TRIES):
        request = urllib.request.Request(API + path, data, {
            "authorization": f"Bearer {BEARER}", "content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json_util.loads(answer.read())
        except urllib.error.HTTPError as error:
            problem = json.loads(error.read())
            if error.code != 503:
                raise RuntimeError(f"{problem['code']}: {problem['detail']}") from None
        except urllib.error.URLError:
            pass
        time.sleep(0.1 * 2 ** min(attempt, 5))
    raise Unavailable(f"{path} was not answered {TRIES} times")


def encrypt(_id: ObjectId, field: str, text: str) -> dict[str, Any]:
    """The envelope, to be stored as it is at this field of this record."""
    plaintext = base64.b64encode(text.encode()).decode()
    return ask("/v1/encrypt", {"collection": COLLECTION, "id": _id, "field": field, "plaintext": plaintext})["envelope"]


def decrypt_record(record: dict[str, Any]) -> dict[str, Any]:
    """Both fields of a record in one request."""
    places = [("token", record["token"])]
    if "key" in record:
        places.append(("key.pem", record["key"]["pem"]))
    answer = ask("/v1/decrypt", {"items": [
        {"collection": COLLECTION, "id": record["_id"], "field": field, "envelope": envelope}
        for field, envelope in places]})
    for item in answer["items"]:
        if "error" in item:
            raise RuntimeError(f"{item['error']['code']}: {item['error']['detail']}")
    texts = [base64.b64decode(item["plaintext"]).decode() for item in answer["items"]]
    opened = {"name": record["name"], "token": texts[0]}
    return opened | ({"key": {"pem": texts[1]}} if "key" in record else {})


def sealed(_id: ObjectId, body: dict[str, Any]) -> dict[str, Any]:
    """A record with envelopes in place of its secrets."""
    record = {"name": body["name"], "token": encrypt(_id, "token", body["token"])}
    return record | ({"key": {"pem": encrypt(_id, "key.pem", body["key"]["pem"])}} if "key" in body else {})


def write(work: Callable[[], Any]) -> Any:
    """Runs a write that encrypts and stores, again when the fence rejects it: the second envelope is of the new version."""
    for attempt in range(TRIES):
        try:
            return work()
        except WriteError as error:
            if error.code != FENCE or attempt == TRIES - 1:
                raise
            time.sleep(0.1)
    raise AssertionError("unreachable")


class Vault(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body, _id = self.body(), ObjectId()

        def create() -> tuple[int, Any]:
            write(lambda: secrets.insert_one({"_id": _id} | sealed(_id, body)))
            return 201, {"id": str(_id)}
        self.run(create)

    def do_GET(self) -> None:
        def read() -> tuple[int, Any]:
            record = secrets.find_one({"_id": self.id()})
            return (404, {"error": "no such secret"}) if record is None else (200, decrypt_record(record))
        self.run(read)

    def do_PATCH(self) -> None:
        body, _id = self.body(), self.id()
        self.run(lambda: self.changed(write(lambda: secrets.update_one(
            {"_id": _id}, {"$set": {"token": encrypt(_id, "token", body["token"])}}))))

    def do_PUT(self) -> None:
        body, _id = self.body(), self.id()
        self.run(lambda: self.changed(write(lambda: secrets.replace_one({"_id": _id}, sealed(_id, body)))))

    def changed(self, result: Any) -> tuple[int, Any]:
        return (404, {"error": "no such secret"}) if result.matched_count == 0 else (204, None)

    def id(self) -> ObjectId:
        return ObjectId(self.path.removeprefix("/secrets/"))

    def body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def run(self, work: Callable[[], tuple[int, Any]]) -> None:
        try:
            status, answer = work()
        except Unavailable as error:
            status, answer = 503, {"error": str(error)}
        except Exception as error:  # its text names codes and fields, never a value; MongoDB's may quote a document
            print(f"{type(error).__name__}: {error if isinstance(error, RuntimeError) else ''}", file=sys.stderr)
            status, answer = 500, {"error": "unexpected"}
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status != 204:
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """One line a request is not wanted here."""


class Server(ThreadingHTTPServer):
    request_queue_size = 64


server = Server(("127.0.0.1", int(os.environ.get("VAULT_PORT", "8080"))), Vault)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"listening on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
client.close()
