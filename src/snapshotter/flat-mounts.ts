/**
 * The flat images below snapshots: the engine mounts each chain of layers that a snapshot needs once, at
 * ROOT/flats/<chain>; snapshots of the chain are overlays above it. The last one to let go does not unmount at once: a
 * pull is mostly followed by a start.
 */
import type { Logger } from 'pino';
import type { FlatLayer } from '../../actors/snapshots.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { TraceContext } from '../../schemas/trace-context.ts';

export interface FlatMountsOptions {
  /** Where a chain's flat image is mounted. */
  dirOf: (chain: string) => string;
  /** `trace`: of the call that wants it first. */
  mount: (flat: FlatLayer, dir: string, trace: TraceContext | undefined) => Promise<void>;
  unmount: (dir: string) => Promise<void>;
  /** Whether a flat image stands there: in its place there is an empty folder. */
  isThere: (dir: string) => boolean;
  /** An unused one stays mounted for so long, ms. */
  lingerMs: number;
  log: Logger;
}

export interface Hold {
  /** Folder that shows the chain. */
  dir: string;
  /** Mounts it again where it is not there: a user may have unmounted it, or an engine has not brought it back. */
  check(): Promise<void>;
  release(): void;
}

interface Entry {
  users: number;
  mounted: boolean;
  /** It was mounted for a user who was likely to come. */
  isAhead: boolean;
  /** An unused one stays mounted for so long from now on, ms. */
  lingerMs: number;
  /** Mounting and unmounting of one chain go one after the other. */
  tail: Promise<void>;
  timer: NodeJS.Timeout | undefined;
}

export class FlatMounts {
  readonly #options: FlatMountsOptions;
  readonly #entries = new Map<string, Entry>();

  constructor(options: FlatMountsOptions) {
    this.#options = options;
  }

  dirOf(chain: string): string {
    return this.#options.dirOf(chain);
  }

  /** Mounts the chain where it is not; throws what the engine fails with. */
  async hold(flat: FlatLayer, trace?: TraceContext): Promise<Hold> {
    const { chain } = flat;
    const dir = this.#options.dirOf(chain);
    const entry = this.#entry(chain);
    entry.users += 1;
    entry.lingerMs = this.#options.lingerMs;
    clearTimeout(entry.timer);
    let held = true;
    const check = (): Promise<void> => {
      const checking = entry.tail.then(async () => {
        if (!held || (entry.mounted && this.#options.isThere(dir))) return;
        await this.#options.mount(flat, dir, trace);
        entry.mounted = true;
      });
      entry.tail = checking.catch(() => {});
      return checking;
    };
    const release = () => {
      if (!held) return;
      held = false;
      entry.users -= 1;
      if (entry.users === 0) this.#linger(chain, dir, entry);
    };
    try {
      await check();
    } catch (error) {
      release();
      throw error;
    }
    return { dir, check, release };
  }

  /**
   * Mounts the chain for a user who is likely to come. Where none does it is unmounted after as long as without its last
   * one; where it cannot be mounted the next user hears why.
   */
  ahead(flat: FlatLayer, trace?: TraceContext): void {
    const entry = this.#entry(flat.chain);
    if (entry.isAhead || entry.mounted || entry.users > 0) return;
    entry.isAhead = true;
    this.hold(flat, trace).then(
      ({ release }) => release(),
      (error: unknown) => {
        const { chain } = flat;
        this.#options.log.info({ chain, error: toErrorRecord(error) }, 'an image is not mounted ahead');
      },
    );
  }

  /** Takes over one that an earlier life mounted; unmounts it after a while where no snapshot holds it. */
  adopt(chain: string): void {
    const entry = this.#entry(chain);
    entry.mounted = true;
    if (entry.users === 0) this.#linger(chain, this.#options.dirOf(chain), entry);
  }

  /** The chain's image has been removed: where nothing stands on it, it need not wait for a start that comes. */
  dismiss(chain: string): void {
    const entry = this.#entries.get(chain);
    if (entry === undefined) return;
    entry.lingerMs = 0;
    if (entry.users === 0) this.#linger(chain, this.#options.dirOf(chain), entry);
  }

  #entry(chain: string): Entry {
    let entry = this.#entries.get(chain);
    if (entry === undefined) {
      entry = {
        users: 0,
        mounted: false,
        isAhead: false,
        lingerMs: this.#options.lingerMs,
        tail: Promise.resolve(),
        timer: undefined,
      };
      this.#entries.set(chain, entry);
    }
    return entry;
  }

  #linger(chain: string, dir: string, entry: Entry): void {
    clearTimeout(entry.timer);
    entry.timer = setTimeout(() => {
      entry.tail = entry.tail.then(async () => {
        if (entry.users > 0) return;
        try {
          if (entry.mounted) await this.#options.unmount(dir);
          entry.mounted = false;
        } catch (error) {
          this.#options.log.info({ chain, error: toErrorRecord(error) }, 'a flat image stays mounted');
        }
        if (entry.users > 0) return;
        entry.lingerMs = this.#options.lingerMs;
        if (entry.mounted) this.#linger(chain, dir, entry);
        else this.#entries.delete(chain);
      });
    }, entry.lingerMs);
  }
}
