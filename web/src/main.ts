/** The live page: wires the stream, the grid, the chart and the health poll to the document. */
import { CandleChart, INTERVALS, type ChartInterval } from "./chart";
import { formatCount, formatPrice, formatUptime } from "./format";
import { QuoteGrid } from "./grid";
import type { Health, ServerMessage, SymbolList } from "./protocol";
import { SourceStrip } from "./sources";
import { MarketStream, type StreamState } from "./stream";

/** Up to this many symbols the page takes them all; beyond, only those in sight. */
const WHOLE_MARKET = 500;
const HEALTH_MS = 2_000;
const RATE_WINDOW_S = 3;

function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element as T;
}

const status = byId("status");
const banner = byId("banner");
const bannerText = byId("banner-text");
const search = byId<HTMLInputElement>("search");
const facts = Object.fromEntries(
  (["rate", "ticks", "symbols", "clients", "uptime", "epoch", "version", "clock"] as const).map((id) => [id, byId(id)]),
) as Record<"rate" | "ticks" | "symbols" | "clients" | "uptime" | "epoch" | "version" | "clock", HTMLElement>;

const sources = new SourceStrip(byId("sources"));
const stream = new MarketStream(streamUrl(), { onMessage: receive, onState: showState });
const grid = new QuoteGrid({
  scroller: byId("scroller"),
  table: byId<HTMLTableElement>("grid"),
  note: byId("note"),
  serverNow_ms: () => stream.serverNow_ms(),
  isSimulated: (source) => sources.isSimulated(source),
  onSelect: (symbol) => choose(symbol, interval),
  onWindow: (symbols) => {
    inSight = symbols;
    followQuotes();
  },
});
const chart = new CandleChart({
  box: byId("chart"),
  legend: byId("legend"),
  message: byId("chart-message"),
  serverNow_ms: () => stream.serverNow_ms(),
});

let chosen: string | null = null;
let interval: ChartInterval = "1m";
let inSight: readonly string[] = [];
let followed: readonly string[] = [];
let received = 0;
let conflated = 0;
let connections = 0;
const counts: number[] = [];

function streamUrl(): string {
  const url = new URL("/api/v1/market-data/stream", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

function receive(message: ServerMessage): void {
  received += 1;
  switch (message.type) {
    case "welcome":
      facts.epoch.textContent = message.epoch.slice(0, 8);
      facts.epoch.title = message.epoch;
      grid.staleAfter_ms = message.stale_after_ms ?? 5_000;
      break;
    case "quote_update":
      grid.apply(message);
      chooseFirst();
      if (message.symbol === chosen) showChosen();
      break;
    case "stale":
      grid.applyStale(message);
      break;
    case "bar_update":
      chart.apply(message);
      break;
    case "source_status":
      sources.apply(message);
      break;
    case "lag":
      conflated += message.conflated;
      facts.rate.title = `${formatCount(conflated)} updates merged because this page was slow`;
      break;
    case "error":
      console.warn(`marketd: ${message.code}: ${message.message}`);
      break;
    case "subscribed":
    case "unsubscribed":
    case "pong":
      break;
  }
}

function showState(state: StreamState): void {
  status.dataset.state = state.name;
  status.textContent = { connecting: "connecting", open: "connected", waiting: "reconnecting" }[state.name];
  if (state.name === "waiting") {
    document.body.classList.add("offline");
    banner.hidden = false;
    const seconds = (state.retry_ms / 1000).toFixed(1);
    bannerText.textContent = `The server does not answer (${state.reason}). Prices below are the last received; trying again in ${seconds} s.`;
  } else if (state.name === "open") {
    document.body.classList.remove("offline");
    banner.hidden = true;
    connections += 1;
    void loadSymbols();
    void pollHealth();
    // Bars may have been missed while away.
    if (connections > 1 && chosen !== null) void chart.show(chosen, interval, grid.decimals(chosen));
  }
}

/** Subscribes to all quotes, or with very many symbols to those in sight and the chosen one. */
function followQuotes(): void {
  const wanted = grid.size <= WHOLE_MARKET ? ["*"] : chosen === null ? inSight : [...inSight, chosen];
  const keep = new Set(wanted);
  stream.unsubscribe("quotes", followed.filter((symbol) => !keep.has(symbol)));
  stream.subscribe("quotes", wanted);
  followed = wanted;
}

async function loadSymbols(): Promise<void> {
  const list = await getJson<SymbolList>("/api/v1/market-data/symbols");
  if (list !== null) {
    for (const { source, simulated } of list.symbols) if (simulated) sources.markSimulated(source);
    grid.addSymbols(list.symbols.map(({ symbol }) => symbol));
  }
  followQuotes();
  chooseFirst();
}

async function pollHealth(): Promise<void> {
  const health = await getJson<Health>("/health");
  if (health === null) return;
  facts.ticks.textContent = `${formatCount(health.rates.ticks_per_s)}/s`;
  facts.symbols.textContent = formatCount(health.symbols);
  facts.clients.textContent = formatCount(health.clients);
  facts.uptime.textContent = formatUptime(health.uptime_s);
  facts.version.textContent = health.version;
  sources.show(health.sources, stream.serverNow_ms());
  const troubles = [health.store.error, health.cache.error].filter((error) => error !== null);
  facts.version.title = troubles.join("; ");
  if (health.symbols > grid.size && status.dataset.state === "open") void loadSymbols();
}

/** The answer of one of the server's own doors; null while it is away, which the connection's state already says. */
async function getJson<T>(path: string): Promise<T | null> {
  try {
    const answer = await fetch(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(5_000) });
    const body = (await answer.json()) as T | { error: unknown };
    return "error" in (body as object) ? null : (body as T);
  } catch {
    return null;
  }
}

function chooseFirst(): void {
  if (chosen !== null) return;
  const named = decodeURIComponent(location.hash.slice(1));
  const first = grid.has(named) ? named : grid.firstSymbol();
  if (first !== null) choose(first, interval);
}

function choose(symbol: string, wanted: ChartInterval): void {
  if (chosen !== null) stream.unsubscribe(chart.channel, [chosen]);
  chosen = symbol;
  interval = wanted;
  history.replaceState(null, "", `#${encodeURIComponent(symbol)}`);
  byId("chosen").textContent = symbol;
  byId("chart").setAttribute("aria-label", `Candle chart of ${symbol}, ${interval} bars`);
  for (const button of byId("intervals").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.value === interval));
  }
  grid.select(symbol);
  followQuotes();
  showChosen();
  void chart.show(symbol, interval, grid.decimals(symbol));
  stream.subscribe(chart.channel, [symbol]);
}

function showChosen(): void {
  if (chosen === null) return;
  const quote = grid.quote(chosen);
  const decimals = grid.decimals(chosen);
  byId("chosen-last").textContent = quote === null ? "" : formatPrice(quote.lastPrice, decimals);
  byId("chosen-sides").textContent =
    quote === null ? "" : `${formatPrice(quote.bidPrice, decimals)} × ${formatPrice(quote.askPrice, decimals)}`;
}

function everySecond(): void {
  counts.push(received);
  received = 0;
  if (counts.length > RATE_WINDOW_S) counts.shift();
  facts.rate.textContent = `${formatCount(counts.reduce((a, b) => a + b, 0) / counts.length)} msg/s`;
  facts.clock.textContent = `${new Date(stream.serverNow_ms()).toISOString().slice(11, 19)} UTC`;
}

byId("intervals").append(
  ...INTERVALS.map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.value = button.textContent = name;
    button.setAttribute("aria-pressed", String(name === interval));
    button.addEventListener("click", () => chosen !== null && choose(chosen, name));
    return button;
  }),
);
search.addEventListener("input", () => grid.filter(search.value));
byId("retry").addEventListener("click", () => stream.retryNow());
window.addEventListener("online", () => stream.retryNow());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  }
});
window.setInterval(everySecond, 1_000);
window.setInterval(() => void pollHealth(), HEALTH_MS);
stream.start();
