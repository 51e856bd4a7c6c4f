import type { InstallRequest } from "../../src/install/request.ts";

/** What an operator asks of `install` with `--mongo=local` and nothing else, but for what is given. */
export const asked = (over: Partial<InstallRequest> = {}): InstallRequest => ({
  root: "",
  units: "started",
  mongo: "local",
  uri: undefined,
  databaseName: undefined,
  mongod: undefined,
  mongoPort: undefined,
  provider: undefined,
  token: { modulePath: undefined, label: undefined, pin: undefined, stateDirectory: undefined },
  carried: undefined,
  listen: undefined,
  instanceName: undefined,
  binary: "/tmp/certautopilot",
  version: "1.4.0",
  allowDowngrade: false,
  ...over,
});
