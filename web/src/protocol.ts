/**
 * The server's public messages as types: what `WS /api/v1/market-data/stream` and the REST doors send.
 * Times are RFC 3339 text in UTC, prices are numbers, absent is null. Nothing here runs.
 */

export type Side = "trade" | "bid" | "ask" | "mid";
export type BarStatus = "live" | "provisional" | "final" | "corrected";

export interface Welcome {
  type: "welcome";
  epoch: string;
  seq: number;
  time: string;
  max_rate_hz: number;
  /** How old a quote's event may be before it counts as stale; absent: 5,000 ms. */
  stale_after_ms?: number;
}

export interface QuoteUpdate {
  type: "quote_update";
  symbol: string;
  seq: number;
  lastPrice: number | null;
  bidPrice: number | null;
  askPrice: number | null;
  bidSize: number | null;
  askSize: number | null;
  volume: number | null;
  timestamp: string;
  received: string;
  source: string;
  stale: boolean;
  snapshot?: boolean;
}

export interface StaleNotice {
  type: "stale";
  symbol: string;
  seq: number;
  timestamp: string;
  stale: boolean;
}

export interface BarUpdate {
  type: "bar_update";
  symbol: string;
  seq: number;
  channel: string;
  timeframe: string;
  status: BarStatus;
  side: Side;
  bar: { ts: string; o: number; h: number; l: number; c: number; v: number | null };
}

export interface SourceStatus {
  type: "source_status";
  source: string;
  connected: boolean;
  reason: string | null;
  time: string;
}

export interface Pong {
  type: "pong";
  id: number;
  time: string;
}

export interface Lag {
  type: "lag";
  conflated: number;
}

export interface StreamError {
  type: "error";
  code: string;
  message: string;
  id?: number | string | null;
}

export interface Acknowledged {
  type: "subscribed" | "unsubscribed";
  symbols: string[];
  channels: string[];
}

export type ServerMessage =
  | Welcome
  | QuoteUpdate
  | StaleNotice
  | BarUpdate
  | SourceStatus
  | Pong
  | Lag
  | StreamError
  | Acknowledged;

export interface SourceHealth {
  name: string;
  connected: boolean;
  state: "connecting" | "streaming" | "reconnecting" | "ended" | "rejected";
  reason: string | null;
  simulated: boolean;
  symbols: number;
  ticks: number;
  quarantined: number;
  last_event: string | null;
  reconnects: number;
}

export interface Health {
  status: "ok" | "degraded" | "starting";
  version: string;
  epoch: string;
  uptime_s: number;
  time: string;
  symbols: number;
  clients: number;
  rates: { ticks_per_s: number; messages_per_s: number };
  store: { state: "ok" | "failing"; error: string | null };
  cache: { state: "ok" | "failing"; kind: string; error: string | null };
  sources: SourceHealth[];
}

export interface SymbolList {
  symbols: { symbol: string; exchange: string | null; source: string; simulated: boolean }[];
  count: number;
}

export interface History {
  symbol: string;
  interval: string;
  side: Side;
  bars: {
    timestamp: string;
    open: number;
    high: number;
    low: number;
    close: number;
    volume: number | null;
    status: BarStatus;
  }[];
}
