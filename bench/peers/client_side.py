"""
MongoDB's own client-side encryption: so many data keys rewrapped with rewrap_many_data_key, local KMS. Prints keys a second: by one
call for all of them, as it is documented, and by a call for every so many, because the time a key grows with their number.
"""

import os
import sys
import time

from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.encryption import ClientEncryption

uri, database, count, portion = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
client = MongoClient(uri, w="majority", journal=True)
keys = client[database]["keys"]
keys.drop()
with ClientEncryption(
    {"local": {"key": os.urandom(96)}}, f"{database}.keys", client, CodecOptions()
) as encryption:
    ids = [encryption.create_data_key("local") for _ in range(count)]
    # What making them left to write is not to fall into what is timed.
    client.admin.command("fsync", 1)
    for size in (count, portion):
        portions = [ids[at : at + size] for at in range(0, count, size)]
        filters = [{"_id": {"$in": these}} for these in portions] if size < count else [{}]
        began = time.perf_counter()
        results = [encryption.rewrap_many_data_key(these, provider="local") for these in filters]
        took = time.perf_counter() - began
        rewrapped = sum(result.bulk_write_result.modified_count for result in results)
        if rewrapped != count:
            sys.exit(f"{rewrapped} of {count} data keys were rewrapped")
        print(count / took, flush=True)
client.drop_database(database)
