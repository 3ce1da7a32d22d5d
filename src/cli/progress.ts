/**
 * Progress of long work on standard error: on a terminal a few lines that are drawn over, elsewhere (a log, a pipe) one
 * line every few seconds.
 */
import { printable, type Sink } from '../terminal/output.ts';
import { formatBytes, formatShare } from '../terminal/table.ts';

export interface ProgressItem {
  /** What is worked on. */
  label: string;
  /** Bytes. */
  done: number;
  /** Bytes; undefined: not known yet. */
  total: number | undefined;
}

export interface ProgressClock {
  /** ms */
  now(): number;
  every(ms: number, work: () => void): { stop(): void };
}

const realClock: ProgressClock = {
  now: () => performance.now(),
  every(ms, work) {
    const timer = setInterval(work, ms).unref();
    return { stop: () => clearInterval(timer) };
  },
};

const DRAW_MS = 100;
const LINE_MS = 3_000;
/** Lines of a terminal that are drawn over; the rest is summed up. */
const MAX_LINES = 12;
const BAR = 24;

export class ProgressView {
  readonly #title: string;
  readonly #sink: Sink | undefined;
  readonly #clock: ProgressClock;
  readonly #items = new Map<string, ProgressItem>();
  #timer: { stop(): void } | undefined;
  #drawn = 0;
  #lastLine: number;

  /** `sink` undefined: nothing is ever shown. */
  constructor(title: string, sink: Sink | undefined, clock: ProgressClock = realClock) {
    this.#title = title;
    this.#sink = sink;
    this.#clock = clock;
    this.#lastLine = clock.now();
  }

  /** Adds an item or changes it; what is finished stays until `stop`. */
  update(id: string, item: ProgressItem): void {
    this.#items.set(id, item);
    if (this.#sink !== undefined && this.#timer === undefined) {
      this.#timer = this.#clock.every(DRAW_MS, () => this.#show());
    }
  }

  /** Ends it; on a terminal nothing of it stays. */
  stop(): void {
    this.#timer?.stop();
    this.#timer = undefined;
    this.#erase();
    this.#items.clear();
  }

  #show(): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    if (sink.errIsTerminal) {
      const lines = this.#lines();
      sink.err(`${this.#erasing()}${lines.join('\n')}\n`);
      this.#drawn = lines.length;
    } else if (this.#clock.now() - this.#lastLine >= LINE_MS) {
      this.#lastLine = this.#clock.now();
      sink.err(`cofa: ${this.#summary()}\n`);
    }
  }

  #erase(): void {
    if (this.#drawn > 0) this.#sink?.err(this.#erasing());
    this.#drawn = 0;
  }

  /** Up to the first of the drawn lines, and everything below it cleared (ECMA-48: CUU, ED). */
  #erasing(): string {
    return this.#drawn === 0 ? '' : `\x1b[${this.#drawn}A\r\x1b[J`;
  }

  #lines(): string[] {
    const items = [...this.#items.values()];
    const active = items.filter((item) => item.total === undefined || item.done < item.total);
    const shown = items.length <= MAX_LINES ? items : active.slice(0, MAX_LINES);
    const lines = shown.map(renderItem);
    return lines.length < items.length || lines.length !== 1 ? [...lines, this.#summary()] : lines;
  }

  #summary(): string {
    const items = [...this.#items.values()];
    const measured = items.filter((item) => item.total !== undefined);
    if (measured.length === 0) return `${this.#title}: ${printable(items.at(-1)?.label ?? '')}`;
    const done = measured.reduce((sum, item) => sum + item.done, 0);
    const total = measured.reduce((sum, item) => sum + (item.total ?? 0), 0);
    return `${this.#title}: ${formatBytes(done)} of ${formatBytes(total)} (${formatShare(done, total)})`;
  }
}

/** One line: label, bar, share. At most 78 columns, so that no line wraps. */
function renderItem(item: ProgressItem): string {
  const label = printable(item.label).slice(0, 24).padEnd(24);
  if (item.total === undefined) return `${label}  ${item.done > 0 ? formatBytes(item.done) : ''}`.trimEnd();
  const share = item.total === 0 ? 1 : Math.min(1, item.done / item.total);
  const full = Math.floor(share * BAR);
  const bar = `${'='.repeat(full)}${full < BAR ? '>' : ''}`.padEnd(BAR);
  return `${label} [${bar}] ${formatShare(item.done, item.total)} of ${formatBytes(item.total)}`;
}
