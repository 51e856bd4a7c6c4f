import type { Config } from "../config/config.ts";
import type { Log } from "../errors/log.ts";
import { JsonLinesFile, JsonLinesStream, type StandardStream } from "./json_lines.ts";
import type { AuditSink } from "./sink.ts";
import { SyslogSink } from "./syslog.ts";

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
