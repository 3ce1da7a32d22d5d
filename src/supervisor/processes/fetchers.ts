/** The pool of fetcher processes. */
import { fileURLToPath } from 'node:url';
import type { ProcessStatus } from '../../../schemas/api.ts';
import type { Layout } from '../../store/layout.ts';
import { Child, type Counted, type ChildOptions, type ChildPorts } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import { NODE_FLAGS } from '../../process/node-flags.ts';

export interface FetchersOptions {
  layout: Layout;
  conditions: Conditions;
  /** How many. */
  count: number;
  /** Tells a person which engine they belong to. */
  label: string;
  hangMs: number;
  ports: ChildPorts;
  watchers: (name: string) => Pick<ChildOptions, 'onStart' | 'onExit'>;
}

export class Fetchers {
  readonly #children: Child[];

  constructor(options: FetchersOptions) {
    const { layout, conditions, count, label, hangMs, ports, watchers } = options;
    this.#children = Array.from({ length: count }, (_, index) => {
      // The name on the bus differs between engines that share one NATS by node.
      const name = `fetcher-${index}`;
      return new Child({
        role: 'fetcher',
        name,
        command: process.execPath,
        args: [...NODE_FLAGS, PROGRAM, layout.root, name, label],
        log: layout.log(name),
        isExpendable: true,
        ownSession: true,
        link: { hangMs, onReady: () => conditions.clear(name) },
        ports,
        onGiveUp: () => conditions.set(name, `${name} does not start; see ${layout.log(name)}`),
        ...watchers(name),
      });
    });
  }

  start(): void {
    for (const child of this.#children) child.start();
  }

  /** Restarts one after the other, with the code that is on the disk now. Returns how many; error `environment`. */
  async upgrade(): Promise<number> {
    for (const child of this.#children) {
      await child.stop();
      child.start();
      await child.untilRunning();
    }
    return this.#children.length;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#children.map((child) => child.stop()));
  }

  /** A client wants something: they cease to rehearse. */
  workCame(): void {
    for (const child of this.#children) child.send({ kind: 'work' });
  }

  /** What each has counted. */
  counted(patienceMs: number): Array<Promise<Counted | undefined>> {
    return this.#children.map((child) => child.counted(patienceMs));
  }

  /** What is wrong around them. */
  degraded(): string[] {
    return this.#children.flatMap((child) => child.degraded);
  }

  status(): ProcessStatus[] {
    return this.#children.map((child) => child.status());
  }
}

const PROGRAM = fileURLToPath(new URL('../../fetcher/main.ts', import.meta.url));
