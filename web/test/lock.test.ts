import { expect, test } from "vitest";
import lock from "../package-lock.json?raw";

test("the lock names versions and hashes, no addresses: `python build.py --tidy-lock` takes them out", () => {
  expect(lock).not.toContain("://");
});
