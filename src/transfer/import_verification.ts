import { exactId } from "../envelope/raw_record.ts";
import type { Membership } from "../fleet/join.ts";
import { inOrder } from "../library/batch.ts";
import { aboutCount, allRecords } from "../store/whole_records.ts";
import type { Contents, Header } from "./archive_format.ts";
import { betweenBatches } from "./between_batches.ts";
import { ContentsDigest } from "./contents_digest.ts";
import { openRecord, wipe } from "./open_record.ts";
import { pathsOf, type TransferReporter } from "./reporter.ts";

/**
 * Reads everything back from MongoDB and opens it: what an import has brought, counted and digested as the archive was.
 * @throws KekError when a record does not open, `cancelled`.
 */
export async function verifyContents(
  { encryption, store }: Membership,
  header: Header,
  signal: AbortSignal,
  reporter: TransferReporter,
): Promise<Contents> {
  const digest = new ContentsDigest(header);
  let of = 0;
  for (const collection of header.collections) of += await aboutCount(store, collection);
  let done = 0;
  for (const collection of header.collections) {
    const paths = pathsOf(header, collection);
    for await (const records of allRecords(store, collection)) {
      betweenBatches(signal);
      await inOrder(records, async (raw) => {
        const opened = await openRecord(raw, collection, paths, (stored, { idBson, path }) =>
          encryption.decrypt(stored, { collection, id: exactId(idBson), field: path }),
        );
        digest.add(collection, opened.plain, opened.idBson, opened.secrets);
        wipe(opened);
      });
      done += records.length;
      reporter.progress({ doing: "reading back", done, of: Math.max(of, done) });
    }
  }
  return digest.contents;
}
