import type { CollectionPlan, FieldPlan, Step, Story } from "./story.ts";

/** The losses that were found in the product once, each as a case that always runs. */

const command = (...words: string[]): Step & { do: "command" } => ({ do: "command", words: ["kek", ...words] });
const ROTATE = ["rotate", "--to-version=2", "--yes"] as const;
const REMOVE = command("remove", "--version=1", "--yes");

function users(records: number, path: string, more: Partial<FieldPlan> = {}): CollectionPlan {
  const field: FieldPlan = { path, registered: true, own: "there", odd: [], arrays: false, ...more };
  return { name: "users", kind: "plain", ids: "int", records, others: 0, numbers: ["int32"], fields: [field] };
}

function story(name: string, collection: CollectionPlan, steps: Step[]): Story {
  return { name, seed: 1, collections: [collection], view: "none", serve: undefined, steps };
}

export const DIRECTED: Story[] = [
  story(
    "counting by a partial index while ours is hidden",
    users(300, "totp", { own: "hidden", odd: ["partial by a flag"] }),
    [command(...ROTATE), REMOVE],
  ),
  story("kek_fields is emptied", users(300, "secret"), [
    { do: "act", act: { act: "empty kek_fields", drop: false } },
    command(...ROTATE, "--remove-old"),
    REMOVE,
  ]),
  story("kek_fields is dropped", users(300, "secret"), [
    { do: "act", act: { act: "empty kek_fields", drop: true } },
    command(...ROTATE, "--remove-old"),
    REMOVE,
  ]),
  story("a collection is renamed while a rotation is interrupted", users(300, "secret"), [
    { ...command(...ROTATE, "--batch-size=50"), crashAt: "batch.written:2" },
    { do: "act", act: { act: "rename", collection: 0, to: "renamed" } },
    command(...ROTATE),
    REMOVE,
  ]),
  story("a collection is renamed while a rotation is cancelled", users(300, "secret"), [
    { ...command(...ROTATE, "--batch-size=50"), crashAt: "batch.written:2" },
    command("rotate", "--cancel"),
    { do: "act", act: { act: "rename", collection: 0, to: "renamed" } },
    command(...ROTATE, "--remove-old"),
  ]),
  story("a collection is renamed while a rotation runs", users(300, "secret"), [
    {
      ...command(...ROTATE, "--batch-size=10", "--max-rate=100", "--remove-old"),
      live: [{ act: "rename", collection: 0, to: "renamed" }],
    },
    command(...ROTATE),
    REMOVE,
  ]),
];
