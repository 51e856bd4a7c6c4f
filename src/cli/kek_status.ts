import { EXIT } from "../errors/errors.ts";
import { StatusReader } from "../status/read_status.ts";
import { leaf } from "./command.ts";
import { unpainted } from "./screen.ts";
import { withInstall } from "./session.ts";
import { statusLines } from "./status_text.ts";
import { watchStatus } from "./status_watch.ts";

/** `kek status`: what there is, on one screen. */
export default leaf({
  summary: "Versions, version counts, open rotation, history, processes, drift",
  args: {
    watch: {
      type: "boolean",
      description: "Live until Ctrl-C; off a terminal a line, or with --json a document, a change",
    },
  },
  async run({ args, output }) {
    return await withInstall(args.config, { output, keys: false }, async ({ store, install, config }) => {
      const reader = new StatusReader(store, install, config);
      if (args.watch === true) {
        await watchStatus(reader, output);
        return EXIT.done;
      }
      const view = await reader.read();
      const { screen } = output;
      const paper = { width: screen?.columns ?? Number.POSITIVE_INFINITY, paint: screen?.paint ?? unpainted };
      output.result(statusLines(view, paper).join("\n"), view);
      return EXIT.done;
    });
  },
});
