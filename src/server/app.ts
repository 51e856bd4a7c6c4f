import { Hono } from "hono";
import type { Kek } from "../fleet/kek.ts";
import { type ApiOptions, apiOf } from "./api/api.ts";

/**
 * What `serve` answers, as one application: whoever listens hands it requests.
 * @param api undefined while the encrypt/decrypt API is not configured.
 */
export function appOf(kek: Pick<Kek, "trouble" | "writeVersion">, api: ApiOptions | undefined): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    await next();
    context.header("cache-control", "no-store");
    context.header("x-content-type-options", "nosniff");
  });
  // The process runs.
  app.get("/healthz", (context) => context.json({ ok: true }));
  // It has acknowledged and may encrypt.
  app.get("/readyz", (context) => {
    const { trouble } = kek;
    return trouble === undefined
      ? context.json({ ready: true, write_version: kek.writeVersion ?? null })
      : context.json({ ready: false, reason: trouble }, 503);
  });
  for (const path of ["/healthz", "/readyz"]) {
    app.all(path, (context) => context.json({ error: "method not allowed" }, 405));
  }
  app.route("/v1", apiOf(api));
  app.notFound((context) => context.json({ error: "not found" }, 404));
  return app;
}
