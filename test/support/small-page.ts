/**
 * A page without a browser: as much of a document as Preact needs to show a view, and a server whose answers a test gives when it
 * likes. It lays nothing out and draws nothing; what a browser makes of a page is for the tests with a browser.
 */
import { join } from 'node:path';
import { vi } from 'vitest';

const WEB = join(import.meta.dirname, '../../src/console/web');

/** An element, a text or a fragment. */
class Piece {
  readonly childNodes: Piece[] = [];
  readonly attributes: Record<string, string> = {};
  readonly style: Record<string, string> & { setProperty?: unknown } = {};
  readonly dataset: Record<string, string> = {};
  readonly listeners = new Map<string, Set<(event: object) => void>>();
  parentNode: Piece | null = null;
  readonly namespaceURI = 'http://www.w3.org/1999/xhtml';
  [name: string]: unknown;

  readonly nodeType: number;
  readonly localName: string;
  data: string;

  constructor(nodeType: number, localName: string, data = '') {
    this.nodeType = nodeType;
    this.localName = localName;
    this.data = data;
  }

  get nodeName(): string {
    return this.localName.toUpperCase();
  }
  get firstChild(): Piece | null {
    return this.childNodes[0] ?? null;
  }
  get nextSibling(): Piece | null {
    const beside = this.parentNode?.childNodes ?? [];
    return beside[beside.indexOf(this) + 1] ?? null;
  }
  get parentElement(): Piece | null {
    return this.parentNode;
  }
  get textContent(): string {
    return this.nodeType === 3 ? this.data : this.childNodes.map((child) => child.textContent).join('');
  }
  /** Sizes that a layout would give. */
  readonly clientWidth = 800;
  readonly clientHeight = 520;

  insertBefore(child: Piece, before: Piece | null): Piece {
    child.remove();
    const at = before === null ? -1 : this.childNodes.indexOf(before);
    this.childNodes.splice(at < 0 ? this.childNodes.length : at, 0, child);
    child.parentNode = this;
    return child;
  }
  appendChild(child: Piece): Piece {
    return this.insertBefore(child, null);
  }
  append(child: Piece): void {
    this.insertBefore(child, null);
  }
  removeChild(child: Piece): void {
    child.remove();
  }
  remove(): void {
    const beside = this.parentNode?.childNodes;
    if (beside !== undefined) beside.splice(beside.indexOf(this), 1);
    this.parentNode = null;
  }
  contains(other: Piece | null): boolean {
    for (let one = other; one !== null; one = one.parentNode) if (one === this) return true;
    return false;
  }
  setAttribute(name: string, value: string): void {
    this.attributes[name] = String(value);
  }
  removeAttribute(name: string): void {
    delete this.attributes[name];
  }
  addEventListener(name: string, listener: (event: object) => void): void {
    const listeners = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, listeners.add(listener));
  }
  removeEventListener(name: string, listener: (event: object) => void): void {
    this.listeners.get(name)?.delete(listener);
  }
  getBoundingClientRect(): object {
    return { left: 0, top: 0, width: this.clientWidth, height: this.clientHeight };
  }
  setPointerCapture(): void {}
  getContext(): null {
    return null;
  }
  /** By names of elements alone. */
  closest(names: string): Piece | null {
    const wanted = names.split(', ');
    return wanted.includes(this.localName) ? this : (this.parentNode?.closest(names) ?? null);
  }

  /** All below it, in their order. */
  *all(): Generator<Piece> {
    for (const child of this.childNodes) {
      yield child;
      yield* child.all();
    }
  }
}

export type { Piece };

/** The live stream of a page. */
class Stream {
  static readonly CLOSED = 2;
  readyState = 0;
  readonly #listeners = new Map<string, Array<(event: object) => void>>();

  addEventListener(name: string, listener: (event: object) => void): void {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
  }
  close(): void {
    this.readyState = Stream.CLOSED;
  }
  /** The server has answered. */
  open(): void {
    this.readyState = 1;
    this.#send('open', {});
  }
  tell(name: 'log' | 'node', news: object): void {
    if (this.readyState !== Stream.CLOSED) this.#send(name, { data: JSON.stringify(news) });
  }
  /** `isFinal`: the answer was no stream, so that the browser does not try again. */
  fail(isFinal: boolean): void {
    this.readyState = isFinal ? Stream.CLOSED : 0;
    this.#send('error', {});
  }
  #send(name: string, event: object): void {
    for (const listener of this.#listeners.get(name) ?? []) listener(event);
  }
}

type Answer = (query: Readonly<Record<string, string>>) => unknown;

interface Failure {
  code: string;
  message: string;
  hint?: string;
}

/** Thrown by an answer: the server's refusal. */
export class Refusal extends Error {
  readonly status: number;
  readonly record: Failure;

  constructor(status: number, record: Failure) {
    super(record.message);
    this.status = status;
    this.record = record;
  }
}

export class SmallPage {
  readonly body = new Piece(1, 'body');
  readonly streams: Stream[] = [];
  /** What was asked, as `path?query`, in its order. */
  readonly asked: string[] = [];
  /** What the page gave up before it was answered. */
  readonly abandoned: string[] = [];
  /** What the page wrote into its address. */
  readonly noted: string[] = [];
  /** By path: a document, bytes, or a promise of one. */
  readonly answers = new Map<string, Answer>();
  readonly #window = new Piece(1, 'window');
  readonly #document = new Piece(9, 'document');
  #hash: string;
  #leave = (): void => {};

  /** Takes the place of the globals of a browser until `close`. Timers are the test's. */
  constructor(hash = '') {
    this.#hash = hash;
    vi.useFakeTimers({ now: 1_700_000_000_000 });
    vi.resetModules();
    const create = (name: string) => new Piece(1, name);
    Object.assign(this.#document, {
      body: this.body,
      documentElement: new Piece(1, 'html'),
      hidden: false,
      createElement: create,
      createElementNS: (_: string, name: string) => create(name),
      createTextNode: (text: string) => new Piece(3, '#text', text),
      querySelector: () => null,
      getElementById: () => null,
    });
    const location = Object.defineProperty({ search: '' }, 'hash', {
      get: () => this.#hash,
      set: (to: string) => {
        this.go(to);
      },
    });
    const { streams } = this;
    const Field = class extends Piece {};
    const Button = class extends Piece {};
    const globals = {
      document: this.#document,
      location,
      history: {
        replaceState: (_: unknown, __: string, to: string) => {
          this.noted.push(to);
          // Firefox takes 200 within ten seconds, and Safari 100 within thirty.
          if (this.noted.length > 100) throw new Error('SecurityError');
          this.#hash = to;
        },
      },
      addEventListener: this.#window.addEventListener.bind(this.#window),
      removeEventListener: this.#window.removeEventListener.bind(this.#window),
      matchMedia: () => new Piece(1, 'media'),
      requestAnimationFrame: (call: (now: number) => void) =>
        setTimeout(() => call(performance.now()), 16) as unknown,
      cancelAnimationFrame: (id: NodeJS.Timeout) => clearTimeout(id),
      devicePixelRatio: 1,
      getComputedStyle: () => ({ color: 'black' }),
      ResizeObserver: class {
        observe(): void {}
        disconnect(): void {}
      },
      EventSource: class extends Stream {
        constructor() {
          super();
          streams.push(this);
        }
      },
      HTMLElement: Piece,
      HTMLInputElement: Field,
      HTMLButtonElement: Button,
      fetch: async (address: string, { signal }: { signal?: AbortSignal } = {}) =>
        await this.#answer(address, signal),
    };
    for (const [name, value] of Object.entries(globals)) vi.stubGlobal(name, value);
  }

  async close(): Promise<void> {
    this.#leave();
    // What was to be drawn anew draws nothing more.
    await this.wait(100);
    vi.unstubAllGlobals();
    vi.useRealTimers();
  }

  get hash(): string {
    return this.#hash;
  }

  get text(): string {
    return this.body.textContent;
  }

  /** A file of the page's. */
  async load<T>(path: string): Promise<T> {
    return (await import(/* @vite-ignore */ join(WEB, path))) as T;
  }

  /** Shows what `body` gives. */
  async show(component: unknown, props: object = {}): Promise<void> {
    // By a name that the compiler does not follow: types of a browser are no types of Node.
    const name = 'preact';
    const { h, render } = (await import(name)) as {
      h: (component: unknown, props: object) => object;
      render: (what: object | null, place: Piece) => void;
    };
    render(h(component, props), this.body);
    this.#leave = () => render(null, this.body);
    await this.wait(50);
  }

  /** As a link does. */
  go(hash: string): void {
    this.#hash = hash;
    queueMicrotask(() => this.#send(this.#window, 'hashchange', {}));
  }

  /** Whether the key is left to the browser. */
  press(key: string, target: Piece = this.body): boolean {
    let isLeft = true;
    const preventDefault = () => (isLeft = false);
    this.#send(this.#window, 'keydown', { key, target, preventDefault, stopPropagation: () => {} });
    return isLeft;
  }

  setHidden(hidden: boolean): void {
    Object.assign(this.#document, { hidden });
    this.#send(this.#document, 'visibilitychange', {});
  }

  /** Of an element; what its handlers take from it stands in `event`. */
  send(piece: Piece | undefined, name: string, event: object = {}): void {
    if (piece === undefined) throw new Error(`there is nothing to send ${name} to`);
    this.#send(piece, name, { target: piece, currentTarget: piece, preventDefault: () => {}, ...event });
  }

  find(wanted: (piece: Piece) => boolean): Piece | undefined {
    return [...this.body.all()].find(wanted);
  }

  /** Of the page's time, which `wait` lets pass. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, ms));
  }

  async wait(ms: number): Promise<void> {
    await vi.advanceTimersByTimeAsync(ms);
  }

  #send(piece: Piece, name: string, event: object): void {
    for (const listener of piece.listeners.get(name) ?? [])
      listener.call(piece as never, { type: name, timeStamp: Date.now(), ...event });
  }

  async #answer(address: string, signal: AbortSignal | undefined): Promise<Response> {
    const asked = address.replace('./api/', '');
    this.asked.push(asked);
    const [path = '', words = ''] = asked.split('?');
    const answer = this.answers.get(path);
    const left = new Promise<never>((_, reject) => {
      if (signal?.aborted === true) reject(signal.reason as Error);
      signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    });
    left.catch(() => {});
    try {
      if (answer === undefined) throw new TypeError('Failed to fetch');
      const given = await Promise.race([answer(Object.fromEntries(new URLSearchParams(words))), left]);
      if (given instanceof Uint8Array) return new Response(given as Uint8Array<ArrayBuffer>);
      return Response.json(given);
    } catch (error) {
      if (signal?.aborted === true) this.abandoned.push(asked);
      if (error instanceof Refusal) return Response.json(error.record, { status: error.status });
      throw error;
    }
  }
}
