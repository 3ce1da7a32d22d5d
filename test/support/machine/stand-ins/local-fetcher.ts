/** The fetcher that a simulated front end has for itself: the jobs of src/front-end/local-fetcher.ts, without a thread. */
import type { Job, JobWord } from '../../../../schemas/fetch.ts';
import type { OwnFetcher, OwnFetcherOptions } from '../../../../src/front-end/local-fetcher.ts';
import { JobRunner } from '../../../../src/fetch/job-runner.ts';
import { Layout } from '../../../../src/store/layout.ts';
import { machine } from '../machine.ts';
import { RegistryClient } from './registry-client.ts';
import { realPorts } from '../../../../src/process/ports.ts';

export class LocalFetcher implements OwnFetcher {
  readonly #runner: JobRunner;

  constructor({ root, name, log, onCompletion }: OwnFetcherOptions) {
    this.#runner = new JobRunner({
      name,
      node: 'here',
      random: realPorts().random,
      layout: new Layout(root),
      registry: new RegistryClient() as never,
      log,
      packs: () => Promise.reject(new Error('the simulation has no startup packs')),
      complete: (completion) => onCompletion(completion),
    });
  }

  send(job: Job | JobWord): void {
    machine().meet('jobs of the front end itself');
    this.#runner.take(job);
  }

  close(): void {
    void this.#runner.stop(0);
  }
}
