import { EXIT } from "../errors/errors.ts";
import { addField } from "../rotation/field_registration.ts";
import { fieldId } from "../store/fields.ts";
import { leaf } from "./command.ts";
import { FIELD, fieldNamed } from "./field_name.ts";
import { withInstall } from "./session.ts";

/** `kek field add`: registers a field whose envelopes were written by a program that did not. */
export default leaf({
  summary: "Register a field, so that rotations rewrap its envelopes",
  args: { field: FIELD },
  async run({ args, output }) {
    const field = fieldNamed(args.field);
    return await withInstall(args.config, { output }, async (context) => {
      const { added, envelopes } = await addField(context, field);
      const what = added ? "is registered" : "was registered already";
      output.result(`${fieldId(field)} ${what}: ${envelopes} envelopes`, { field: fieldId(field), added, envelopes });
      return EXIT.done;
    });
  },
});
