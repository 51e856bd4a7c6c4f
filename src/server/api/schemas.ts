import * as v from "valibot";
import { MAX_VERSION } from "../../envelope/envelope.ts";
import { base64, binary, int32, recordId } from "./extended_json.ts";

/** What the API takes and gives; the OpenAPI document is made from these. Members that are not named are refused. */

export const MAX_ITEMS = 1000;
/** Of a collection's name and of a path, in characters. */
const MAX_NAME = 150;

/** As `store/field_names.ts` has it: none of our own collections, none of MongoDB's. */
const collection = v.pipe(
  v.string(),
  v.maxLength(MAX_NAME, `must be at most ${MAX_NAME} characters long`),
  v.regex(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what BSON and MongoDB forbid in a name
    /^(?!kek_|process_heartbeats$|audit_log$|system\.|\.)[^$\u0000]*[^$.\u0000]$/,
    "must be the name of a collection of the application's",
  ),
  v.description("The collection in which the record is."),
);
const field = v.pipe(
  v.string(),
  v.maxLength(MAX_NAME, `must be at most ${MAX_NAME} characters long`),
  v.regex(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what BSON and MongoDB forbid in a name
    /^(?!_id$|_id\.)[^$.\u0000][^.\u0000]*(\.[^$.\u0000][^.\u0000]*)*$/,
    "must be the path of a field, with dots through subdocuments",
  ),
  v.description("The path of the field in which the envelope is stored; dots lead through subdocuments."),
);
const place = { collection, id: recordId, field };

/** The provider is compared by whoever opens it: an envelope of another is foreign. */
export const envelope = v.pipe(
  v.strictObject({
    format: int32,
    provider: v.picklist(["env", "pkcs11"]),
    kek_version: v.union([v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_VERSION)), int32.options[1]]),
    wrapped_dek: binary,
    nonce: binary,
    ciphertext: binary,
  }),
  v.description(
    "An envelope as extended JSON: to be stored at the field as it is. Given in canonical form, taken in either.",
  ),
);

export const encryptItem = v.strictObject({ ...place, plaintext: base64 });
export const decryptItem = v.strictObject({ ...place, envelope });
export const encryptBatch = batchOf(encryptItem);
export const decryptBatch = batchOf(decryptItem);

export const encrypted = v.strictObject({ envelope });
export const decrypted = v.strictObject({ plaintext: base64 });

export const problem = v.pipe(
  v.strictObject({
    type: v.pipe(v.string(), v.regex(/^urn:certautopilot:problem:[a-z0-9_]+$/)),
    title: v.string(),
    status: v.pipe(v.number(), v.integer(), v.minValue(400), v.maxValue(599)),
    detail: v.string(),
    hint: v.pipe(v.string(), v.description("What to do next.")),
    code: v.pipe(v.string(), v.description("Stable, for programs.")),
  }),
  v.description("What went wrong (RFC 9457). Holds no plaintext, no token and no key."),
);
const failed = v.strictObject({ error: problem });
export const encryptedBatch = v.strictObject({
  items: v.pipe(v.array(v.union([encrypted, failed])), v.maxLength(MAX_ITEMS)),
});
export const decryptedBatch = v.strictObject({
  items: v.pipe(v.array(v.union([decrypted, failed])), v.maxLength(MAX_ITEMS)),
});

export type EncryptItem = v.InferOutput<typeof encryptItem>;
export type DecryptItem = v.InferOutput<typeof decryptItem>;

// ---------------------------------------------------------------------------------------------------------------------

function batchOf<T extends v.GenericSchema>(item: T) {
  return v.strictObject({
    items: v.pipe(
      v.array(item),
      v.minLength(1, "must hold at least one item"),
      v.maxLength(MAX_ITEMS, `must hold at most ${MAX_ITEMS} items`),
    ),
  });
}
