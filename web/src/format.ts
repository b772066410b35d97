/** Numbers, ages and times as text. Pure; every function maps null to the dash a trader expects. */

export const ABSENT = "–";

/**
 * How many decimals a price deserves: those it came with, at least two and at most seven significant digits.
 * A value with more digits than that comes from arithmetic, not from a tick size, and is shown to five digits.
 */
export function priceDecimals(price: number): number {
  const magnitude = price === 0 ? 0 : Math.floor(Math.log10(Math.abs(price)));
  const most = Math.min(10, Math.max(2, 6 - magnitude));
  const text = String(price);
  const exponent = /e-(\d+)$/.exec(text);
  const digits = (text.split("e")[0]?.split(".")[1]?.length ?? 0) + Number(exponent?.[1] ?? 0);
  return digits > most ? Math.max(2, most - 2) : Math.max(2, digits);
}

export function formatPrice(price: number | null, decimals: number): string {
  return price === null ? ABSENT : price.toFixed(decimals);
}

/** The spread in basis points of the mid price: null when a side is absent or the mid is not positive. */
export function spreadBp(bid: number | null, ask: number | null): number | null {
  if (bid === null || ask === null || bid + ask <= 0) return null;
  return ((ask - bid) / ((ask + bid) / 2)) * 10_000;
}

export function formatBp(bp: number | null): string {
  if (bp === null) return ABSENT;
  return bp.toFixed(Math.abs(bp) >= 100 ? 0 : Math.abs(bp) >= 10 ? 1 : 2);
}

/** A volume in at most five characters and a suffix: 950, 12.3k, 1.20M. */
export function formatVolume(volume: number | null): string {
  if (volume === null) return ABSENT;
  for (const [scale, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]] as const) {
    if (Math.abs(volume) >= scale) {
      const scaled = volume / scale;
      return scaled.toFixed(Math.abs(scaled) >= 100 ? 0 : Math.abs(scaled) >= 10 ? 1 : 2) + suffix;
    }
  }
  return Number.isInteger(volume) ? String(volume) : volume.toPrecision(3);
}

/** How long ago, to the precision that matters at that age: 0.3s, 12s, 4m, 3h, 2d. */
export function formatAge(age_ms: number): string {
  const seconds = Math.max(0, age_ms) / 1000;
  if (seconds < 10) return `${(Math.floor(seconds * 10) / 10).toFixed(1)}s`;
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

export function formatUptime(uptime_s: number): string {
  const seconds = Math.floor(uptime_s);
  const pad = (n: number) => String(n).padStart(2, "0");
  const days = Math.floor(seconds / 86_400);
  const clock = `${pad(Math.floor(seconds / 3600) % 24)}:${pad(Math.floor(seconds / 60) % 60)}:${pad(seconds % 60)}`;
  return days > 0 ? `${days}d ${clock}` : clock;
}

export function formatCount(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/**
 * RFC 3339 text to epoch milliseconds. Fractions finer than a millisecond are cut, because what
 * `Date.parse` makes of more than three digits is up to each browser.
 */
export function parseTime_ms(text: string): number {
  return Date.parse(text.replace(/(\.\d{3})\d+/, "$1"));
}
