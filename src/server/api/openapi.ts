import { toJsonSchemaDefs } from "@valibot/to-json-schema";
import manifest from "../../../package.json" with { type: "json" };
import { MAX_BODY_BYTES } from "./body.ts";
import { BASE64_PATTERN, base64, idPart, recordId, subdocument } from "./extended_json.ts";
import { type ApiOperation, PROBLEM_JSON, REFUSALS } from "./problem.ts";
import * as schemas from "./schemas.ts";

/** The description of the API (OpenAPI 3.1), made from the schemas that requests are read with. */

export function openApiDocument(): object {
  document ??= made();
  return document;
}

// ---------------------------------------------------------------------------------------------------------------------

let document: object | undefined;

const COMPONENTS = {
  Base64: base64,
  RecordId: recordId,
  IdPart: idPart,
  Subdocument: subdocument,
  Envelope: schemas.envelope,
  EncryptItem: schemas.encryptItem,
  EncryptBatch: schemas.encryptBatch,
  DecryptItem: schemas.decryptItem,
  DecryptBatch: schemas.decryptBatch,
  Encrypted: schemas.encrypted,
  EncryptedBatch: schemas.encryptedBatch,
  Decrypted: schemas.decrypted,
  DecryptedBatch: schemas.decryptedBatch,
  Problem: schemas.problem,
};

const ref = (name: keyof typeof COMPONENTS) => ({ $ref: `#/components/schemas/${name}` });

function made(): object {
  const components = toJsonSchemaDefs(COMPONENTS, {
    typeMode: "input",
    target: "draft-2020-12",
    overrideRef: ({ referenceId }) => `#/components/schemas/${referenceId}`,
  });
  // Read without a pattern, for speed; shown with one.
  Object.assign(components.Base64, { pattern: BASE64_PATTERN, contentEncoding: "base64" });
  Object.assign(components.RecordId, { description: ID_RULE });
  return {
    openapi: "3.1.0",
    info: {
      title: "certautopilot",
      version: manifest.version,
      license: { name: manifest.license, identifier: manifest.license },
      description:
        "Seals and opens secret fields of MongoDB records. The client stores the envelopes that it is given; the server " +
        "follows every change of the key-encryption key by itself.",
    },
    servers: [{ url: "/" }],
    security: [{ token: [] }],
    paths: {
      "/v1/encrypt": { post: operation("encrypt") },
      "/v1/decrypt": { post: operation("decrypt") },
      "/v1/openapi.json": {
        get: {
          operationId: "description",
          summary: "This document",
          security: [],
          responses: {
            200: { description: "The document", content: { "application/json": { schema: { type: "object" } } } },
            ...problems([403, 421, 500]),
          },
        },
      },
    },
    components: {
      schemas: components,
      securitySchemes: {
        token: { type: "http", scheme: "bearer", description: "The token in the server's token file." },
      },
    },
  };
}

const ID_RULE =
  "The record's `_id` as MongoDB Extended JSON v2, exactly as it is stored: an envelope opens only there. A plain number " +
  "is a whole one that fits an int32, and means an int32; all others are written out (`$numberLong`, `$numberDouble`, " +
  "`$numberDecimal`). The order of a subdocument's members counts.";

const BATCH_RULE =
  `One value, or a batch of up to ${schemas.MAX_ITEMS} in \`items\`; a body has at most ${MAX_BODY_BYTES} bytes, a value ` +
  "8 MiB. The answers of a batch stand in the order of its items. An item that cannot be done has its problem in its " +
  "place, and the others are done; a request that is not of this form is refused whole, and nothing is done.";

function operation(name: ApiOperation) {
  const [one, many] =
    name === "encrypt" ? (["Encrypted", "EncryptedBatch"] as const) : (["Decrypted", "DecryptedBatch"] as const);
  const [item, batch] =
    name === "encrypt" ? (["EncryptItem", "EncryptBatch"] as const) : (["DecryptItem", "DecryptBatch"] as const);
  const refusals = [400, 401, 403, 408, 413, 415, 421, 422, 500, 503];
  return {
    operationId: name,
    summary: name === "encrypt" ? "Seals values, each for its place" : "Opens envelopes that were read at their places",
    description: BATCH_RULE,
    requestBody: {
      required: true,
      content: {
        "application/json": { schema: { anyOf: [ref(item), ref(batch)] }, examples: REQUESTS[name] },
      },
    },
    responses: {
      200: {
        description: "Done; in a batch, each item by itself",
        content: { "application/json": { schema: { anyOf: [ref(one), ref(many)] }, examples: ANSWERS[name] } },
      },
      ...problems(name === "encrypt" ? refusals : [...refusals, 409]),
    },
  };
}

function problems(statuses: number[]): Record<number, object> {
  const titles = (status: number) =>
    Object.values(REFUSALS)
      .filter(([each]) => each === status)
      .map(([, title]) => title);
  return Object.fromEntries(
    statuses.map((status) => [
      status,
      {
        description: [...titles(status), ...(MORE[status] ?? [])].join("; "),
        content: { [PROBLEM_JSON]: { schema: ref("Problem") } },
      },
    ]),
  );
}

const MORE: Record<number, string[]> = {
  409: ["The envelope's KEK version is not in use"],
  422: ["The field cannot hold envelopes; the envelope is none of this install, or does not open at this place"],
  500: ["Something unexpected happened"],
  503: ["The server cannot do this now; `Retry-After` says when to come again"],
};

const PLACE = { collection: "users", id: { $oid: "65f1c0ffee0123456789abcd" }, field: "totp_seed" };
const PLAINTEXT = "SkJTV1kzRFBFSFBLM1BYUA==";
const ENVELOPE = {
  format: { $numberInt: "1" },
  provider: "env",
  kek_version: { $numberInt: "1" },
  wrapped_dek: bytes(60),
  nonce: bytes(12),
  ciphertext: bytes(32),
};

const REQUESTS = {
  encrypt: {
    single: { value: { ...PLACE, plaintext: PLAINTEXT } },
    batch: { value: { items: [{ ...PLACE, plaintext: PLAINTEXT }] } },
  },
  decrypt: {
    single: { value: { ...PLACE, envelope: ENVELOPE } },
    batch: { value: { items: [{ ...PLACE, envelope: ENVELOPE }] } },
  },
};
const ANSWERS = {
  encrypt: { single: { value: { envelope: ENVELOPE } }, batch: { value: { items: [{ envelope: ENVELOPE }] } } },
  decrypt: { single: { value: { plaintext: PLAINTEXT } }, batch: { value: { items: [{ plaintext: PLAINTEXT }] } } },
};

function bytes(count: number) {
  return { $binary: { base64: Buffer.alloc(count, 1).toString("base64"), subType: "00" } };
}
