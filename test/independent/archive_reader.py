"""Reads the plaintext of an archive of `certautopilot export` from standard input: age -d -i identity secrets.age | this.

Written from docs/change-provider.md alone. Checks every count and digest, and prints them with each secret's SHA-256 as JSON.
"""

import hashlib
import hmac
import json
import struct
import sys

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

# A record may hold a date that Python does not have.
RAW = CodecOptions(document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def documents(stream):
    while head := stream.read(4):
        (length,) = struct.unpack("<i", head)
        yield head + stream.read(length - 4)


def at(document, path):
    for name in path.split("."):
        if not isinstance(document, RawBSONDocument) or name not in document:
            return None
        document = document[name]
    return document


def id_bson(record):
    """The BSON of {_id: …}: the element's own bytes are the first of the record."""
    kind = record[4]
    assert record[5:9] == b"_id\0"
    sizes = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
    if kind in sizes:
        size = sizes[kind]
    else:
        (size,) = struct.unpack_from("<i", record, 9)
        size += {0x02: 4, 0x03: 0, 0x05: 5}[kind]
    element = record[4 : 9 + size]
    return struct.pack("<i", len(element) + 5) + element + b"\0"


class Digest:
    def __init__(self, key):
        self.key, self.count, self.sum = key, 0, 0

    def add(self, *parts):
        mac = hmac.new(self.key, digestmod=hashlib.sha256)
        for part in parts:
            mac.update(struct.pack(">I", len(part)) + part)
        self.count += 1
        self.sum = (self.sum + int.from_bytes(mac.digest(), "big")) % 2**256

    def hex(self):
        return self.sum.to_bytes(32, "big").hex()


def main():
    header, end = None, None
    collections, fields, secrets = {}, {}, []
    for raw in documents(sys.stdin.buffer):
        assert end is None, "something follows the end"
        if header is None:
            header = bson.decode(raw)
            assert header["archive"] == "certautopilot secrets" and header["format"] == 1
            key = header["digest_key"]
            collections = {name: Digest(key) for name in header["collections"]}
            fields = {(field["collection"], field["path"]): Digest(key) for field in header["fields"]}
            continue
        document = RawBSONDocument(raw, RAW)
        if "end" in document:
            end = bson.decode(raw)
            continue
        collection, record = document["collection"], document["record"]
        collections[collection].add(b"record", collection.encode(), record.raw)
        for (name, path), digest in fields.items():
            value = at(record, path) if name == collection else None
            if isinstance(value, bytes):
                digest.add(b"secret", collection.encode(), path.encode(), id_bson(record.raw), value)
                secrets.append(hashlib.sha256(value).hexdigest())
    assert end is not None, "the end is missing"
    for entry in end["collections"]:
        digest = collections[entry["collection"]]
        assert (digest.count, digest.hex()) == (entry["records"], entry["digest"].hex()), entry
    for entry in end["fields"]:
        digest = fields[(entry["collection"], entry["path"])]
        assert (digest.count, digest.hex()) == (entry["secrets"], entry["digest"].hex()), entry
    print(
        json.dumps(
            {
                "install_id": header["install_id"],
                "records": {name: digest.count for name, digest in collections.items()},
                "secrets": {f"{name}:{path}": digest.count for (name, path), digest in fields.items()},
                "sha256": sorted(secrets),
            }
        )
    )


main()
