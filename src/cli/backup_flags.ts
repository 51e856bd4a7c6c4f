import { KekError } from "../errors/errors.ts";
import type { BackupCheck } from "../protocol/preflight.ts";

/** Whether a rotation needs a verified backup of its key: asked of `kek rotate`, and of `kek verify --target` for it. */

export const BACKUP_FLAGS = {
  "require-backup": {
    type: "boolean",
    description: "Refuse in every case unless `kek verify --backup` has verified a copy of the key",
  },
  "no-backup-check": { type: "boolean", description: "Start without a verified backup of the new key" },
} as const;

/** @throws KekError `usage` when both are given. */
export function backupCheck(argv: string[]): BackupCheck {
  const required = argv.includes("--require-backup");
  // citty reads the flag as the opposite of one called `backup-check`.
  const skipped = argv.includes("--no-backup-check");
  if (required && skipped)
    throw new KekError(
      "usage",
      "--require-backup and --no-backup-check contradict each other",
      "give one of them, or neither: then a rotation that starts needs a verified backup of a new key in a file",
    );
  return required ? "required" : skipped ? "skipped" : "default";
}
