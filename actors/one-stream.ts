/**
 * When is a start served better by all of the image in one stream than by what its readers ask for? A start that reads a tenth
 * of an image waits for little, and the rest would be in its way. One that reads most of it, here and there, pays a way to the
 * registry and back for each span, and would be over sooner had all been fetched in order.
 *
 * What a start will read is not known before. So this is the ski rental problem (Karlin, Manasse, Rudolph, Sleator: Competitive
 * snoopy caching, 1988): rent until the rents are a share of the price, then buy. The rent is the time that readers have waited,
 * the price the time that the absent bytes would take in one stream. With the whole price as the limit no start takes longer
 * than twice what the better way takes, and with half of it than one and a half times as long as the stream alone.
 *
 * The price follows from what fetches so far say of link and processors, the latest ones most. What the rest of an image has cost
 * says nothing: it is fetched at idle priority, where each step waits for other programs, and a stream is not. Time comes in with
 * each call.
 */
export interface OneStreamLimits {
  /** Of the price that the rents may come to. */
  share: number;
  /** Rents below it change nothing, ms: a start that waits for less has no need of another way. */
  leastMs: number;
  /** What was fetched before says something about the price from so many bytes on, compressed. */
  leastBytes: number;
  /** A fetch counts half as much when so many bytes have come since, compressed: links and processors change. */
  halfBytes: number;
  /** A look that comes later than so, ms, counts as so much: what happened since is not known. */
  longestLookMs: number;
}

export const ONE_STREAM: OneStreamLimits = {
  share: 0.5,
  leastMs: 500,
  leastBytes: 2 << 20,
  halfBytes: 64 << 20,
  longestLookMs: 250,
};

/** A layer whose image starts, and whose rest may be fetched. */
export interface StartingLayer {
  layer: string;
  /** A reader waits for a block of it. */
  isWaitedFor: boolean;
  /** Compressed bytes that are absent, as far as the blocks tell. */
  absentBytes: number;
}

/** What a fetch has taken; µs, as a fetcher measures it. */
export interface FetchCost {
  /** Compressed ones. */
  bytes: number;
  /** It was of the rest of an image, and no reader came to wait for it. */
  isRest: boolean;
  firstByteUs: number;
  fetchUs: number;
  decodeUs: number;
}

export class OneStream {
  readonly #limits: OneStreamLimits;
  /** Of fetches, older ones counting less. */
  #bytes = 0;
  #transferUs = 0;
  #decodeUs = 0;
  #waitedMs = 0;
  /** Undefined: no layer was starting. */
  #lookedAt: number | undefined;
  /** How long readers have waited for each layer, ms. */
  readonly #waits = new Map<string, number>();
  /** Layers that a stream brings. */
  readonly #streamed = new Set<string>();
  /** Layers that were starting at the last look. */
  #seen: ReadonlySet<string> = new Set();

  constructor(limits: OneStreamLimits = ONE_STREAM) {
    this.#limits = limits;
  }

  /** A fetch has ended well. */
  fetched({ bytes, isRest, firstByteUs, fetchUs, decodeUs }: FetchCost): void {
    if (isRest) return;
    const kept = 2 ** (-bytes / this.#limits.halfBytes);
    this.#bytes = this.#bytes * kept + bytes;
    this.#transferUs = this.#transferUs * kept + Math.max(0, fetchUs - firstByteUs);
    this.#decodeUs = this.#decodeUs * kept + decodeUs;
  }

  /**
   * The layers that are to come in one stream from now on, the one first that was waited for most. Each is named once. `fetchers`:
   * processes that decode side by side.
   */
  look(now: number, layers: readonly StartingLayer[], fetchers: number): string[] {
    this.#forgetOthers(layers);
    this.#wait(now, layers);
    const left = layers.filter(({ layer, absentBytes }) => absentBytes > 0 && !this.#streamed.has(layer));
    const absent = left.reduce((sum, { absentBytes }) => sum + absentBytes, 0);
    const priceMs = this.#priceMs(absent, Math.max(1, fetchers));
    const { leastMs, share } = this.#limits;
    if (left.length === 0 || this.#waitedMs < Math.max(leastMs, share * priceMs)) return [];
    const waitOf = ({ layer }: StartingLayer) => this.#waits.get(layer) ?? 0;
    const chosen = left.toSorted((a, b) => waitOf(b) - waitOf(a)).map(({ layer }) => layer);
    for (const layer of chosen) this.#streamed.add(layer);
    return chosen;
  }

  #wait(now: number, layers: readonly StartingLayer[]): void {
    const since = Math.min(Math.max(0, now - (this.#lookedAt ?? now)), this.#limits.longestLookMs);
    this.#lookedAt = layers.length === 0 ? undefined : now;
    const waiting = layers.filter(({ isWaitedFor }) => isWaitedFor);
    // Readers that wait side by side wait once.
    if (waiting.length > 0) this.#waitedMs += since;
    for (const { layer } of waiting) this.#waits.set(layer, (this.#waits.get(layer) ?? 0) + since);
  }

  /** How long so many bytes would take in one stream, ms; without end where that is not known. */
  #priceMs(bytes: number, fetchers: number): number {
    if (this.#bytes < this.#limits.leastBytes) return Number.POSITIVE_INFINITY;
    const perByteUs = Math.max(this.#transferUs, this.#decodeUs / fetchers) / this.#bytes;
    return (bytes * perByteUs) / 1000;
  }

  /** Starts that are over count no more. */
  #forgetOthers(layers: readonly StartingLayer[]): void {
    const here = new Set(layers.map(({ layer }) => layer));
    for (const layer of [...this.#waits.keys(), ...this.#streamed]) {
      if (here.has(layer)) continue;
      this.#waits.delete(layer);
      this.#streamed.delete(layer);
    }
    if (![...here].some((layer) => this.#seen.has(layer))) this.#waitedMs = 0;
    this.#seen = here;
  }
}
