import type { FleetTimes } from "../config/config.ts";
import type { InstallDoc, RotationDoc } from "../protocol/documents.ts";
import type { Member } from "../protocol/member.ts";
import type { VersionCount } from "../protocol/version_count.ts";
import type { AuditTail } from "../store/audit_tail.ts";
import type { FieldFacts } from "../store/field_facts.ts";
import type { KekState } from "../store/state.ts";

/** What was read of an install, before it is judged. */
export interface StatusFacts {
  now: Date;
  install: InstallDoc;
  state: KekState;
  roster: Member[];
  versionCounts: { rows: VersionCount[]; at: Date };
  fields: FieldFacts;
  /** Newest first. */
  history: RotationDoc[];
  audit: AuditTail;
  times: FleetTimes;
  rotationPeriodMs: number;
}
