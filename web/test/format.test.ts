import { describe, expect, test } from "vitest";
import {
  formatAge,
  formatBp,
  formatPrice,
  formatUptime,
  formatVolume,
  parseTime_ms,
  priceDecimals,
  spreadBp,
} from "../src/format";

describe("priceDecimals", () => {
  test.each([
    [150, 2],
    [150.1, 2],
    [1.08431, 5],
    [156.123, 3],
    [2650.455, 3],
    [91234.55, 2],
    [0.00001234, 8],
    [1.5e-7, 8],
  ])("keeps the digits %d came with: %d", (price, decimals) => expect(priceDecimals(price)).toBe(decimals));

  test.each([
    [150.12345678901, 2],
    [1.0843123456789, 4],
    [64123.123456, 2],
    [0.05123456789012, 6],
  ])("shows %d, which no tick size makes, to five digits: %d", (price, decimals) =>
    expect(priceDecimals(price)).toBe(decimals));
});

test("an absent value is a dash, never 0", () => {
  expect([formatPrice(null, 2), formatBp(null), formatVolume(null)]).toEqual(["–", "–", "–"]);
});

test("the spread is in basis points of the mid", () => {
  expect(spreadBp(99.95, 100.05)).toBeCloseTo(10, 9);
  expect(spreadBp(null, 100)).toBeNull();
  expect(spreadBp(0, 0)).toBeNull();
  expect([-12.34, 4.996, 0, 123.4].map(formatBp)).toEqual(["-12.3", "5.00", "0.00", "123"]);
});

test.each([
  [0, "0"],
  [950, "950"],
  [0.123456, "0.123"],
  [12_345, "12.3k"],
  [1_200_000, "1.20M"],
  [345_600_000_000, "346B"],
])("volume %d reads %s", (volume, text) => expect(formatVolume(volume)).toBe(text));

test.each([
  [-40, "0.0s"],
  [340, "0.3s"],
  [9_949, "9.9s"],
  [9_960, "9.9s"],
  [10_000, "10s"],
  [59_600, "59s"],
  [61_000, "1m"],
  [3_600_000, "1h"],
  [180_000_000, "2d"],
])("age %d ms reads %s", (age_ms, text) => expect(formatAge(age_ms)).toBe(text));

test("uptime counts days", () => {
  expect(formatUptime(59.9)).toBe("00:00:59");
  expect(formatUptime(90_061)).toBe("1d 01:01:01");
});

test("a time finer than a millisecond is cut, not refused", () => {
  expect(parseTime_ms("2026-11-20T12:00:00.123999999Z")).toBe(Date.UTC(2026, 10, 20, 12, 0, 0, 123));
  expect(parseTime_ms("2026-11-20T12:00:00Z")).toBe(Date.UTC(2026, 10, 20, 12));
});
