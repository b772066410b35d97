/** The strip of sources: where the data comes from, and how each of them is doing. */
import { formatAge, formatCount, parseTime_ms } from "./format";
import type { SourceHealth, SourceStatus } from "./protocol";

export class SourceStrip {
  private readonly items = new Map<string, HTMLLIElement>();
  private readonly known = new Map<string, SourceHealth>();
  private readonly simulated = new Set<string>();

  constructor(private readonly list: HTMLElement) {}

  isSimulated(source: string): boolean {
    return this.simulated.has(source);
  }

  markSimulated(source: string): void {
    this.simulated.add(source);
  }

  show(sources: readonly SourceHealth[], serverNow_ms: number): void {
    const names = new Set(sources.map(({ name }) => name));
    for (const [name, item] of this.items) {
      if (names.has(name)) continue;
      item.remove();
      this.items.delete(name);
      this.known.delete(name);
    }
    for (const source of sources) {
      this.known.set(source.name, source);
      if (source.simulated) this.simulated.add(source.name);
      this.paint(source, serverNow_ms);
    }
  }

  /** Takes a change of state at once; the next poll brings the rest. */
  apply(change: SourceStatus): void {
    const source = this.known.get(change.source);
    if (source === undefined) return;
    const state: SourceHealth["state"] = change.connected ? "streaming" : source.state === "streaming" ? "reconnecting" : source.state;
    const changed = { ...source, connected: change.connected, state, reason: change.reason };
    this.known.set(source.name, changed);
    this.paint(changed, parseTime_ms(change.time));
  }

  private paint(source: SourceHealth, serverNow_ms: number): void {
    let item = this.items.get(source.name);
    if (item === undefined) {
      item = document.createElement("li");
      item.dataset.testid = `source-${source.name}`;
      this.items.set(source.name, item);
      this.list.append(item);
    }
    item.dataset.state = source.state;
    const name = document.createElement("b");
    name.textContent = source.name;
    const detail = document.createElement("span");
    detail.className = "detail-of";
    detail.textContent = describe(source);
    const parts: Node[] = [name];
    if (source.simulated && source.name !== "simulator") {
      const badge = document.createElement("span");
      badge.className = "badge simulated";
      badge.textContent = "simulated";
      parts.push(badge);
    }
    parts.push(document.createTextNode(source.state), detail);
    item.replaceChildren(...parts);
    const last = source.last_event === null ? "never" : `${formatAge(serverNow_ms - parseTime_ms(source.last_event))} ago`;
    item.title = [
      source.reason ?? `${source.name} is ${source.state}`,
      `last event ${last}`,
      `${formatCount(source.reconnects)} reconnects, ${formatCount(source.quarantined)} ticks quarantined`,
    ].join("\n");
  }
}

function describe(source: SourceHealth): string {
  if (!source.connected && source.reason !== null) return source.reason;
  return `${formatCount(source.symbols)} symbols · ${formatCount(source.ticks)} ticks`;
}
