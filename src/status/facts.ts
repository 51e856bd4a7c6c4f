import type { FleetTimes } from "../config/config.ts";
import type { AuditTail } from "../store/audit_tail.ts";
import type { CensusRow } from "../store/census.ts";
import type { InstallDoc, RotationDoc } from "../store/documents.ts";
import type { FieldFacts } from "../store/field_facts.ts";
import type { Member } from "../store/heartbeats.ts";
import type { KekState } from "../store/state.ts";

/** What was read of an install, before it is judged. */
export interface StatusFacts {
  now: Date;
  install: InstallDoc;
  state: KekState;
  roster: Member[];
  census: { rows: CensusRow[]; at: Date };
  fields: FieldFacts;
  /** Newest first. */
  history: RotationDoc[];
  audit: AuditTail;
  times: FleetTimes;
  rotationPeriodMs: number;
}
