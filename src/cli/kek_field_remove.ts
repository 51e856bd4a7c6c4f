import { EXIT, KekError } from "../errors/errors.ts";
import { removeField } from "../rotation/field_registration.ts";
import { fieldId } from "../store/fields.ts";
import { leaf } from "./command.ts";
import { FIELD, fieldNamed } from "./field_name.ts";
import { withInstall } from "./session.ts";

/** `kek field remove`: unregisters a field that holds no envelope any more. */
export default leaf({
  summary: "Unregister a field that holds no envelope",
  args: {
    field: FIELD,
    yes: { type: "boolean", description: "Do not ask" },
  },
  async run({ args, output }) {
    const field = fieldNamed(args.field);
    return await withInstall(args.config, { output, keys: false }, async (context) => {
      if (args.yes !== true && !(await output.confirm(`Unregister ${fieldId(field)}?`)))
        throw new KekError("cancelled", "nothing was changed", "run it again when you are sure");
      await removeField(context, field);
      const text = `${fieldId(field)} is not registered any more; a process that writes it registers it again`;
      output.result(text, { field: fieldId(field), removed: true });
      return EXIT.done;
    });
  },
});
