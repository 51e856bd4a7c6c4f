// Keeps the page as the server sees it. Everything on it is rendered by the server; this replaces the sections that change.

const $ = (id) => document.getElementById(id);
const link = $("link");
const stale = $("stale");
const said = $("said");
/** Sections that hold a selection just now: whoever copies a command is not disturbed. */
const held = new Map();
/** Nothing for so long, in milliseconds, and the connection counts as lost: the server sends about once a second. */
const SILENCE_MS = 15_000;
/** A headline that only counts on is not read out again before that. */
const SAY_AGAIN_MS = 30_000;

let events;
let silence;
let saidAt = Date.now();

function connect() {
  events?.close();
  events = new EventSource(`${location.pathname}/events`);
  events.addEventListener("release", ({ data }) => {
    // The server was updated: this page's own style and script are another release's.
    if (data !== document.body.dataset.release) location.reload();
  });
  events.addEventListener("sections", ({ data }) => {
    alive();
    for (const section of [...new DOMParser().parseFromString(data, "text/html").body.children]) show(section);
    say();
  });
  events.addEventListener("error", lost);
}

function alive() {
  clearTimeout(silence);
  silence = setTimeout(lost, SILENCE_MS);
  document.body.classList.remove("stale");
  stale.hidden = true;
  link.textContent = "live";
}

function lost() {
  clearTimeout(silence);
  silence = setTimeout(connect, 3000);
  link.textContent = "not live";
  if (!stale.hidden) return;
  document.body.classList.add("stale");
  stale.textContent = `The connection to this server is lost. What is below is old (${$("asof").textContent}). Trying again.`;
  stale.hidden = false;
}

function show(section) {
  const old = $(section.id);
  if (old === null) return;
  const selection = getSelection();
  if (selection !== null && !selection.isCollapsed && selection.containsNode(old, true)) {
    held.set(section.id, section);
    return;
  }
  held.delete(section.id);
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  for (const { id } of old.querySelectorAll("details[open]")) section.querySelector(`#${id}`)?.setAttribute("open", "");
  const scrolled = [...old.querySelectorAll(".box")].map(({ id, scrollLeft }) => [id, scrollLeft]);
  old.replaceWith(section);
  for (const [id, left] of scrolled) $(id)?.scrollTo({ left, behavior: "instant" });
  if (focused !== "") $(focused)?.focus({ preventScroll: true });
}

function say() {
  const headline = $("health").dataset.said;
  const still = (text) => text.replaceAll(/[\d.,]+( s| min| h|%)/g, "");
  if (headline === said.textContent) return;
  if (still(headline) === still(said.textContent) && Date.now() - saidAt < SAY_AGAIN_MS) return;
  said.textContent = headline;
  saidAt = Date.now();
}

document.addEventListener("selectionchange", () => {
  if (getSelection()?.isCollapsed) for (const section of [...held.values()]) show(section);
});
connect();
