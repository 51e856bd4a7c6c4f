import { html } from "hono/html";

/** HTML whose values are escaped: what `html` of hono makes. */
export type Markup = ReturnType<typeof html>;

export interface Column {
  title: string;
  /** Figures, set to the right. */
  figures?: true;
}

/**
 * A table in a box of its own that scrolls when the screen is narrow, and that the keyboard reaches for it.
 * @param name of the box's id; @param caption what the table shows, read out first.
 * @param rows `<tr>` whose first cell is a `<th scope=row>`.
 */
export function table(name: string, caption: string, columns: Column[], rows: Markup[]): Markup {
  return html`<div class="box" id="${name}-box" tabindex="0" role="region" aria-label="${caption}">
<table><caption>${caption}</caption><thead><tr>${columns.map(
    ({ title, figures }) => html`<th scope="col"${figures ? html` class="n"` : ""}>${title}</th>`,
  )}</tr></thead><tbody>${rows}</tbody></table></div>`;
}

/** A word with a mark beside it: what it says does not hang on its colour. */
export function tag(level: "ok" | "busy" | "due" | "bad" | "quiet", word: string): Markup {
  return html`<span class="tag ${level}">${word}</span>`;
}
