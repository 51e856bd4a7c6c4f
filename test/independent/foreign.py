#!/usr/bin/env python3
"""An independent reader and writer of the certautopilot envelope format (provider `env`).

By docs/format.md alone, sharing no code with the product: what this program
and the product both can open is what the contract says, not what one implementation happens to do.
KEKs come only from CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V<N> (64 hex digits), never from argv.
Exit codes: 0 all good, 1 something is not, 2 usage.
"""
from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import bson
from bson import Binary, Int64, ObjectId, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pymongo import ASCENDING, MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

PROVIDER = "env"
KEY_VARIABLE = re.compile(r"CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V([1-9][0-9]{0,9})")
ENVELOPE_KEYS = {"format", "provider", "kek_version", "wrapped_dek", "nonce", "ciphertext"}
IV, TAG, DEK, WRAP = 12, 16, 32, 60
MAX_PLAINTEXT = 8 * 1024 * 1024
MAX_INT32 = 2**31 - 1
BATCH = 500
RAW = CodecOptions(document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO)


class ForeignError(Exception):
    """Anything the contract does not allow; the message never holds key material."""


# ---------------------------------------------------------------- bytes (section 3, "Envelope, format 1")

def aad(*parts: str | bytes) -> bytes:
    """Section 3: a list of parts, each as uint32 big-endian length ‖ bytes; strings as UTF-8."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


@dataclass(frozen=True)
class Place:
    """Where an envelope lives: what its AAD binds it to. `id_bytes` is the BSON of {_id: <id>}."""

    install_id: str
    collection: str
    id_bytes: bytes
    path: str

    def field_aad(self) -> bytes:
        """Section 3: P."""
        return aad("certautopilot/field/1", self.install_id, self.collection, self.id_bytes, self.path)

    def dek_aad(self, version: int) -> bytes:
        """Section 3: W."""
        return aad("certautopilot/dek/1", self.install_id, PROVIDER, str(version), self.collection,
                   self.id_bytes, self.path)


def gcm_open(key: bytes, iv: bytes, sealed: bytes, data: bytes, what: str) -> bytes:
    """AES-256-GCM, with a failed tag named for what it was."""
    try:
        return AESGCM(key).decrypt(iv, sealed, data)
    except InvalidTag:
        raise ForeignError(f"{what} does not open") from None


def seal(kek: bytes, version: int, place: Place, plaintext: bytes) -> dict[str, Any]:
    """Section 3: a new DEK and a new envelope for one value."""
    dek, iv, nonce = os.urandom(DEK), os.urandom(IV), os.urandom(IV)
    return {
        "format": 1, "provider": PROVIDER, "kek_version": version,
        "wrapped_dek": iv + AESGCM(kek).encrypt(iv, dek, place.dek_aad(version)),
        "nonce": nonce,
        "ciphertext": AESGCM(dek).encrypt(nonce, plaintext, place.field_aad()),
    }


def check_envelope(value: Any) -> RawBSONDocument:
    """Section 3, "Reading is strict": the exact set of keys, types, lengths and the provider tag."""
    if not isinstance(value, RawBSONDocument):
        raise ForeignError("no envelope" if value is None else "the envelope is not a subdocument")
    if set(value) != ENVELOPE_KEYS:
        raise ForeignError(f"wrong keys: {sorted(set(value) ^ ENVELOPE_KEYS)}")
    # bson decodes int32 as int, int64 as Int64; BinData(0) as bytes, every other subtype as Binary.
    kinds = {"format": int, "provider": str, "kek_version": int, "wrapped_dek": bytes, "nonce": bytes,
             "ciphertext": bytes}
    for key, kind in kinds.items():
        if type(value[key]) is not kind:
            raise ForeignError(f"{key} has the wrong BSON type")
    if bson.encode(dict(value.items())) != bytes(value.raw):
        raise ForeignError("a key occurs twice")
    if value["format"] != 1:
        raise ForeignError(f"unknown format {value['format']}")
    if value["provider"] != PROVIDER:
        raise ForeignError(f"foreign provider tag {value['provider']!r}")
    if value["kek_version"] < 1:
        raise ForeignError("kek_version is below 1")
    if len(value["wrapped_dek"]) != WRAP or len(value["nonce"]) != IV:
        raise ForeignError("wrapped_dek or nonce has the wrong length")
    if not TAG <= len(value["ciphertext"]) <= MAX_PLAINTEXT + TAG:
        raise ForeignError("ciphertext has the wrong length")
    return value


def open_envelope(keks: dict[int, bytes], place: Place, envelope: RawBSONDocument) -> bytes:
    """Section 3: KEK opens the DEK under W, the DEK opens the value under P."""
    version, wrapped = envelope["kek_version"], envelope["wrapped_dek"]
    if version not in keks:
        raise ForeignError(f"no key for version {version} in the environment")
    dek = gcm_open(keks[version], wrapped[:IV], wrapped[IV:], place.dek_aad(version), "wrapped_dek")
    return gcm_open(dek, envelope["nonce"], envelope["ciphertext"], place.field_aad(), "ciphertext")


# ---------------------------------------------------------------- keys and the install (sections 2 and 3)

def load_keks() -> dict[int, bytes]:
    """Section 2, provider `env`: KEK bytes from the environment, by version."""
    keks: dict[int, bytes] = {}
    for name, value in os.environ.items():
        if match := KEY_VARIABLE.fullmatch(name):
            if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
                raise ForeignError(f"{name} is not 64 hex digits")
            keks[int(match[1])] = bytes.fromhex(value)
    return keks


def connect(args: argparse.Namespace) -> Database[dict[str, Any]]:
    """Section 3: all reads and writes use majority, writes with `j`."""
    client: MongoClient[dict[str, Any]] = MongoClient(args.uri, serverSelectionTimeoutMS=10_000)
    return client.get_database(args.db, write_concern=WriteConcern("majority", j=True),
                               read_concern=ReadConcern("majority"))


def read_install(db: Database[dict[str, Any]]) -> str:
    """Section 3, kek_install: the lock on the provider; returns install_id."""
    install = db["kek_install"].find_one({"_id": "kek_install"})
    if install is None:
        raise ForeignError("kek_install is missing: not an install")
    if install.get("provider") != PROVIDER:
        raise ForeignError(f"the install is locked for provider {install.get('provider')!r}")
    install_id = install.get("install_id")
    if not isinstance(install_id, str):
        raise ForeignError("install_id is not a string")
    return install_id


def prove(db: Database[dict[str, Any]], install_id: str, version: int, kek: bytes) -> None:
    """Section 3, kek_versions: the key opens the canary, and its bytes have canary_digest."""
    found = db["kek_versions"].find_one({"_id": version})
    if found is None:
        raise ForeignError(f"kek_versions does not know version {version}")
    canary, digest = found.get("canary"), found.get("canary_digest")
    if found.get("provider") != PROVIDER:
        raise ForeignError(f"version {version} belongs to provider {found.get('provider')!r}")
    if type(canary) is not bytes or len(canary) != WRAP:
        raise ForeignError(f"the canary of version {version} is not BinData(0) of {WRAP} bytes")
    if type(digest) is not bytes or len(digest) != 32:
        raise ForeignError(f"the canary_digest of version {version} is not BinData(0) of 32 bytes")
    bound = aad("certautopilot/canary/1", install_id, PROVIDER, str(version))
    secret = gcm_open(kek, canary[:IV], canary[IV:], bound, f"the canary of version {version}")
    if not hmac.compare_digest(hashlib.sha256(secret).digest(), digest):
        raise ForeignError(f"the canary of version {version} does not have its canary_digest")


# ---------------------------------------------------------------- records

def expected_plaintext(seed: str, i: int) -> bytes:
    """Record i's value: an HMAC-SHA-256 stream of (seed, i), 0 to 3000 bytes long."""
    def block(label: str) -> bytes:
        return hmac.digest(seed.encode(), f"{i}:{label}".encode(), "sha256")
    length = int.from_bytes(block("length")[:8], "big") % 3001
    return b"".join(block(str(n)) for n in range(-(-length // 32)))[:length]


def mixed_id(seed: str, i: int) -> Any:
    """The i-th _id of a cycle over seven BSON types, every second round a nastier value of that type.

    MongoDB holds 5, NumberLong(5) and 5.0 for the same _id, so numbers count on from a base of the seed.
    """
    digest = hmac.digest(seed.encode(), f"id:{i}".encode(), "sha256")
    number = int.from_bytes(hmac.digest(seed.encode(), b"id", "sha256")[:4], "big") % 2**30 + i
    nasty = i // 7 % 2 == 1
    match i % 7:
        case 0: return ObjectId()
        case 1: return f"{seed}-{i}" + ("-é\u0000€🔑" if nasty else "")
        case 2: return -number if nasty else number                           # int32
        case 3: return Int64(2**53 + 1 + 2 * number if nasty else number)     # beyond, or small in a double
        case 4: return number + 0.5 if nasty else float(number)               # a double that is integral
        case 5: return Binary(digest[:16], 4)                                 # UUID
        case _: return ({"10": i, "9": seed, "a": {"z": Int64(i), "b": 2.0}} if nasty  # order counts
                        else {"tenant": seed, "n": i})


def nest(path: str, value: dict[str, Any]) -> dict[str, Any]:
    """The document that holds `value` at a possibly dotted path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def dig(document: Any, path: str) -> Any:
    """The value at a dotted path through subdocuments, or None."""
    for name in path.split("."):
        document = document.get(name) if isinstance(document, RawBSONDocument) else None
    return document


def id_bytes_of(document: RawBSONDocument) -> bytes:
    """Section 3, AAD: the BSON of {_id}; proved to be the very bytes stored, for MongoDB keeps _id first."""
    encoded = bson.encode({"_id": document["_id"]})
    if bytes(document.raw)[4:len(encoded) - 1] != encoded[4:-1]:
        raise ForeignError("the _id's BSON bytes cannot be reproduced")
    return encoded


def records(db: Database[dict[str, Any]], collection: str) -> Iterator[RawBSONDocument]:
    """Every document of the collection, raw."""
    yield from cast(Collection[RawBSONDocument], db.get_collection(collection, codec_options=RAW)).find({})


# ---------------------------------------------------------------- subcommands

def write(args: argparse.Namespace) -> int:
    """Sections 2 and 3: prove the key, register the field, make its index, count the wraps, insert."""
    db, keks, version = connect(args), load_keks(), args.version
    install_id = read_install(db)
    if version not in keks:
        raise ForeignError(f"no key for version {version} in the environment")
    prove(db, install_id, version, keks[version])
    db["kek_fields"].update_one({"_id": f"{args.collection}:{args.path}"}, {"$setOnInsert": {
        "collection": args.collection, "path": args.path, "registered_by": "foreign"}}, upsert=True)
    target = db[args.collection]
    target.create_index([(f"{args.path}.kek_version", ASCENDING), ("_id", ASCENDING)])
    counted = db["kek_versions"].update_one({"_id": version}, {"$inc": {"wraps": args.count}})
    if counted.matched_count != 1:
        raise ForeignError(f"kek_versions lost version {version}")
    for start in range(0, args.count, BATCH):
        batch = []
        for i in range(start, min(start + BATCH, args.count)):
            key = mixed_id(args.seed, i) if args.mixed_ids else ObjectId()
            place = Place(install_id, args.collection, bson.encode({"_id": key}), args.path)
            envelope = seal(keks[version], version, place, expected_plaintext(args.seed, i))
            batch.append({"_id": key, "i": i, "seed": args.seed} | nest(args.path, envelope))
        try:
            target.insert_many(batch, ordered=True)
        except BulkWriteError as error:
            first = (error.details.get("writeErrors") or error.details.get("writeConcernErrors") or [{}])[0]
            done = start + error.details.get("nInserted", 0)
            raise ForeignError(f"MongoDB refused a write (code {first.get('code')}) after {done} records") from None
    print(json.dumps({"written": args.count, "version": version}))
    return 0


def read(args: argparse.Namespace) -> int:
    """Section 3: open every envelope strictly; a document without one is bad, not passed over."""
    db, keks = connect(args), load_keks()
    install_id = read_install(db)
    total, versions, bad = 0, Counter[int](), []
    for document in records(db, args.collection):
        total += 1
        try:
            envelope = check_envelope(dig(document, args.path))
            versions[envelope["kek_version"]] += 1
            place = Place(install_id, args.collection, id_bytes_of(document), args.path)
            plaintext = open_envelope(keks, place, envelope)
            if args.seed is not None and document.get("seed") != args.seed:
                raise ForeignError("the document is not of this seed")
            seed, i = document.get("seed"), document.get("i")
            if isinstance(seed, str) and isinstance(i, int) and plaintext != expected_plaintext(seed, i):
                raise ForeignError("the plaintext is not the one written")
        except ForeignError as error:
            shown = json.loads(json_util.dumps(document["_id"], json_options=json_util.CANONICAL_JSON_OPTIONS))
            bad.append({"id": shown, "reason": str(error)})
    print(json.dumps({"read": total, "ok": total - len(bad),
                      "versions": {str(v): n for v, n in sorted(versions.items())}, "bad": bad}))
    astray = args.expect_version is not None and set(versions) - {args.expect_version}
    return 1 if bad or astray else 0


def digest(args: argparse.Namespace) -> int:
    """Section 3: a rewrap leaves `nonce` and `ciphertext` byte for byte; this is what must not change."""
    rows: list[tuple[bytes, bytes, bytes]] = []
    for document in records(connect(args), args.collection):
        envelope = check_envelope(dig(document, args.path))
        rows.append((id_bytes_of(document), envelope["nonce"], envelope["ciphertext"]))
    total = hashlib.sha256()
    for row in sorted(rows):
        total.update(b"".join(row))
    print(json.dumps({"count": len(rows), "sha256": total.hexdigest()}))
    return 0


def canaries(args: argparse.Namespace) -> int:
    """Sections 2 and 3: which keys of the environment are proved by their version's canary."""
    db, result = connect(args), {}
    install_id = read_install(db)
    for version, kek in sorted(load_keks().items()):
        try:
            prove(db, install_id, version, kek)
            result[str(version)] = True
        except ForeignError as error:
            print(f"note: {error}", file=sys.stderr)
            result[str(version)] = False
    print(json.dumps(result))
    return 0 if all(result.values()) else 1


# ---------------------------------------------------------------- command line

def whole(low: int) -> Any:
    """An argparse type: an int32 of at least `low`."""
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= MAX_INT32:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {MAX_INT32}")
        return int(text)
    return parse


def field_path(text: str) -> str:
    """An argparse type: a dotted path that names subdocuments and none of this program's own fields."""
    names = text.split(".")
    if any(not name or name.startswith("$") for name in names) or names[0] in {"_id", "i", "seed"}:
        raise argparse.ArgumentTypeError("must be a dotted path, and not under _id, i or seed")
    return text


def main() -> int:
    """Parse, run, and turn every failure into one `error:` line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="write|read|digest|canaries")
    for run in (write, read, digest, canaries):
        command = commands.add_parser(run.__name__, allow_abbrev=False)
        command.set_defaults(run=run)
        command.add_argument("--uri", required=True)
        command.add_argument("--db", required=True)
        if run is not canaries:
            command.add_argument("--collection", required=True)
            command.add_argument("--path", required=True, type=field_path)
        if run is write:
            command.add_argument("--count", required=True, type=whole(1))
            command.add_argument("--version", required=True, type=whole(1))
            command.add_argument("--seed", required=True)
            command.add_argument("--mixed-ids", action="store_true")
        if run is read:
            command.add_argument("--expect-version", type=whole(1))
            command.add_argument("--seed")
    args = parser.parse_args()
    try:
        return int(args.run(args))
    except ForeignError as error:
        print(f"error: {error}", file=sys.stderr)
    except OperationFailure as error:
        print(f"error: MongoDB refused (code {error.code})", file=sys.stderr)
    except PyMongoError as error:  # its text may quote the URI
        print(f"error: MongoDB: {type(error).__name__}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
