/**
 * What is due when: a binary heap that knows where each key is, so that a timer can be moved or deleted. Keys due at
 * the same time come out in the order in which they were set: nothing depends on hashing or chance.
 */

interface Timer<K> {
  readonly key: K;
  at: number;
  /** Order among equals. */
  order: number;
  /** Place in the heap. */
  index: number;
}

export class TimerQueue<K> {
  readonly #heap: Array<Timer<K>> = [];
  readonly #byKey = new Map<K, Timer<K>>();
  #order = 0;

  get size(): number {
    return this.#heap.length;
  }

  /** Time of the earliest timer, Infinity when there is none. */
  get next(): number {
    return this.#heap[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  has(key: K): boolean {
    return this.#byKey.has(key);
  }

  /** Time of the key's timer, Infinity when it has none. */
  at(key: K): number {
    return this.#byKey.get(key)?.at ?? Number.POSITIVE_INFINITY;
  }

  keys(): IterableIterator<K> {
    return this.#byKey.keys();
  }

  /** Sets or moves the key's timer. */
  set(key: K, at: number): void {
    const known = this.#byKey.get(key);
    const order = this.#order++;
    if (known === undefined) {
      const timer = { key, at, order, index: this.#heap.length };
      this.#byKey.set(key, timer);
      this.#heap.push(timer);
      this.#up(timer);
      return;
    }
    known.at = at;
    known.order = order;
    this.#up(known);
    this.#down(known);
  }

  delete(key: K): boolean {
    const timer = this.#byKey.get(key);
    if (timer === undefined) return false;
    this.#byKey.delete(key);
    const last = this.#heap.pop() as Timer<K>;
    if (last !== timer) {
      this.#put(last, timer.index);
      this.#up(last);
      this.#down(last);
    }
    return true;
  }

  /** Takes the earliest key that is due at `now`. */
  take(now: number): K | undefined {
    const first = this.#heap[0];
    if (first === undefined || first.at > now) return undefined;
    this.delete(first.key);
    return first.key;
  }

  clear(): void {
    this.#heap.length = 0;
    this.#byKey.clear();
  }

  #up(timer: Timer<K>): void {
    while (timer.index > 0) {
      const parent = this.#heap[(timer.index - 1) >> 1] as Timer<K>;
      if (!before(timer, parent)) return;
      this.#swap(timer, parent);
    }
  }

  #down(timer: Timer<K>): void {
    for (;;) {
      const left = this.#heap[timer.index * 2 + 1];
      const right = this.#heap[timer.index * 2 + 2];
      const child = right !== undefined && left !== undefined && before(right, left) ? right : left;
      if (child === undefined || !before(child, timer)) return;
      this.#swap(child, timer);
    }
  }

  #swap(a: Timer<K>, b: Timer<K>): void {
    const at = a.index;
    this.#put(a, b.index);
    this.#put(b, at);
  }

  #put(timer: Timer<K>, index: number): void {
    timer.index = index;
    this.#heap[index] = timer;
  }
}

function before<K>(a: Timer<K>, b: Timer<K>): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
