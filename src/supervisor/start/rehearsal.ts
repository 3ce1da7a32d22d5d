/**
 * What the engine does before a client wants an image: it rehearses a start, since the first one would spend half of its processor time
 * on code that runs for the first time; then it has an indexer at hand.
 */
import type { Logger } from 'pino';
import { IdleRehearsal } from '../../process/rehearsal/idle.ts';
import type { End } from '../end.ts';
import type { Indexers } from '../images/indexers.ts';
import type { Fetchers } from '../processes/fetchers.ts';
import type { FrontEnds } from '../processes/front-ends.ts';
import type { SupervisorPorts } from '../ports.ts';
import type { FleetProcess } from './fleet.ts';

/** A rehearsal that is broken off has this long, ms. */
const STOP_MS = 2_000;

export class IdleWork {
  readonly #root: string;
  readonly #ports: Pick<SupervisorPorts, 'tidying' | 'rehearse'>;
  readonly #indexers: Indexers;
  readonly #rehearsal: IdleRehearsal;
  /** Ends the other processes' rehearsals. */
  readonly #hush: () => void;

  constructor(given: {
    options: { root: string };
    log: Logger;
    indexers: Indexers;
    end: End;
    ports: Pick<SupervisorPorts, 'clock' | 'tidying' | 'rehearse'>;
    fronts: Pick<FrontEnds, 'workCame'>;
    fetchers: Pick<Fetchers, 'workCame'>;
    fleet: FleetProcess | undefined;
  }) {
    const { options, log, indexers, end, ports, fronts, fetchers, fleet } = given;
    this.#hush = () => {
      fronts.workCame();
      fetchers.workCame();
      fleet?.child.send({ kind: 'work' });
    };
    this.#root = options.root;
    this.#ports = ports;
    this.#indexers = indexers;
    this.#rehearsal = new IdleRehearsal({ ...ports, log, slower: 'the first start' });
    end.at('background', {
      clean: () => this.#rehearsal.stop(STOP_MS),
      replaced: () => this.stop(),
      failed: () => this.stop(),
    });
  }

  begin(): void {
    void this.#begin();
  }

  /** There is, or was until now, something to do for a mount: what it leaves on the heap is collected when it is over. */
  worked(): void {
    this.#ports.tidying.worked();
  }

  /** A client wants an image, or the engine ends. */
  stop(): void {
    if (!this.#rehearsal.hasWork) this.#hush();
    this.#rehearsal.workCame();
  }

  async #begin(): Promise<void> {
    const { rehearse } = this.#ports;
    if (rehearse !== undefined)
      await this.#rehearsal.begin({ root: this.#root, name: 'supervisor' }, rehearse);
    if (!this.#rehearsal.hasWork) this.#indexers.prepare();
  }
}
