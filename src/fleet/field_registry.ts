import type { FieldName } from "../config/config.ts";
import { fieldId, registerField } from "../store/fields.ts";
import type { Store } from "../store/store.ts";

/** Registers each field once in a process, before its first envelope exists: an unregistered field would be missed. */
export class FieldRegistry {
  readonly #store: Store;
  readonly #by: string;
  readonly #known = new Map<string, Promise<void>>();

  constructor(store: Store, by: string) {
    this.#store = store;
    this.#by = by;
  }

  async ensure(field: FieldName): Promise<void> {
    const id = fieldId(field);
    let registered = this.#known.get(id);
    if (registered === undefined) {
      registered = registerField(this.#store, field, this.#by);
      this.#known.set(id, registered);
      registered.catch(() => this.#known.delete(id));
    }
    await registered;
  }
}
