/** What of the driver is not declared by it, for the type checker: see `whole_records.ts`. */
declare module "mongodb/lib/cmap/commands.js" {
  export class DocumentSequence {
    constructor(field: string, documents: object[]);
    push(document: object, serialized: Uint8Array): number;
  }
}
