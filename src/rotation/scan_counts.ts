import { Buffer } from "node:buffer";
import { deserialize } from "bson";
import { findEnvelopes, versionLabel } from "../envelope/envelope_finder.ts";
import { idBsonOf } from "../envelope/raw_record.ts";
import type { ScannedPlace } from "../store/verifications.ts";

/** What a search has found, place by place. Pure. */

/** An envelope, and the raw BSON of its record's `{_id}`. */
export interface Sample {
  idBson: Uint8Array;
  envelope: Uint8Array;
}

/** Envelopes at one place and version. */
export interface EnvelopePlace extends ScannedPlace {
  /** Some of them, where they are asked for. */
  samples: Sample[];
}

const SAMPLES = 3;
/** Names may be data: of so many places of one collection each is told apart, of more they are counted together. */
const MOST_PLACES = 1000;
/** Of a BSON array of one document: its length, the type and the name of the document. */
const HEAD = new Uint8Array([0, 0, 0, 0, 0x03, 0x30, 0]);
const OTHER_PLACES = "(more places)";

export class PlaceCounts {
  readonly #collection: string;
  readonly #places: Map<string, EnvelopePlace>;
  readonly #samples: boolean;

  /** @param before what an earlier run had counted. @param samples whether to keep some of the envelopes. */
  constructor(collection: string, before: ScannedPlace[], samples: boolean) {
    this.#collection = collection;
    this.#places = new Map(
      before.map((place) => [keyOf(place), { ...place, number: Number(place.number), samples: [] }]),
    );
    this.#samples = samples;
  }

  get places(): EnvelopePlace[] {
    return [...this.#places.values()];
  }

  /** Without samples, as it is stored. */
  get rows(): ScannedPlace[] {
    return this.places.map(({ samples: _left, ...row }) => row);
  }

  /** @param array a BSON array of records. @returns how many they are. @throws KekError `envelope_invalid` for what is no BSON. */
  add(array: Uint8Array): number {
    return findEnvelopes(array, ({ path, version: found, at, end }, record) => {
      const version = versionLabel(found);
      const place = this.#place(path, version, found.number);
      place.count += 1;
      if (!this.#samples || place.count > SAMPLES || place.path === OTHER_PLACES) return;
      // Copies: a view would keep the whole answer in memory.
      const envelope = Uint8Array.from(array.subarray(at, end));
      place.samples.push({ idBson: idBsonOf(array.subarray(record.start, record.end)), envelope });
    });
  }

  /** The same of one record. */
  addRecord(raw: Uint8Array): void {
    const array = Buffer.alloc(HEAD.length + raw.length + 1);
    array.set(HEAD, 0);
    array.set(raw, HEAD.length);
    array.writeInt32LE(array.length, 0);
    this.add(array);
  }

  addOne(path: string, version: string, number: number): void {
    this.#place(path, version, number).count += 1;
  }

  #place(path: string, version: string, number: number): EnvelopePlace {
    const known = this.#places.get(keyOf({ path, version }));
    if (known !== undefined) return known;
    const told = this.#places.size < MOST_PLACES ? path : OTHER_PLACES;
    const key = keyOf({ path: told, version });
    const place = this.#places.get(key) ?? {
      collection: this.#collection,
      path: told,
      version,
      number,
      count: 0,
      samples: [],
    };
    this.#places.set(key, place);
    return place;
  }
}

/** What was written while a search ran: of a version, at any place. */
export class WrittenCounts {
  readonly #version: number;
  readonly #tallies = new Map<string, PlaceCounts>();
  readonly #before: ScannedPlace[];

  constructor(version: number, before: ScannedPlace[]) {
    this.#version = version;
    this.#before = before;
  }

  get rows(): ScannedPlace[] {
    return [...this.#before, ...[...this.#tallies.values()].flatMap(({ rows }) => rows)];
  }

  /** @param events a BSON array of a change stream's events. */
  add(events: Uint8Array): void {
    findEnvelopes(events, ({ path, version }, record) => {
      if (version.number !== this.#version && !Number.isNaN(version.number)) return;
      const { ns } = deserialize(events.subarray(record.start, record.end));
      const collection = String(ns?.coll);
      const tally = this.#tallies.get(collection) ?? new PlaceCounts(collection, [], false);
      this.#tallies.set(collection, tally);
      tally.addOne(placeIn(path), versionLabel(version), version.number);
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function keyOf({ path, version }: Pick<ScannedPlace, "path" | "version">): string {
  return JSON.stringify([path, version]);
}

/** The path in the record, from that in the event. An update names fields with their dots: `updatedFields["a.b"]`. */
function placeIn(path: string): string {
  return path.replace(/^fullDocument\.?/, "").replace(/^updateDescription\.updatedFields(?:\["(.*?)"\]|\.?)/, "$1");
}
