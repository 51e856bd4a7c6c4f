import { EXIT } from "../errors/errors.ts";
import { fieldProblems } from "../status/field_problems.ts";
import { readFieldFacts } from "../store/field_facts.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { countVersions } from "../store/version_counts.ts";
import { leaf } from "./command.ts";
import { withInstall } from "./session.ts";
import { table } from "./table.ts";

/** `kek field list`: the registered fields, their collections and envelopes. */
export default leaf({
  summary: "List registered fields with their envelopes by version",
  args: {},
  async run({ args, output }) {
    return await withInstall(args.config, { output, keys: false }, async ({ store }) => {
      const fields = await readFields(store);
      const [counts, facts] = await Promise.all([countVersions(store, fields), readFieldFacts(store, fields)]);
      const listed = facts.fields.map(({ field, collection, index }) => ({
        field: fieldId(field),
        registered_by: fields.find(({ _id }) => _id === fieldId(field))?.registered_by ?? null,
        collection: collection?.type ?? null,
        index: index.state,
        versions: counts
          .filter((row) => row.field === fieldId(field))
          .map(({ version, count }) => ({ version, count })),
      }));
      const rows = listed.map(({ field, collection, index, versions, registered_by: by }) => [
        field,
        collection ?? "no such collection",
        index,
        versions.map(({ version, count }) => `v${version}: ${count}`).join(", ") || "none",
        by ?? "",
      ]);
      const problems = fieldProblems(facts);
      const text = [
        rows.length === 0
          ? "no field is registered"
          : table(["field", "collection", "index", "envelopes", "registered by"], rows),
        ...problems.map((problem) => `problem: ${problem.message}\n   hint: ${problem.hint}`),
      ];
      output.result(text.join("\n"), { fields: listed, problems });
      return EXIT.done;
    });
  },
});
