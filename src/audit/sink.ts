import type { Config } from "../config/config.ts";
import type { Log } from "../errors/log.ts";
import type { AuditEntry } from "./chain.ts";
import { JsonLinesFile, JsonLinesStream, type StandardStream } from "./json_lines.ts";
import { SyslogSink } from "./syslog.ts";

/** Where audit events are told besides the collection, for a SIEM. The collection is the truth: a sink only repeats it. */
export interface AuditSink {
  /** Called after the events were committed. */
  write(entries: readonly AuditEntry[]): void;
  /** Sends what is still on its way, for a moment. Never throws. */
  close(): Promise<void>;
}

export interface SinkOptions {
  log: Log;
  /** What `audit.file: "-"` means here: stdout, or stderr where stdout holds a result. */
  stream: StandardStream;
}

/**
 * The sinks that are configured, the one that cannot fail first.
 * @throws KekError `config_invalid` when the audit file cannot be written, before anything is changed.
 */
export function openSinks({ file, syslog }: Config["audit"], { log, stream }: SinkOptions): AuditSink[] {
  const sinks: AuditSink[] = [];
  if (syslog !== undefined) sinks.push(new SyslogSink(syslog, log));
  if (file === "-") sinks.push(new JsonLinesStream(stream, log));
  else if (file !== undefined) sinks.push(new JsonLinesFile(file));
  return sinks;
}
