/** What is told to people while work continues. Who shows it, and where, is decided at the top. */
export interface Log {
  info(message: string): void;
  warn(message: string): void;
}

export const SILENT: Log = { info() {}, warn() {} };
