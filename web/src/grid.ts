/**
 * The quotes grid: one row a symbol, of which only those in sight exist in the document.
 *
 * Updates change the model at once and the page at most once an animation frame. A row is stale when
 * the server says so or when its event is older than `staleAfter_ms` on the server's clock.
 */
import { formatAge, formatBp, formatPrice, formatVolume, parseTime_ms, priceDecimals, spreadBp } from "./format";
import type { QuoteUpdate, StaleNotice } from "./protocol";

export interface GridOptions {
  /** The scrolling box around the table. */
  scroller: HTMLElement;
  table: HTMLTableElement;
  /** Where the number of rows shown is said. */
  note: HTMLElement;
  serverNow_ms(): number;
  isSimulated(source: string): boolean;
  onSelect(symbol: string): void;
  /** Told which symbols have rows, whenever that changes. */
  onWindow(symbols: readonly string[]): void;
}

const ROW_PX = 28;
const OVERSCAN = 8;
const FLASH_MS = 250;
const PRICES = ["last", "bid", "ask"] as const;
type PriceName = (typeof PRICES)[number];
const FIELD = { last: "lastPrice", bid: "bidPrice", ask: "askPrice" } as const;

interface Row {
  element: HTMLTableRowElement;
  button: HTMLButtonElement;
  cells: Record<PriceName | "spread" | "volume" | "source" | "age", HTMLTableCellElement>;
  /** What the price cells show now: null before the first paint, so that a row that scrolls in doesn't flash. */
  painted: Record<PriceName, number | null> | null;
}

interface Entry {
  symbol: string;
  quote: QuoteUpdate | null;
  event_ms: number;
  decimals: number;
  row: Row | null;
}

export class QuoteGrid {
  staleAfter_ms = 5_000;

  private readonly entries = new Map<string, Entry>();
  private readonly body: HTMLTableSectionElement;
  private readonly above = spacer();
  private readonly below = spacer();
  private readonly dirty = new Set<Entry>();
  private readonly flashing = new Map<HTMLTableCellElement, number>();
  private shown: Entry[] = [];
  private inWindow: Entry[] = [];
  private filterText = "";
  private selected: string | null = null;
  private orderDirty = false;
  private windowDirty = false;
  private frame = 0;

  constructor(private readonly options: GridOptions) {
    this.body = options.table.tBodies[0] ?? options.table.createTBody();
    this.body.append(this.above, this.below);
    this.body.addEventListener("click", (event) => {
      const symbol = (event.target as Element).closest("tr")?.dataset.symbol;
      if (symbol !== undefined) options.onSelect(symbol);
    });
    options.scroller.addEventListener("scroll", () => this.moveWindow(), { passive: true });
    new ResizeObserver(() => this.moveWindow()).observe(options.scroller);
    window.setInterval(() => this.refresh(), 500);
  }

  get size(): number {
    return this.entries.size;
  }

  firstSymbol(): string | null {
    return [...this.entries.keys()].sort()[0] ?? null;
  }

  quote(symbol: string): QuoteUpdate | null {
    return this.entries.get(symbol)?.quote ?? null;
  }

  decimals(symbol: string): number {
    return this.entries.get(symbol)?.decimals ?? 2;
  }

  has(symbol: string): boolean {
    return this.entries.has(symbol);
  }

  addSymbols(symbols: readonly string[]): void {
    for (const symbol of symbols) this.entry(symbol);
  }

  apply(quote: QuoteUpdate): void {
    const entry = this.entry(quote.symbol);
    entry.quote = quote;
    entry.event_ms = NaN;
    this.touch(entry);
  }

  applyStale(notice: StaleNotice): void {
    const entry = this.entries.get(notice.symbol);
    if (entry === undefined || entry.quote === null) return;
    entry.quote = { ...entry.quote, stale: notice.stale };
    this.touch(entry);
  }

  filter(text: string): void {
    this.filterText = text.trim().toUpperCase();
    this.options.scroller.scrollTop = 0;
    this.orderDirty = true;
    this.schedule();
  }

  select(symbol: string): void {
    this.selected = symbol;
    for (const entry of this.inWindow) this.markSelected(entry);
  }

  /** Paints every row in sight again: ages, staleness, and what is known of sources. */
  refresh(): void {
    for (const entry of this.inWindow) this.dirty.add(entry);
    this.schedule();
  }

  private entry(symbol: string): Entry {
    let entry = this.entries.get(symbol);
    if (entry === undefined) {
      entry = { symbol, quote: null, event_ms: NaN, decimals: 2, row: null };
      this.entries.set(symbol, entry);
      this.orderDirty = true;
      this.schedule();
    }
    return entry;
  }

  private touch(entry: Entry): void {
    if (entry.row === null) return;
    this.dirty.add(entry);
    this.schedule();
  }

  private moveWindow(): void {
    this.windowDirty = true;
    this.schedule();
  }

  private schedule(): void {
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.render());
  }

  private render(): void {
    this.frame = 0;
    if (this.orderDirty) this.order();
    if (this.windowDirty) this.placeWindow();
    const now_ms = performance.now();
    for (const entry of this.dirty) if (entry.row !== null) this.paint(entry, entry.row, now_ms);
    this.dirty.clear();
    for (const [cell, until_ms] of this.flashing) {
      if (now_ms < until_ms) continue;
      this.flashing.delete(cell);
      delete cell.dataset.flash;
    }
  }

  private order(): void {
    this.orderDirty = false;
    this.windowDirty = true;
    this.shown = [...this.entries.values()]
      .filter((entry) => entry.symbol.toUpperCase().includes(this.filterText))
      .sort((a, b) => (a.symbol < b.symbol ? -1 : 1));
    this.options.table.setAttribute("aria-rowcount", String(this.shown.length + 1));
    const all = this.entries.size;
    this.options.note.textContent =
      this.shown.length === all ? `${all} symbols` : `${this.shown.length} of ${all} symbols`;
  }

  private placeWindow(): void {
    this.windowDirty = false;
    const { scrollTop, clientHeight } = this.options.scroller;
    const first = Math.max(0, Math.min(Math.floor(scrollTop / ROW_PX) - OVERSCAN, this.shown.length - 1));
    const end = Math.min(this.shown.length, Math.ceil((scrollTop + clientHeight) / ROW_PX) + OVERSCAN);
    const wanted = this.shown.slice(first, end);
    const keep = new Set(wanted);
    let changed = wanted.length !== this.inWindow.length;
    for (const entry of this.inWindow) {
      if (keep.has(entry)) continue;
      changed = true;
      entry.row?.element.remove();
      entry.row = null;
    }
    // Rows that stay are never moved, so that the one with the focus keeps it.
    let cursor = this.above.nextElementSibling;
    wanted.forEach((entry, index) => {
      entry.row ??= this.build(entry);
      entry.row.element.setAttribute("aria-rowindex", String(first + index + 2));
      if (cursor === entry.row.element) cursor = cursor.nextElementSibling;
      else this.body.insertBefore(entry.row.element, cursor);
    });
    setHeight(this.above, first * ROW_PX);
    setHeight(this.below, (this.shown.length - end) * ROW_PX);
    this.inWindow = wanted;
    if (changed) this.options.onWindow(wanted.map((entry) => entry.symbol));
  }

  private build(entry: Entry): Row {
    const { symbol } = entry;
    const element = document.createElement("tr");
    element.dataset.symbol = symbol;
    element.dataset.testid = `row-${symbol}`;
    const head = document.createElement("th");
    head.scope = "row";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = symbol;
    button.title = `Chart ${symbol}`;
    head.append(button);
    element.append(head);
    const cell = (name: string, className: string): HTMLTableCellElement => {
      const made = element.insertCell();
      made.className = className;
      made.dataset.testid = `${name}-${symbol}`;
      return made;
    };
    const cells = {
      last: cell("last", "number last"),
      bid: cell("bid", "number"),
      ask: cell("ask", "number"),
      spread: cell("spread", "number quiet"),
      volume: cell("volume", "number quiet"),
      source: cell("source-of", "source"),
      age: cell("age", "number age"),
    };
    entry.row = { element, button, cells, painted: null };
    this.markSelected(entry);
    this.dirty.add(entry);
    return entry.row;
  }

  private markSelected(entry: Entry): void {
    if (entry.symbol === this.selected) entry.row?.element.setAttribute("aria-current", "true");
    else entry.row?.element.removeAttribute("aria-current");
  }

  private paint(entry: Entry, row: Row, now_ms: number): void {
    const { quote } = entry;
    const { cells } = row;
    if (quote === null) {
      row.element.dataset.state = "waiting";
      for (const name of PRICES) setText(cells[name], "–");
      setText(cells.age, "no quote");
      return;
    }
    if (Number.isNaN(entry.event_ms)) {
      entry.event_ms = parseTime_ms(quote.timestamp);
      for (const name of PRICES) {
        const price = quote[FIELD[name]];
        if (price !== null) entry.decimals = Math.max(entry.decimals, priceDecimals(price));
      }
    }
    const prices = { last: quote.lastPrice, bid: quote.bidPrice, ask: quote.askPrice };
    for (const name of PRICES) {
      const price = prices[name];
      const before = row.painted?.[name] ?? null;
      setText(cells[name], formatPrice(price, entry.decimals));
      if (price === null || before === null || price === before) continue;
      cells[name].dataset.flash = price > before ? "up" : "down";
      if (name === "last") cells[name].dataset.direction = price > before ? "up" : "down";
      this.flashing.set(cells[name], now_ms + FLASH_MS);
      window.setTimeout(() => this.schedule(), FLASH_MS + 20);
    }
    row.painted = prices;
    setText(cells.spread, formatBp(spreadBp(quote.bidPrice, quote.askPrice)));
    setText(cells.volume, formatVolume(quote.volume));
    this.paintSource(cells.source, quote.source);
    const age_ms = this.options.serverNow_ms() - entry.event_ms;
    const stale = quote.stale || age_ms > this.staleAfter_ms;
    row.element.dataset.state = stale ? "stale" : "live";
    setText(cells.age, stale ? `stale ${formatAge(age_ms)}` : formatAge(age_ms));
  }

  private paintSource(cell: HTMLTableCellElement, source: string): void {
    const simulated = this.options.isSimulated(source);
    const key = `${source}|${simulated}`;
    if (cell.dataset.key === key) return;
    cell.dataset.key = key;
    cell.replaceChildren(source);
    if (!simulated) return;
    const badge = document.createElement("span");
    badge.className = "badge simulated";
    badge.textContent = "simulated";
    cell.replaceChildren(...(source === "simulator" ? [badge] : [source, " ", badge]));
  }
}

function spacer(): HTMLTableRowElement {
  const row = document.createElement("tr");
  row.className = "spacer";
  row.setAttribute("aria-hidden", "true");
  row.insertCell().colSpan = 8;
  return row;
}

function setHeight(row: HTMLTableRowElement, height_px: number): void {
  row.style.height = `${height_px}px`;
  row.hidden = height_px === 0;
}

function setText(cell: HTMLElement, text: string): void {
  const node = cell.firstChild;
  if (node === null) cell.append(text);
  else if (node.nodeValue !== text) node.nodeValue = text;
}
