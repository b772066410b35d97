/**
 * The candle chart of one symbol at one interval: history over REST, then live bars from the stream.
 *
 * Live bars that arrive while history is loading wait for it. A bar older than the newest one is a
 * correction: it takes its place in the series, never at the end.
 */
import {
  CandlestickSeries,
  ColorType,
  CrosshairMode,
  HistogramSeries,
  createChart,
  type CandlestickData,
  type HistogramData,
  type IChartApi,
  type ISeriesApi,
  type UTCTimestamp,
} from "lightweight-charts";
import { formatPrice, formatVolume, parseTime_ms, priceDecimals } from "./format";
import type { BarUpdate, History, Side } from "./protocol";

export const INTERVALS = ["1s", "1m", "5m", "15m", "1h", "1d"] as const;
export type ChartInterval = (typeof INTERVALS)[number];

const INTERVAL_S: Record<ChartInterval, number> = { "1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400 };
const BARS_LOADED = 600;
/** Most symbols trade; those that don't (FX, CFDs) have bars of their quotes. */
const SIDES: readonly Side[] = ["trade", "mid", "bid"];

interface ChartBar {
  time: UTCTimestamp;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number | null;
}

export interface ChartOptions {
  box: HTMLElement;
  legend: HTMLElement;
  message: HTMLElement;
  serverNow_ms(): number;
}

export class CandleChart {
  private readonly chart: IChartApi;
  private readonly candles: ISeriesApi<"Candlestick">;
  private readonly volumes: ISeriesApi<"Histogram">;
  private symbol = "";
  private interval: ChartInterval = "1m";
  private side: Side | null = null;
  private bars: ChartBar[] = [];
  /** Live bars waiting for history; null once it is in. */
  private waiting: BarUpdate[] | null = [];
  private loading: AbortController | null = null;
  private decimals = 2;
  /** Why history is not in the picture; stays in sight while live bars come in. */
  private failure = "";
  private hovered: UTCTimestamp | null = null;
  private frame = 0;
  private touched = new Set<ChartBar>();

  constructor(private readonly options: ChartOptions) {
    this.chart = createChart(options.box, {
      autoSize: true,
      // The notice stands in the page itself, below the chart.
      layout: { attributionLogo: false, fontSize: 11 },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.08, bottom: 0.22 } },
      timeScale: { borderVisible: false, rightOffset: 4, barSpacing: 8, timeVisible: true },
    });
    this.candles = this.chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.volumes = this.chart.addSeries(HistogramSeries, {
      priceScaleId: "volume",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    this.chart.subscribeCrosshairMove((move) => {
      this.hovered = (move.time as UTCTimestamp | undefined) ?? null;
      this.paintLegend();
    });
    this.recolor();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolor());
  }

  get channel(): string {
    return `bars_${this.interval}`;
  }

  /** Shows another symbol or interval, or the same one afresh after a lost connection. */
  async show(symbol: string, interval: ChartInterval, decimals: number): Promise<void> {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    this.symbol = symbol;
    this.interval = interval;
    this.decimals = decimals;
    this.side = null;
    this.failure = "";
    this.waiting = [];
    this.bars = [];
    this.say("loading", "Loading history…");
    this.options.box.dataset.symbol = symbol;
    this.options.box.dataset.interval = interval;
    try {
      const history = await this.fetchHistory(loading.signal);
      this.side = history.bars.length > 0 ? history.side : null;
      this.bars = history.bars.map((bar) => ({
        time: toTime(bar.timestamp),
        open: bar.open,
        high: bar.high,
        low: bar.low,
        close: bar.close,
        volume: bar.volume,
      }));
    } catch (error) {
      if (loading.signal.aborted) return;
      this.failure = `History could not be loaded: ${error instanceof Error ? error.message : String(error)}`;
    }
    const live = this.waiting;
    this.waiting = null;
    this.redraw();
    for (const update of live) this.apply(update);
    this.chart.timeScale().resetTimeScale();
  }

  /** Takes a live bar; those of other symbols, intervals or sides are none of the chart's business. */
  apply(update: BarUpdate): void {
    if (update.symbol !== this.symbol || update.channel !== this.channel) return;
    if (this.waiting !== null) {
      this.waiting.push(update);
      return;
    }
    this.side ??= update.side;
    if (update.side !== this.side) return;
    const { ts, o, h, l, c, v } = update.bar;
    const bar: ChartBar = { time: toTime(ts), open: o, high: h, low: l, close: c, volume: v };
    const newest = this.bars.at(-1);
    if (newest === undefined) {
      this.bars.push(bar);
      this.redraw();
    } else if (bar.time < newest.time) {
      this.correct(bar);
    } else {
      if (bar.time === newest.time) {
        this.touched.delete(newest);
        this.bars[this.bars.length - 1] = bar;
      } else {
        this.bars.push(bar);
      }
      this.touched.add(bar);
      this.frame ||= requestAnimationFrame(() => this.drawTouched());
    }
  }

  private async fetchHistory(signal: AbortSignal): Promise<History> {
    const from_ms = this.options.serverNow_ms() - INTERVAL_S[this.interval] * BARS_LOADED * 1000;
    const from = new Date(Math.floor(from_ms / 1000) * 1000).toISOString();
    const path = `/api/v1/market-data/historical/${encodeURIComponent(this.symbol)}`;
    let history: History | null = null;
    for (const side of SIDES) {
      const query = new URLSearchParams({ interval: this.interval, from, side });
      const answer = await fetch(`${path}?${query}`, { signal });
      const body = (await answer.json()) as History & { error?: { message: string } };
      if (!answer.ok) throw new Error(body.error?.message ?? `HTTP ${answer.status}`);
      history = body;
      if (history.bars.length > 0) break;
    }
    return history as History;
  }

  private correct(bar: ChartBar): void {
    const at = this.bars.findIndex((known) => known.time >= bar.time);
    this.bars.splice(at, this.bars[at]?.time === bar.time ? 1 : 0, bar);
    this.redraw();
  }

  private drawTouched(): void {
    this.frame = 0;
    for (const bar of this.touched) {
      this.candles.update(candle(bar));
      this.volumes.update(this.volume(bar));
    }
    this.touched.clear();
    this.paintLegend();
  }

  private redraw(): void {
    this.touched.clear();
    for (const bar of this.bars.slice(-50)) this.decimals = Math.max(this.decimals, priceDecimals(bar.close));
    this.candles.applyOptions({
      priceFormat: { type: "price", precision: this.decimals, minMove: 10 ** -this.decimals },
    });
    this.chart.timeScale().applyOptions({ secondsVisible: this.interval === "1s", timeVisible: this.interval !== "1d" });
    this.candles.setData(this.bars.map(candle));
    this.volumes.setData(this.bars.map((bar) => this.volume(bar)));
    this.paintLegend();
    if (this.bars.length > 0) this.say("drawn", this.failure);
    else if (this.failure !== "") this.say("error", this.failure);
    else this.say("empty", "No bars yet: the first comes with the first price.");
  }

  private paintLegend(): void {
    const index = this.hovered === null ? -1 : this.bars.findIndex((bar) => bar.time === this.hovered);
    const bar = this.bars.at(index);
    const { legend, box } = this.options;
    box.dataset.bars = String(this.bars.length);
    if (bar === undefined) {
      legend.replaceChildren();
      return;
    }
    const change = bar.open === 0 ? 0 : (bar.close / bar.open - 1) * 100;
    const parts: [string, string][] = [
      ["O", formatPrice(bar.open, this.decimals)],
      ["H", formatPrice(bar.high, this.decimals)],
      ["L", formatPrice(bar.low, this.decimals)],
      ["C", formatPrice(bar.close, this.decimals)],
      ["V", formatVolume(bar.volume)],
      ["", `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(2)}%`],
    ];
    if (this.side !== null && this.side !== "trade") parts.push(["", `${this.side} prices`]);
    legend.dataset.direction = change >= 0 ? "up" : "down";
    legend.replaceChildren(
      ...parts.map(([name, value]) => {
        const item = document.createElement("span");
        const label = document.createElement("i");
        label.textContent = name;
        item.append(label, value);
        return item;
      }),
    );
  }

  private volume(bar: ChartBar): HistogramData<UTCTimestamp> {
    const color = css(bar.close >= bar.open ? "--volume-up" : "--volume-down");
    return { time: bar.time, value: bar.volume ?? 0, color };
  }

  private recolor(): void {
    this.chart.applyOptions({
      layout: {
        background: { type: ColorType.Solid, color: css("--panel") },
        textColor: css("--quiet"),
        fontFamily: css("--font"),
      },
      grid: { vertLines: { color: css("--line-faint") }, horzLines: { color: css("--line-faint") } },
    });
    this.candles.applyOptions({
      upColor: css("--up"),
      downColor: css("--down"),
      wickUpColor: css("--up"),
      wickDownColor: css("--down"),
    });
    if (this.bars.length > 0) this.volumes.setData(this.bars.map((bar) => this.volume(bar)));
  }

  private say(state: "loading" | "drawn" | "empty" | "error", text: string): void {
    this.options.box.dataset.state = state;
    this.options.message.textContent = text;
    this.options.message.hidden = text === "";
  }
}

function candle(bar: ChartBar): CandlestickData<UTCTimestamp> {
  return { time: bar.time, open: bar.open, high: bar.high, low: bar.low, close: bar.close };
}

function toTime(text: string): UTCTimestamp {
  return Math.floor(parseTime_ms(text) / 1000) as UTCTimestamp;
}

function css(variable: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}
