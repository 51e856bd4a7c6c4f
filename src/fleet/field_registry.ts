import type { FieldName } from "../config/config.ts";
import { fieldId, listField, missingFields, registerField } from "../store/fields.ts";
import type { Store } from "../store/store.ts";

/** Registers each field once in a process, before its first envelope exists: an unregistered field would be missed. */
export class FieldRegistry {
  readonly #store: Store;
  readonly #by: string;
  readonly #registering = new Map<string, Promise<void>>();
  /** Collection → paths. */
  readonly #registered = new Map<string, Set<string>>();

  constructor(store: Store, by: string) {
    this.#store = store;
    this.#by = by;
  }

  /** Whether this process has registered it: each value sealed asks. */
  has({ collection, path }: FieldName): boolean {
    return this.#registered.get(collection)?.has(path) === true;
  }

  async ensure(field: FieldName): Promise<void> {
    const id = fieldId(field);
    let registering = this.#registering.get(id);
    if (registering === undefined) {
      registering = this.#register(field).finally(() => this.#registering.delete(id));
      this.#registering.set(id, registering);
    }
    await registering;
  }

  /**
   * Registers again what this process has registered and is gone from the list: deleted there, or restored from an older backup.
   * Its envelopes would be missed by a rotation, which makes the index too where that is gone as well.
   */
  async keep(): Promise<void> {
    const mine = [...this.#registered].flatMap(([collection, paths]) =>
      [...paths].map((path) => ({ collection, path })),
    );
    if (mine.length === 0) return;
    for (const field of await missingFields(this.#store, mine)) await listField(this.#store, field, this.#by);
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #register(field: FieldName): Promise<void> {
    if (this.has(field)) return;
    await registerField(this.#store, field, this.#by);
    const paths = this.#registered.get(field.collection) ?? new Set();
    this.#registered.set(field.collection, paths.add(field.path));
  }
}
