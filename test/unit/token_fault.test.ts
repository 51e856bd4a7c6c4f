import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { kindOf, TokenFault } from "../../src/providers/pkcs11/token_fault.ts";

/** What a module answered, out of what pkcs11js throws. */

test("the code is taken from the property, or from the message", () => {
  const withCode = Object.assign(new Error("CKR_PIN_INCORRECT:160"), { code: 160 });
  const inMessage = new Error("CKR_SESSION_HANDLE_INVALID:179\n    at Error: native");
  const vendor = new Error("CKR_VENDOR_DEFINED:2147483649");
  for (const [thrown, code, message] of [
    [withCode, 0xa0, "C_Login: CKR_PIN_INCORRECT"],
    [inMessage, 0xb3, "C_Login: CKR_SESSION_HANDLE_INVALID"],
    [vendor, 0x80000001, "C_Login: 0x80000001"],
  ] as const) {
    const fault = TokenFault.from(thrown, "C_Login");
    expect({ code: fault.code, call: fault.call, message: fault.message }).toEqual({ code, call: "C_Login", message });
  }
});

test("what is no answer of the module keeps its first line, and counts as away", () => {
  const fault = TokenFault.from(new Error("/x/module.so: cannot open shared object file\nstack"), "dlopen");
  expect(fault.code).toBe(0);
  expect(fault.message).toBe("dlopen: /x/module.so: cannot open shared object file");
  expect(fault.kind).toBe("unavailable");
  for (const odd of [new Error(""), {}, "text", 7]) expect(TokenFault.from(odd, "C_Sign").code).toBe(0);
});

test("a fault that was told once is not told again", () => {
  const fault = new TokenFault(0x30, "C_Decrypt");
  expect(TokenFault.from(fault, "C_Encrypt")).toBe(fault);
});

test("codes call for the right next step", () => {
  const kinds = {
    lost: [0xb3, 0xb0, 0x101, 0x60, 0x82, 0x91],
    pin: [0xa0, 0xa1, 0xa2, 0xa3, 0xa4],
    unsupported: [0x70, 0x71, 0x68, 0x63, 0xd1],
    module: [0x190, 0x1a0, 0x1b7],
    no_session: [0xb1],
    data: [0x40, 0x41, 0x42, 0xc0],
    // Also what no vendor has written down.
    unavailable: [0x5, 0x6, 0x30, 0x32, 0xe0, 0x2, 0x102, 0x80000001, 0x7fffffff],
  } as const;
  for (const [kind, codes] of Object.entries(kinds))
    for (const code of codes) {
      expect(kindOf(code)).toBe(kind as keyof typeof kinds);
      expect(new TokenFault(code, "C_Decrypt").kind).toBe(kind as keyof typeof kinds);
    }
});

test("what says that bytes are bad, or a PIN wrong, is never taken for a token to wait for", () => {
  for (const code of [0x20, 0x21, 0x40, 0x41, 0x42, 0xc0]) expect(kindOf(code)).toBe("data");
  for (let code = 0xa0; code <= 0xa4; code += 1) expect(kindOf(code)).toBe("pin");
});

test("each return code of v2.40 has its name", () => {
  const header = readFileSync(join(import.meta.dir, "../../node_modules/pkcs11js/includes/pkcs11/pkcs11t.h"), "utf8");
  const codes = [...header.matchAll(/^#define (CKR_\w+)\s+0x([0-9A-F]+)UL/gm)];
  expect(codes.length).toBeGreaterThan(85);
  for (const [, name, hex] of codes) {
    if (name === "CKR_OK" || name === "CKR_VENDOR_DEFINED") continue;
    expect(new TokenFault(Number.parseInt(hex as string, 16), "C_Login").message).toBe(`C_Login: ${name}`);
  }
});
