import { leaf } from "./command.ts";
export default leaf({ summary: "demo", args: {}, async run() { return 0; } });
