import { AUDIT_EVENTS } from "../audit/chain.ts";
import { EXIT, KekError } from "../errors/errors.ts";
import { listAudit } from "../store/audit_log.ts";
import { wholeNumber } from "./arguments.ts";
import { leaf } from "./command.ts";
import { withInstall } from "./session.ts";

/** `audit list`: the newest events that fit the filters, oldest first. */
export default leaf({
  summary: "List audit events",
  args: {
    event: { type: "string", description: "Only this event, as in rotation.started", valueHint: "NAME" },
    actor: { type: "string", description: "Only by this actor", valueHint: "NAME" },
    since: { type: "string", description: "Only at or after this time (RFC 3339)", valueHint: "TIME" },
    limit: { type: "string", description: "At most so many (default 100)", valueHint: "N" },
  },
  async run({ args, output }) {
    const limit = wholeNumber("limit", args.limit, 1, 100_000) ?? 100;
    const since = args.since === undefined ? undefined : new Date(args.since);
    if (since !== undefined && Number.isNaN(since.getTime())) {
      throw new KekError("usage", "--since is not a time", "write it as 2026-05-01T09:00:00Z");
    }
    if (args.event !== undefined && !AUDIT_EVENTS.some((name) => name === args.event)) {
      throw new KekError(
        "usage",
        `--event=${args.event} is no audit event`,
        `the events are: ${AUDIT_EVENTS.join(", ")}`,
      );
    }
    return await withInstall(args.config, { output, keys: false }, async ({ store }) => {
      const entries = await listAudit(store, {
        limit,
        ...(args.event === undefined ? {} : { event: args.event }),
        ...(args.actor === undefined ? {} : { actor: args.actor }),
        ...(since === undefined ? {} : { since }),
      });
      const lines = entries.map(
        (entry) =>
          `${entry.seq}  ${entry.at.toISOString()}  ${entry.event}  ${entry.actor}  ${JSON.stringify(entry.data)}`,
      );
      output.result(lines.join("\n"), entries);
      return EXIT.done;
    });
  },
});
