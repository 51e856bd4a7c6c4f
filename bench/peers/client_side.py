"""MongoDB's own client-side encryption: so many data keys rewrapped with rewrap_many_data_key, local KMS. Prints keys a second."""

import os
import sys
import time

from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.encryption import ClientEncryption

uri, database, count, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
client = MongoClient(uri, w="majority", journal=True)
keys = client[database]["keys"]
keys.drop()
with ClientEncryption(
    {"local": {"key": os.urandom(96)}}, f"{database}.keys", client, CodecOptions()
) as encryption:
    for _ in range(count):
        encryption.create_data_key("local")
    for _ in range(rounds):
        began = time.perf_counter()
        result = encryption.rewrap_many_data_key({}, provider="local")
        took = time.perf_counter() - began
        if result.bulk_write_result.modified_count != count:
            sys.exit(f"{result.bulk_write_result.modified_count} of {count} data keys were rewrapped")
        print(count / took, flush=True)
client.drop_database(database)
