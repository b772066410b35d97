import { beforeEach, describe, expect, test } from "vitest";
import { BACKOFF_MS_MAX, MarketStream, PING_MS, SILENCE_MS_MAX, backoff_ms, type StreamState } from "../src/stream";
import type { ServerMessage } from "../src/protocol";

/** The page's end of a socket, with what it sent. */
class ScriptedSocket {
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { reason: string; code: number }) => void) | null = null;
  readonly sent: Record<string, unknown>[] = [];
  closed = false;

  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>);
  }
  close(): void {
    this.closed = true;
  }
  says(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  without(action: string): Record<string, unknown>[] {
    return this.sent.filter((message) => message.action !== action);
  }
}

/** A clock that only the test moves. */
class ManualWorld {
  time_ms = Date.UTC(2026, 10, 20, 12);
  sockets: ScriptedSocket[] = [];
  private timers = new Map<number, { at_ms: number; action: () => void }>();
  private nextTimer = 1;

  connect = (): WebSocket => {
    const socket = new ScriptedSocket();
    this.sockets.push(socket);
    return socket as unknown as WebSocket;
  };
  now_ms = (): number => this.time_ms;
  random = (): number => 1;
  setTimeout = (action: () => void, delay_ms: number): number => {
    this.timers.set(this.nextTimer, { at_ms: this.time_ms + delay_ms, action });
    return this.nextTimer++;
  };
  clearTimeout = (timer: number): void => void this.timers.delete(timer);

  advance(ms: number): void {
    const until_ms = this.time_ms + ms;
    for (;;) {
      const due = [...this.timers].filter(([, t]) => t.at_ms <= until_ms).sort((a, b) => a[1].at_ms - b[1].at_ms)[0];
      if (due === undefined) break;
      this.timers.delete(due[0]);
      this.time_ms = due[1].at_ms;
      due[1].action();
    }
    this.time_ms = until_ms;
  }
  get socket(): ScriptedSocket {
    return this.sockets.at(-1) as ScriptedSocket;
  }
}

const WELCOME = { type: "welcome", epoch: "ab12", seq: 7, time: "2026-11-20T12:00:03.000Z", max_rate_hz: 10 };

describe("MarketStream", () => {
  let world: ManualWorld;
  let states: StreamState[];
  let messages: ServerMessage[];
  let stream: MarketStream;

  beforeEach(() => {
    world = new ManualWorld();
    states = [];
    messages = [];
    stream = new MarketStream(
      "ws://server/stream",
      { onMessage: (message) => messages.push(message), onState: (state) => states.push(state) },
      world,
    );
    stream.start();
  });

  test("subscribes once welcomed, and again after a loss, without what was dropped meanwhile", () => {
    stream.subscribe("quotes", ["*"]);
    stream.subscribe("bars_1m", ["AAPL", "TSLA"]);
    expect(world.socket.sent).toEqual([]);
    world.socket.says(WELCOME);
    const both = [
      { action: "subscribe", symbols: ["*"], channels: ["quotes"] },
      { action: "subscribe", symbols: ["AAPL", "TSLA"], channels: ["bars_1m"] },
    ];
    expect(world.socket.without("ping")).toEqual(both);

    world.socket.onclose?.({ reason: "", code: 1006 });
    stream.unsubscribe("bars_1m", ["AAPL"]);
    world.advance(500);
    world.socket.says(WELCOME);
    expect(world.sockets.length).toBe(2);
    expect(world.socket.without("ping")).toEqual([
      both[0],
      { action: "subscribe", symbols: ["TSLA"], channels: ["bars_1m"] },
    ]);
    expect(states.map((state) => state.name)).toEqual(["connecting", "open", "waiting", "connecting", "open"]);
    expect(states[2]).toEqual({ name: "waiting", attempt: 0, retry_ms: 500, reason: "connection closed (1006)" });
  });

  test("says only what is new to an open connection", () => {
    world.socket.says(WELCOME);
    stream.subscribe("quotes", ["AAPL"]);
    stream.subscribe("quotes", ["AAPL", "TSLA"]);
    stream.unsubscribe("quotes", ["AAPL", "NEVER"]);
    expect(world.socket.without("ping")).toEqual([
      { action: "subscribe", symbols: ["AAPL"], channels: ["quotes"] },
      { action: "subscribe", symbols: ["TSLA"], channels: ["quotes"] },
      { action: "unsubscribe", symbols: ["AAPL"], channels: ["quotes"] },
    ]);
  });

  test("waits longer after each failed attempt, up to the cap", () => {
    const waits: number[] = [];
    for (let round = 0; round < 7; round++) {
      world.socket.onclose?.({ reason: "refused", code: 1006 });
      const state = states.at(-1);
      if (state?.name !== "waiting") throw new Error("not waiting");
      waits.push(state.retry_ms);
      world.advance(state.retry_ms);
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]);
  });

  test("gives up on a connection that is never welcomed", () => {
    world.advance(SILENCE_MS_MAX);
    expect(world.socket.closed).toBe(true);
    expect(states.at(-1)).toMatchObject({ name: "waiting", reason: "no answer" });
  });

  test("leaves a connection that has fallen silent, though it never closed", () => {
    world.socket.says(WELCOME);
    world.advance(SILENCE_MS_MAX + PING_MS);
    expect(world.sockets[0]?.closed).toBe(true);
    expect(states.some((state) => state.name === "waiting" && state.reason === "silent for 15 s")).toBe(true);
  });

  test("a late close of an old connection does not end the new one", () => {
    const old = world.socket;
    const close = old.onclose;
    close?.({ reason: "", code: 1006 });
    world.advance(1000);
    world.socket.says(WELCOME);
    close?.({ reason: "", code: 1006 });
    expect(states.at(-1)).toEqual({ name: "open" });
  });

  test("reads the server's clock from the quickest ping", () => {
    world.socket.says(WELCOME);
    expect(stream.clockOffset_ms).toBe(3000);
    world.advance(40);
    world.socket.says({ type: "pong", id: 1, time: "2026-11-20T12:00:03.120Z" });
    expect(stream.clockOffset_ms).toBe(3100); // 12:00:00.020 here, half-way of 40 ms
    world.advance(PING_MS);
    world.advance(400);
    world.socket.says({ type: "pong", id: 2, time: "2026-11-20T12:00:59.000Z" });
    expect(stream.clockOffset_ms).toBe(3100);
    expect(stream.serverNow_ms()).toBe(world.time_ms + 3100);
  });
});

test("backoff keeps its jitter between half and all of the delay", () => {
  expect([backoff_ms(0, 0), backoff_ms(0, 1), backoff_ms(2, 0), backoff_ms(2, 1)]).toEqual([250, 500, 1000, 2000]);
  expect(backoff_ms(1000, 1)).toBe(BACKOFF_MS_MAX);
});
