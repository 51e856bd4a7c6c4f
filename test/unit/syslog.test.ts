import { expect, test } from "bun:test";
import { type AuditEntry, canonicalJson, isMadeWith, link } from "../../src/audit/chain.ts";
import { SyslogSink } from "../../src/audit/syslog.ts";
import { framed, syslogMessage } from "../../src/audit/syslog_message.ts";
import { until } from "../harness/program.ts";
import { parseRfc5424, receiveDatagrams, receiveStream } from "../harness/syslog_receiver.ts";

const ORIGIN = { host: "host-a", pid: 42 };
const data = { from: 1, note: 'naïve \u{1f511} ]"\\ \u007f' };
const ENTRY = link("of the tests", undefined, {
  at: new Date(1_700_000_000_123),
  actor: "cli ü",
  event: "rotation.started",
  data,
});
const after = (entry: AuditEntry, event: AuditEntry["event"] = "rotation.phase") =>
  link("of the tests", entry, { at: entry.at, actor: "cli", event, data: {} });

function telling() {
  const said: string[] = [];
  return {
    said,
    log: { info: (text: string) => void said.push(text), warn: (text: string) => void said.push(`! ${text}`) },
  };
}

test("an event is one message of RFC 5424, and its JSON still carries a mac that fits", () => {
  const parsed = parseRfc5424(syslogMessage(ENTRY, ORIGIN));
  expect(parsed).toMatchObject({
    facility: 13,
    severity: 5,
    timestamp: "2023-11-14T22:13:20.123Z",
    hostname: "host-a",
    appName: "certautopilot",
    procId: "42",
    msgId: "rotation.started",
    elements: { meta: { sequenceId: "1" } },
  });
  const told = JSON.parse(parsed.msg);
  expect(isMadeWith("of the tests", { ...told, at: new Date(told.at) })).toBe(true);
  expect(canonicalJson(told)).toBe(canonicalJson(ENTRY));
});

test("what needs a person is a warning, progress is information", () => {
  const severity = (event: AuditEntry["event"]) => parseRfc5424(syslogMessage(after(ENTRY, event), ORIGIN)).severity;
  expect(severity("process.evicted")).toBe(4);
  expect(severity("rotation.refused")).toBe(4);
  expect(severity("rotation.progress")).toBe(6);
  expect(severity("install.locked")).toBe(5);
});

test("a host's name that RFC 5424 does not know, and a sequence beyond its range, stay within the grammar", () => {
  const { hostname, elements } = parseRfc5424(
    syslogMessage({ ...ENTRY, seq: 2_147_483_648 }, { host: `hôte a${"x".repeat(300)}`, pid: 1 }),
  );
  expect(hostname).toStartWith("h?te?ax");
  expect(hostname).toHaveLength(255);
  expect(elements["meta"]?.["sequenceId"]).toBe("1");
  expect(parseRfc5424(syslogMessage(ENTRY, { host: "", pid: 1 })).hostname).toBe("-");
});

test("a frame counts octets", () => {
  const message = syslogMessage(ENTRY, ORIGIN);
  expect(framed(message).toString("latin1")).toBe(`${message.length} ${message.toString("latin1")}`);
});

test("events go over UDP, an oversized one cut to a datagram", async () => {
  const receiver = await receiveDatagrams();
  const { said, log } = telling();
  const sink = new SyslogSink({ transport: "udp", host: "127.0.0.1", port: receiver.port }, log);
  sink.write([ENTRY, { ...after(ENTRY), data: { long: "x".repeat(100_000) } }]);
  await until("both arrive", async () => receiver.messages().length === 2);
  expect(receiver.messages()[1]?.msg.length).toBeGreaterThan(60_000);
  await sink.close();
  expect(said).toEqual([]);
  await receiver.stop();
});

test("a receiver that goes away is told of once, and gets what came meanwhile when it is back", async () => {
  const first = await receiveStream();
  const { said, log } = telling();
  const sink = new SyslogSink({ transport: "tcp", host: "127.0.0.1", port: first.port }, log);
  sink.write([ENTRY]);
  await until("the first arrives", async () => first.messages().length === 1);
  await first.stop();
  await until("the end of the connection is seen", async () => {
    sink.write([after(ENTRY)]);
    return said.length > 0;
  });
  const late = after(after(ENTRY));
  sink.write([late]);
  const second = await receiveStream(first.port);
  await until("it arrives late", async () => second.messages().some(({ msg }) => JSON.parse(msg).seq === late.seq));
  await until("it is said", async () => said.length > 1);
  expect(said[0]).toMatch(/^! audit events do not reach syslog at tcp:\/\/127\.0\.0\.1:\d+: /);
  expect(said[1]).toMatch(/takes audit events again$/);
  await sink.close();
  expect(said).toHaveLength(2);
  await second.stop();
});

test("a receiver that never answers holds up the end for a moment only, and what is lost is counted", async () => {
  const { said, log } = telling();
  const gone = await receiveStream();
  await gone.stop();
  const sink = new SyslogSink({ transport: "tcp", host: "127.0.0.1", port: gone.port }, log);
  for (let count = 0; count < 1500; count += 1) sink.write([ENTRY]);
  const began = performance.now();
  await sink.close();
  expect(performance.now() - began).toBeLessThan(4000);
  expect(said).toHaveLength(2);
  expect(said[1]).toContain("1500 audit events did not reach syslog");
});
