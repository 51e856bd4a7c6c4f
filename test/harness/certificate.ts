import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A certificate authority of a company, and a certificate for localhost that it issued; each is PEM. */
export function privateCa(directory: string): { ca: string; cert: string; key: string } {
  const at = (name: string) => join(directory, name);
  const openssl = (...words: string[]) => void execFileSync("openssl", words, { stdio: "pipe" });
  const request = (name: string) => ["-newkey", "rsa:2048", "-nodes", "-keyout", at(`${name}.key`), "-subj"];
  openssl("req", "-x509", ...request("ca"), "/CN=a company's CA", "-days", "2", "-out", at("ca.pem"));
  openssl("req", ...request("server"), "/CN=localhost", "-out", at("server.csr"));
  writeFileSync(at("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
  const issuer = ["-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial", "-extfile", at("names")];
  openssl("x509", "-req", "-in", at("server.csr"), ...issuer, "-days", "2", "-out", at("server.pem"));
  const [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map((name) => readFileSync(at(name), "utf8"));
  return { ca: ca ?? "", cert: cert ?? "", key: key ?? "" };
}
