import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { hostName } from "../config/environment.ts";
import { KekError, rfc3339 } from "../errors/errors.ts";
import type { LoginDoc } from "../protocol/documents.ts";
import type { LoginClaim, LoginClaims, LoginSource } from "../providers/login_claims.ts";
import { loginOf } from "./document_reader.ts";
import { isDuplicateKey, serverCode } from "./mongodb_errors.ts";
import { type Store, serverNow } from "./store.ts";

/**
 * `kek_logins`: which process of the install sends a PIN to a token just now, and whether the last one was refused. One tries, the
 * others wait for the outcome. After a refusal a PIN is sent only from a file that changed since, so no PIN is sent twice, though
 * nothing here tells one PIN from another. A claim runs out by itself: then nobody knows the outcome, and the next process tries.
 */
export class LoginRegister implements LoginClaims {
  readonly #store: Store;
  readonly #attended: boolean;

  /** @param attended whether a person runs this command: then a PIN that is in no file counts as given for it. */
  constructor(store: Store, attended: boolean) {
    this.#store = store;
    this.#attended = attended;
  }

  async take(tokenLabel: string, source: LoginSource): Promise<LoginClaim> {
    const owner = randomUUID();
    const until = performance.now() + source.limitMs * WAITS;
    for (;;) {
      const doc = await this.#read(tokenLabel);
      await this.#refuseTried(tokenLabel, source, doc);
      if (await this.#claim(tokenLabel, owner, source.limitMs, doc))
        return { give: (code) => this.#give(tokenLabel, owner, source, code) };
      if (performance.now() > until) throw busy(tokenLabel);
      await sleep(POLL_MS);
    }
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #read(tokenLabel: string): Promise<LoginDoc | undefined> {
    const doc = await logins(this.#store).findOne({ _id: tokenLabel });
    return doc === null ? undefined : loginOf(doc);
  }

  /** @throws KekError `hsm_pin` when the PIN may be the one that was refused. */
  async #refuseTried(tokenLabel: string, source: LoginSource, doc: LoginDoc | undefined): Promise<void> {
    if (source.typed || (source.changedAt === undefined && this.#attended)) return;
    const own = doc?.refusals.find(({ host, from }) => host === hostName() && from === source.from);
    // This very file, also after another PIN was accepted elsewhere.
    if (own !== undefined && own.changed_at?.getTime() === source.changedAt) throw tried(tokenLabel, source, own);
    const last = doc?.refused;
    if (last === undefined || last === null) return;
    const aheadMs = (await serverNow(this.#store)).getTime() - Date.now();
    if (source.changedAt === undefined || source.changedAt + aheadMs <= last.at.getTime())
      throw tried(tokenLabel, source, last);
  }

  /** @returns whether this process may try now. */
  async #claim(tokenLabel: string, owner: string, forMs: number, seen: LoginDoc | undefined): Promise<boolean> {
    const free = [{ $eq: [{ $ifNull: ["$claim", null] }, null] }, { $lt: ["$claim.expires_at", "$$NOW"] }];
    const asSeen = { $eq: [{ $ifNull: ["$refused.at", null] }, seen?.refused?.at ?? null] };
    const claim = {
      owner: { $literal: owner },
      host: { $literal: hostName() },
      expires_at: { $add: ["$$NOW", forMs] },
    };
    try {
      const { matchedCount, upsertedCount } = await logins(this.#store).updateOne(
        seen === undefined
          ? { _id: tokenLabel, refusals: { $exists: false } }
          : { _id: tokenLabel, $expr: { $and: [asSeen, { $or: free }] } },
        [{ $set: { claim, refused: { $ifNull: ["$refused", null] }, refusals: { $ifNull: ["$refusals", []] } } }],
        { upsert: seen === undefined },
      );
      return matchedCount + upsertedCount > 0;
    } catch (thrown) {
      if (isDuplicateKey(thrown)) return false;
      // A user who may only read cannot claim: what was refused is heeded all the same.
      if (serverCode(thrown) === UNAUTHORIZED) return true;
      throw thrown;
    }
  }

  async #give(tokenLabel: string, owner: string, source: LoginSource, refusedWith: number | undefined): Promise<void> {
    const refusal = {
      host: hostName(),
      from: source.from,
      changed_at: source.changedAt === undefined ? null : new Date(source.changedAt),
      code: refusedWith ?? 0,
    };
    // A person's typing error says nothing of the PINs that processes have.
    const told = source.typed && refusedWith !== 0 ? undefined : refusedWith;
    const others = {
      $filter: {
        input: "$refusals",
        cond: {
          $and: [
            {
              $not: [
                {
                  $and: [{ $eq: ["$$this.host", refusal.host] }, { $eq: ["$$this.from", { $literal: refusal.from }] }],
                },
              ],
            },
            // A PIN that is in no file has no time: it is tried again once another is accepted.
            told === 0 ? { $ne: ["$$this.changed_at", null] } : true,
          ],
        },
      },
    };
    const now = { ...refusal, from: { $literal: refusal.from }, host: { $literal: refusal.host }, at: "$$NOW" };
    const outcome =
      told === undefined
        ? {}
        : told === 0
          ? { refused: null, refusals: others }
          : { refused: now, refusals: { $slice: [{ $concatArrays: [others, [now]] }, -MOST_REFUSALS] } };
    try {
      await logins(this.#store).updateOne({ _id: tokenLabel, "claim.owner": owner }, [
        { $set: { claim: null, ...outcome } },
      ]);
      // Where nothing was refused there is nothing to keep.
      await logins(this.#store).deleteOne({ _id: tokenLabel, claim: null, refused: null, refusals: { $size: 0 } });
    } catch (thrown) {
      if (serverCode(thrown) !== UNAUTHORIZED) throw thrown;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const POLL_MS = 200;
/** How many logins of others are waited for. */
const WAITS = 10;
const MOST_REFUSALS = 200;
const UNAUTHORIZED = 13;

function logins(store: Store) {
  return store.db.collection<LoginDoc>("kek_logins");
}

function tried(
  tokenLabel: string,
  source: LoginSource,
  { at, host, from }: NonNullable<LoginDoc["refused"]>,
): KekError {
  return new KekError(
    "hsm_pin",
    `token "${tokenLabel}": no login is tried, for the token refused a PIN at ${rfc3339(at)} (${host}, ${from}), and it may be the same as the one from ${source.from}`,
    source.changedAt === undefined
      ? `correct the PIN, then try it once: certautopilot kek verify; the others follow when it is accepted. Or keep it in a file (encryption.pkcs11.pin_file), which is read again when it has changed`
      : `write the right PIN into the file: it is tried when the file has changed since. If the PIN in it is right already, run: touch ${source.from.replace(/^the PIN file /, "")}`,
  );
}

function busy(tokenLabel: string): KekError {
  return new KekError(
    "hsm_unavailable",
    `token "${tokenLabel}": other processes of the install have been logging in for minutes, one at a time`,
    "see whether C_Login of the HSM is slow; this program retries",
  );
}
