#!/usr/bin/env python3
"""An independent reader and writer of the certautopilot envelope format, provider `pkcs11`.

By docs/format.md alone, sharing no code with the product or with foreign.py: it asks the token
itself to unwrap each DEK and to open each canary. Module, token label and PIN come from the variables of section 7.
Exit codes: 0 all good, 1 something is not, 2 usage.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from typing import Any

import bson
import PyKCS11
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pymongo import ASCENDING, MongoClient
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

PREFIX = "CERTAUTOPILOT_ENCRYPTION_PKCS11_"
PROVIDER = "pkcs11"
KEYS = {"format", "provider", "kek_version", "wrapped_dek", "nonce", "ciphertext"}


class Wrong(Exception):
    """Something is not as the contract says; the message never holds key material."""


def parts(*values: str | bytes) -> bytes:
    """Section 3, AAD: each part as uint32 big-endian length ‖ bytes."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(len(value).to_bytes(4, "big") + value for value in encoded)


# ---------------------------------------------------------------- the token (section 9)

class Token:
    """One session, logged in; finds each version's key by its label and unwraps and wraps with it."""

    def __init__(self) -> None:
        label, pin = os.environ[PREFIX + "TOKEN_LABEL"], os.environ[PREFIX + "PIN"]
        library = PyKCS11.PyKCS11Lib()
        library.load(os.environ[PREFIX + "MODULE_PATH"])
        slots = [slot for slot in library.getSlotList(tokenPresent=True)
                 if library.getTokenInfo(slot).label.rstrip("\x00 ") == label]
        if len(slots) != 1:
            raise Wrong(f"{len(slots)} tokens are labelled {label!r}")
        self.library = library
        self.session = library.openSession(slots[0], PyKCS11.CKF_SERIAL_SESSION)
        self.session.login(pin)
        self.handles: dict[int, Any] = {}

    def key(self, version: int) -> Any:
        """Exactly one key of the version's label, and one that never left the token."""
        if version not in self.handles:
            label = f"certautopilot-kek-v{version}"
            found = self.session.findObjects(
                [(PyKCS11.CKA_CLASS, PyKCS11.CKO_SECRET_KEY), (PyKCS11.CKA_LABEL, label)])
            if len(found) != 1:
                raise Wrong(f"the token holds {len(found)} keys {label}")
            must = {"CKA_TOKEN": True, "CKA_PRIVATE": True, "CKA_SENSITIVE": True, "CKA_EXTRACTABLE": False,
                    "CKA_MODIFIABLE": False, "CKA_ENCRYPT": True, "CKA_DECRYPT": True, "CKA_WRAP": False,
                    "CKA_UNWRAP": False, "CKA_LOCAL": True, "CKA_NEVER_EXTRACTABLE": True,
                    "CKA_ALWAYS_SENSITIVE": True}
            values = self.session.getAttributeValue(found[0], [getattr(PyKCS11, name) for name in must])
            for (name, wanted), value in zip(must.items(), values):
                if bool(value) is not wanted:
                    raise Wrong(f"{name} of {label} is {value}")
            size, kind = self.session.getAttributeValue(found[0], [PyKCS11.CKA_VALUE_LEN, PyKCS11.CKA_KEY_TYPE])
            if (size, kind) != (32, PyKCS11.CKK_AES):
                raise Wrong(f"{label} is no AES-256 key")
            self.handles[version] = found[0]
        return self.handles[version]

    def ident(self, version: int) -> bytes:
        """CKA_ID of the version's key."""
        return bytes(self.session.getAttributeValue(self.key(version), [PyKCS11.CKA_ID])[0])

    def unwrap(self, version: int, wrapped: bytes, aad: bytes) -> bytes:
        """iv(12) ‖ ciphertext(32) ‖ tag(16) → 32 bytes, with CKM_AES_GCM in the token."""
        if len(wrapped) != 60:
            raise Wrong(f"a wrap of {len(wrapped)} bytes")
        how = PyKCS11.AES_GCM_Mechanism(wrapped[:12], aad, 128)
        try:
            opened = bytes(self.session.decrypt(self.key(version), wrapped[12:], how))
        except PyKCS11.PyKCS11Error as error:
            raise Wrong(f"the token does not open it with version {version}: {error}") from None
        if len(opened) != 32:
            raise Wrong(f"{len(opened)} bytes came out of a wrap")
        return opened

    def wrap(self, version: int, dek: bytes, aad: bytes) -> bytes:
        """The other way round, under a fresh iv."""
        iv = os.urandom(12)
        return iv + bytes(self.session.encrypt(self.key(version), dek, PyKCS11.AES_GCM_Mechanism(iv, aad, 128)))


# ---------------------------------------------------------------- the database (section 3)

class Install:
    """The database behind the arguments, and what binds its envelopes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.db: Database[dict[str, Any]] = MongoClient(args.uri, serverSelectionTimeoutMS=10_000).get_database(
            args.db, read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority", j=True))
        lock = self.db["kek_install"].find_one({"_id": "kek_install"})
        if lock is None or lock["provider"] != PROVIDER:
            raise Wrong("the database is not locked for pkcs11")
        self.id: str = lock["install_id"]

    def dek_aad(self, version: int, collection: str, ident: Any, path: str) -> bytes:
        """W"""
        return parts("certautopilot/dek/1", self.id, PROVIDER, str(version), collection, bson.encode({"_id": ident}), path)

    def field_aad(self, collection: str, ident: Any, path: str) -> bytes:
        """P"""
        return parts("certautopilot/field/1", self.id, collection, bson.encode({"_id": ident}), path)


def open_record(install: Install, token: Token, args: argparse.Namespace, record: dict[str, Any]) -> tuple[int, bytes]:
    """The version and the plaintext of one record's envelope."""
    envelope = record[args.path]
    if set(envelope) != KEYS or envelope["format"] != 1 or envelope["provider"] != PROVIDER:
        raise Wrong("no envelope of format 1 of this provider")
    version, where = envelope["kek_version"], (args.collection, record["_id"], args.path)
    dek = token.unwrap(version, envelope["wrapped_dek"], install.dek_aad(version, *where))
    try:
        return version, AESGCM(dek).decrypt(envelope["nonce"], envelope["ciphertext"], install.field_aad(*where))
    except InvalidTag:
        raise Wrong("the ciphertext does not open") from None


# ---------------------------------------------------------------- subcommands

def read(args: argparse.Namespace) -> int:
    """Opens every envelope of a collection; the text of record i must be the given one with i in it."""
    install, token = Install(args), Token()
    versions, bad, payload = Counter[int](), [], hashlib.sha256()
    total = 0
    for record in install.db[args.collection].find().sort("_id"):
        total += 1
        try:
            version, plaintext = open_record(install, token, args, record)
            versions[version] += 1
            if plaintext.decode() != args.text.replace("{}", str(record["_id"])):
                raise Wrong("another plaintext")
            payload.update(record[args.path]["nonce"] + record[args.path]["ciphertext"])
        except (Wrong, KeyError, TypeError) as error:
            bad.append({"id": str(record["_id"]), "reason": str(error)})
    print(json.dumps({"read": total, "ok": total - len(bad), "versions": {str(v): n for v, n in sorted(versions.items())},
                      "bad": bad[:20], "payload": payload.hexdigest()}))
    return 1 if bad else 0


def canaries(args: argparse.Namespace) -> int:
    """Every version that is not destroyed: its key opens its canary, and label, id and mechanism are the key's."""
    install, token, found = Install(args), Token(), {}
    for doc in install.db["kek_versions"].find({"state": {"$ne": "destroyed"}}).sort("_id"):
        version = doc["_id"]
        try:
            secret = token.unwrap(version, doc["canary"], parts("certautopilot/canary/1", install.id, PROVIDER, str(version)))
            if hashlib.sha256(secret).digest() != doc["canary_digest"]:
                raise Wrong("another digest")
            if doc["provider"] != PROVIDER or doc["key_label"] != f"certautopilot-kek-v{version}":
                raise Wrong("another provider or label")
            if bytes(doc["key_id"]) != token.ident(version) or doc["mechanism"] != "CKM_AES_GCM":
                raise Wrong("another key id or mechanism")
            found[str(version)] = "proved"
        except Wrong as error:
            found[str(version)] = str(error)
    print(json.dumps(found))
    return 0 if found and set(found.values()) == {"proved"} else 1


def write(args: argparse.Namespace) -> int:
    """Inserts records under a version, the way section 3 asks of a foreign writer."""
    install, token = Install(args), Token()
    install.db["kek_fields"].update_one({"_id": f"{args.collection}:{args.path}"}, {"$setOnInsert": {
        "collection": args.collection, "path": args.path, "registered_by": "token_reader"}}, upsert=True)
    install.db[args.collection].create_index([(f"{args.path}.kek_version", ASCENDING), ("_id", ASCENDING)])
    install.db["kek_versions"].update_one({"_id": args.version}, {"$inc": {"wraps": args.count}})
    records = []
    for ident in range(args.first, args.first + args.count):
        dek, nonce, where = os.urandom(32), os.urandom(12), (args.collection, ident, args.path)
        sealed = AESGCM(dek).encrypt(nonce, args.text.replace("{}", str(ident)).encode(), install.field_aad(*where))
        wrapped = token.wrap(args.version, dek, install.dek_aad(args.version, *where))
        records.append({"_id": ident, args.path: {"format": 1, "provider": PROVIDER, "kek_version": args.version,
                                                  "wrapped_dek": wrapped, "nonce": nonce, "ciphertext": sealed}})
    install.db[args.collection].insert_many(records)
    print(json.dumps({"written": len(records)}))
    return 0


def main() -> int:
    """Parse, run, and turn what is wrong into one `error:` line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="read|canaries|write")
    for work in (read, canaries, write):
        command = commands.add_parser(work.__name__, allow_abbrev=False)
        command.set_defaults(work=work)
        command.add_argument("--uri", required=True)
        command.add_argument("--db", required=True)
        if work is not canaries:
            command.add_argument("--collection", default="secrets")
            command.add_argument("--path", default="value")
            command.add_argument("--text", default="secret {}")
        if work is write:
            command.add_argument("--count", type=int, required=True)
            command.add_argument("--first", type=int, default=0)
            command.add_argument("--version", type=int, required=True)
    args = parser.parse_args()
    try:
        return int(args.work(args))
    except (Wrong, PyKCS11.PyKCS11Error, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
