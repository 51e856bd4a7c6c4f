import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { canonicalJson } from "../../src/audit/chain.ts";
import { run, start, startCommand, stop, testInstall, until } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { receiveDatagrams, receiveStream, type SyslogReceiver } from "../harness/syslog_receiver.ts";

/** Audit events beside the collection: JSON lines and syslog, from every kind of process. */

const scratch = scratchDirectory();

/** A certificate for 127.0.0.1 that signs itself. */
function certificate(): { cert: string; key: string; certFile: string } {
  const [key, certFile] = [join(scratch, "key.pem"), join(scratch, "cert.pem")];
  const words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  const names = ["-subj", "/CN=siem", "-addext", "subjectAltName=IP:127.0.0.1"];
  execFileSync("openssl", [...words, ...names, "-keyout", key, "-out", certFile], { stdio: "pipe" });
  return { cert: readFileSync(certFile, "utf8"), key: readFileSync(key, "utf8"), certFile };
}

const seqs = (receiver: SyslogReceiver) => receiver.messages().map(({ msg }) => JSON.parse(msg).seq as number);

test("every event of a rotation reaches file, standard streams and syslog once, as it stands in audit_log", async () => {
  const install = await testInstall();
  const pem = certificate();
  const [tcp, tls, udp] = [await receiveStream(), await receiveStream(0, pem), await receiveDatagrams()];
  const syslog = (url: string) => ({ CERTAUTOPILOT_AUDIT_SYSLOG: url });
  const file = join(scratch, "audit.jsonl");

  // The first process locks the install; the other has nothing to tell, under Deno, until a fence is repaired.
  const serving = { ...syslog(`tcp://127.0.0.1:${tcp.port}`), CERTAUTOPILOT_AUDIT_FILE: "-" };
  const first = await install.serve("first", [1, 2], 1, serving);
  await stop(first);
  const begun = await install.db.collection("audit_log").countDocuments();
  const fleet = await Promise.all(["a", "b"].map((name) => install.serve(name, [1, 2], 2)));
  const secure = { ...syslog(`tls://127.0.0.1:${tls.port}`), CERTAUTOPILOT_AUDIT_SYSLOG_CA_FILE: pem.certFile };
  const operator = install.variables([1, 2], 2, { ...secure, CERTAUTOPILOT_AUDIT_FILE: file });
  const rotated = await run(["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"], operator);
  expect(rotated.code, rotated.stderr).toBe(0);
  expect(rotated.json).toMatchObject({ state: "completed" });
  const done = await install.db.collection("audit_log").countDocuments();
  const over = { ...syslog(`udp://127.0.0.1:${udp.port}`), CERTAUTOPILOT_AUDIT_FILE: "-" };
  const refused = await run(
    ["kek", "rotate", "--to-version=3", "--no-backup-check", "--json"],
    install.variables([1, 2], 2, over),
    "deno",
  );
  expect(refused.json.error.exit).toBe(3);
  await stop(...fleet);

  const stored = await install.db
    .collection("audit_log")
    .find({}, { projection: { _id: 0 } })
    .sort({ seq: 1 })
    .toArray();
  const told = stored.map(canonicalJson);
  expect([begun, done, stored.length].map((count) => stored[count - 1]?.["event"])).toEqual([
    "version.activated",
    "rotation.completed",
    "rotation.refused",
  ]);
  // serve has stdout to itself; a command's stdout is its result, so there it is stderr.
  expect(first.stdout).toBe(
    told
      .slice(0, begun)
      .map((line) => `${line}\n`)
      .join(""),
  );
  expect(readFileSync(file, "utf8")).toBe(
    told
      .slice(begun, done)
      .map((line) => `${line}\n`)
      .join(""),
  );
  expect(refused.stderr.split("\n").filter((line) => line.startsWith("{"))).toEqual(told.slice(done));
  await until("UDP has it", async () => udp.messages().length > 0);
  const numbers = stored.map(({ seq }) => seq);
  expect(seqs(tcp)).toEqual(numbers.slice(0, begun));
  expect(seqs(tls)).toEqual(numbers.slice(begun, done));
  expect(seqs(udp)).toEqual(numbers.slice(done));
  expect(tls.messages().map(({ msgId }) => msgId)).toEqual(stored.slice(begun, done).map(({ event }) => event));
  await Promise.all([tcp, tls, udp].map((receiver) => receiver.stop()));
});

test("a receiver whose certificate nobody signed gets nothing, and a dead one stops nothing", async () => {
  const install = await testInstall();
  const pem = certificate();
  const tls = await receiveStream(0, pem);
  const serving = await install.serve("a", [1], 1, { CERTAUTOPILOT_AUDIT_SYSLOG: `tls://127.0.0.1:${tls.port}` });
  await stop(serving);
  expect(serving.stderr).toContain(`audit events do not reach syslog at tls://127.0.0.1:${tls.port}: `);
  expect(serving.stderr.match(/do not reach/g)).toHaveLength(1);
  expect(serving.stderr).toMatch(/\d audit events did not reach syslog/);
  expect(tls.messages()).toEqual([]);
  expect(await install.db.collection("audit_log").countDocuments()).toBeGreaterThan(1);
  // The same receiver, once the host trusts who signed its certificate.
  const trusting = { CERTAUTOPILOT_AUDIT_SYSLOG: `tls://127.0.0.1:${tls.port}`, SSL_CERT_FILE: pem.certFile };
  await stop(await install.serve("b", [1, 2], 1, trusting));
  expect(tls.messages().length).toBeGreaterThan(0);
  await tls.stop();
});

test("a reader of stdout that is gone stops nothing either", async () => {
  const install = await testInstall();
  const serving = start(["serve"], install.variables([1], 1, { CERTAUTOPILOT_AUDIT_FILE: "-" }));
  serving.child.stdout?.destroy();
  await serving.says(" is ready on ");
  await serving.says("audit events no longer reach stdout: ");
  await stop(serving);
  expect((await serving.exited).code).toBe(0);
});

test("what is no receiver is refused by name", async () => {
  const install = await testInstall();
  const refused = async (over: Record<string, string>) => await run(["kek", "status"], install.variables([1], 1, over));
  for (const url of ["siem:514", "unix:/dev/log", "udp://user@siem", "tcp://siem:99999", "tls://siem/path", "tcp://"]) {
    const { code, stderr } = await refused({ CERTAUTOPILOT_AUDIT_SYSLOG: url });
    expect(code).toBe(2);
    expect(stderr).toContain("CERTAUTOPILOT_AUDIT_SYSLOG (audit.syslog) must ");
  }
  const alone = await refused({ CERTAUTOPILOT_AUDIT_SYSLOG_CA_FILE: "/x", CERTAUTOPILOT_AUDIT_SYSLOG: "tcp://siem" });
  expect(alone.code).toBe(2);
  expect(alone.stderr).toContain("is not tls://");
});

test("what a slow reader of standard output has not taken yet is waited for at the end", async () => {
  const EVENTS = 500;
  const source = `
    const { JsonLinesStream } = await import(${JSON.stringify(join(import.meta.dir, "../../src/audit/json_lines.ts"))});
    const sink = new JsonLinesStream("stdout", { info() {}, warn(message) { console.error(message); } });
    for (let seq = 1; seq <= ${EVENTS}; seq += 1) sink.write([{ seq, at: new Date(), data: "x".repeat(1000) }]);
    await sink.close();
    process.exit(0);`;
  const program = startCommand(["sh", "-c", '"$0" -e "$1" | (sleep 1; wc -l)', process.execPath, source]);
  const { stdout, stderr } = await program.exited;
  expect([Number(stdout), stderr]).toEqual([EVENTS, ""]);
});
