/**
 * The processes that index images for the node (src/indexer/main.ts). One may be at hand: loaded, its threads started, and rehearsed, so that
 * an image that nobody prepared streams at once, through code that is compiled. It takes some 100 MB, so it is not kept for ever: it ends
 * after a while, and when it turns out that the node's images need none. Its end is no failure, and no mount waits for it. Until it is
 * taken it runs at idle priority.
 */
import type { ChildProcess } from 'node:child_process';
import { setProcessPriority } from '../../kernel/priority.ts';
import { killForked, startForked } from '../../process/forked.ts';
import { NODE_FLAGS } from '../../process/node-flags.ts';

/** One that nobody needed ends after this, ms. */
const AT_HAND_MS = 600_000;

/** As of a rebuild (rebuild.ts): a table of a million entries takes some 1.5 GB. */
const HEAP_MIB = 3_072;

const PROGRAM = new URL('../../indexer/main.ts', import.meta.url);

export class Indexers {
  readonly #root: string;
  readonly #atHand: boolean;
  #waiting: ChildProcess | undefined;
  /** Those that live. */
  readonly #living = new Set<ChildProcess>();
  /** Until one is begun, or ended. */
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** `root`: state of the engine. `atHand`: whether one may wait for its image. */
  constructor(root: string, atHand = true) {
    this.#root = root;
    this.#atHand = atHand;
  }

  /** Has one at hand for ten minutes, `afterMs` from now: others may have the processor until then. */
  prepare(afterMs = 0): void {
    if (this.#closed || !this.#atHand) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#prepare(), afterMs).unref();
  }

  #prepare(): void {
    this.#timer = setTimeout(() => this.dismiss(), AT_HAND_MS).unref();
    if (this.#waiting !== undefined) return;
    const child = this.#start(['rehearse', this.#root]);
    // At once: threads that it starts later begin with the priority of the first one.
    if (child.pid !== undefined) setProcessPriority(child.pid, 'idle');
    // The engine does not live on because of it.
    child.unref();
    child.channel?.unref();
    this.#waiting = child;
    const gone = () => {
      if (this.#waiting === child) this.#waiting = undefined;
    };
    child.once('error', gone);
    child.once('exit', gone);
  }

  /** The one at hand, if there is one that lives, as far as one has heard. Whoever takes it has the word over it. */
  take(): ChildProcess | undefined {
    const child = this.#waiting;
    this.#waiting = undefined;
    clearTimeout(this.#timer);
    if (child?.connected !== true) return undefined;
    // Before it hears of its order, which it may not at idle priority.
    if (child.pid !== undefined) setProcessPriority(child.pid, 'normal');
    child.ref();
    child.channel?.ref();
    return child;
  }

  /** A new one. */
  start(): ChildProcess {
    return this.#start([]);
  }

  /** Of those that live. */
  get pids(): number[] {
    return Array.from(this.#living, ({ pid }) => pid).filter((pid) => pid !== undefined);
  }

  /** None is needed at present; the one at hand goes `afterMs` from now, unless one is to be prepared until then. */
  dismiss(afterMs = 0): void {
    clearTimeout(this.#timer);
    if (afterMs > 0) {
      this.#timer = setTimeout(() => this.dismiss(), afterMs).unref();
      return;
    }
    if (this.#waiting !== undefined) killForked(this.#waiting);
    this.#waiting = undefined;
  }

  close(): void {
    this.#closed = true;
    this.dismiss();
  }

  #start(args: string[]): ChildProcess {
    const child = startForked({
      program: PROGRAM,
      args,
      heapMiB: HEAP_MIB,
      flags: NODE_FLAGS,
      ownSession: true,
    });
    this.#living.add(child);
    for (const end of ['error', 'exit']) child.once(end, () => this.#living.delete(child));
    return child;
  }
}
