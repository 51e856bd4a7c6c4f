/** The pages that are run word for word, in the order that an operator meets them: each continues where the one before has left its hosts. */
export const PAGES = ["install", "hsm/softhsm2", "rotate", "api", "monitor", "recover", "security", "upgrade"].map(
  (name) => `docs/${name}.md`,
);
