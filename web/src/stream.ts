/**
 * The market-data WebSocket: one connection that comes back by itself, with what it was subscribed to.
 *
 * Owns the socket, the backoff, the watchdog and the estimate of the server's clock; knows nothing of
 * pages. Subscriptions are remembered as wanted (symbol, channel) sets and said again on every connection.
 */
import { parseTime_ms } from "./format";
import type { ServerMessage, Welcome } from "./protocol";

export type StreamState =
  | { name: "connecting"; attempt: number }
  | { name: "open" }
  | { name: "waiting"; attempt: number; retry_ms: number; reason: string };

export interface StreamHandlers {
  onMessage(message: ServerMessage): void;
  onState(state: StreamState): void;
}

/** What the stream needs of the world; tests bring their own. */
export interface StreamWorld {
  connect(url: string): WebSocket;
  now_ms(): number;
  random(): number;
  setTimeout(action: () => void, delay_ms: number): number;
  clearTimeout(timer: number): void;
}

const browser: StreamWorld = {
  connect: (url) => new WebSocket(url),
  now_ms: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (action, delay_ms) => window.setTimeout(action, delay_ms),
  clearTimeout: (timer) => window.clearTimeout(timer),
};

export const BACKOFF_MS_MIN = 500;
export const BACKOFF_MS_MAX = 10_000;
export const PING_MS = 5_000;
/** A connection that has said nothing for this long, pongs included, is dead whatever TCP believes. */
export const SILENCE_MS_MAX = 15_000;

/** Full-jitter exponential backoff: between half of and the whole doubled delay, capped. */
export function backoff_ms(attempt: number, random: number): number {
  const ceiling = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(attempt, 16));
  return Math.round(ceiling * (0.5 + random / 2));
}

export class MarketStream {
  /** What to add to this machine's clock to read the server's; from the quickest round trip so far. */
  clockOffset_ms = 0;

  private socket: WebSocket | null = null;
  private open = false;
  private attempt = 0;
  private timer: number | null = null;
  private heardAt_ms = 0;
  private roundTrip_ms = Infinity;
  private readonly wanted = new Map<string, Set<string>>();
  private readonly pings = new Map<number, number>();
  private nextId = 1;

  constructor(
    private readonly url: string,
    private readonly handlers: StreamHandlers,
    private readonly world: StreamWorld = browser,
  ) {}

  /** Connects, and again after every loss. */
  start(): void {
    this.attempt += 1;
    this.handlers.onState({ name: "connecting", attempt: this.attempt });
    const socket = this.world.connect(this.url);
    this.socket = socket;
    this.roundTrip_ms = Infinity;
    this.pings.clear();
    socket.onmessage = (event: MessageEvent<string>) => this.receive(event.data);
    socket.onclose = (event) => this.lost(socket, event.reason || `connection closed (${event.code})`);
    this.arm(SILENCE_MS_MAX, () => this.lost(socket, "no answer"));
  }

  /** Reconnects without waiting out the backoff. */
  retryNow(): void {
    if (this.socket === null) this.start();
  }

  /** Wants `channel` of `symbols` from now on, on this connection and on those to come. */
  subscribe(channel: string, symbols: readonly string[]): void {
    const wanted = this.wanted.get(channel) ?? new Set<string>();
    this.wanted.set(channel, wanted);
    const fresh = symbols.filter((symbol) => !wanted.has(symbol));
    for (const symbol of fresh) wanted.add(symbol);
    if (this.open && fresh.length > 0) this.send({ action: "subscribe", symbols: fresh, channels: [channel] });
  }

  unsubscribe(channel: string, symbols: readonly string[]): void {
    const wanted = this.wanted.get(channel);
    const dropped = symbols.filter((symbol) => wanted?.delete(symbol));
    if (this.open && dropped.length > 0) this.send({ action: "unsubscribe", symbols: dropped, channels: [channel] });
  }

  serverNow_ms(): number {
    return this.world.now_ms() + this.clockOffset_ms;
  }

  private receive(text: string): void {
    this.heardAt_ms = this.world.now_ms();
    const message = JSON.parse(text) as ServerMessage;
    if (message.type === "welcome") this.welcomed(message);
    else if (message.type === "pong") this.learnClock(message.id, message.time);
    this.handlers.onMessage(message);
  }

  private welcomed(welcome: Welcome): void {
    this.attempt = 0;
    this.open = true;
    this.clockOffset_ms = parseTime_ms(welcome.time) - this.world.now_ms();
    this.handlers.onState({ name: "open" });
    for (const [channel, symbols] of this.wanted) {
      if (symbols.size > 0) this.send({ action: "subscribe", symbols: [...symbols], channels: [channel] });
    }
    this.ping();
  }

  private ping(): void {
    const socket = this.socket;
    if (socket === null) return;
    if (this.world.now_ms() - this.heardAt_ms > SILENCE_MS_MAX) {
      this.lost(socket, `silent for ${SILENCE_MS_MAX / 1000} s`);
      return;
    }
    const id = this.nextId++;
    this.pings.set(id, this.world.now_ms());
    this.send({ action: "ping", id });
    this.arm(PING_MS, () => this.ping());
  }

  private learnClock(id: number, time: string): void {
    const sent_ms = this.pings.get(id);
    if (sent_ms === undefined) return;
    this.pings.delete(id);
    const roundTrip_ms = this.world.now_ms() - sent_ms;
    if (roundTrip_ms > this.roundTrip_ms) return;
    this.roundTrip_ms = roundTrip_ms;
    this.clockOffset_ms = parseTime_ms(time) - (sent_ms + roundTrip_ms / 2);
  }

  private lost(socket: WebSocket, reason: string): void {
    if (socket !== this.socket) return;
    this.socket = null;
    this.open = false;
    socket.onmessage = socket.onclose = null;
    socket.close();
    const retry_ms = backoff_ms(this.attempt, this.world.random());
    this.arm(retry_ms, () => this.start());
    this.handlers.onState({ name: "waiting", attempt: this.attempt, retry_ms, reason });
  }

  private send(message: object): void {
    this.socket?.send(JSON.stringify(message));
  }

  private arm(delay_ms: number, action: () => void): void {
    if (this.timer !== null) this.world.clearTimeout(this.timer);
    this.timer = this.world.setTimeout(action, delay_ms);
  }
}
