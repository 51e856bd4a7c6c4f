/**
 * Asks the runtime to give back what is no longer used. Bun lets its heap grow with the machine's memory, and what a batch
 * leaves behind lies mostly outside that heap: without this the process grows with the number of records.
 */
export function collectGarbage(): void {
  (globalThis as { Bun?: { gc(synchronously: boolean): void } }).Bun?.gc(true);
}
