/**
 * The front end's own fetcher, a thread: for when NATS is away or no fetcher lives (src/front-end/local-fetcher.ts). Messages
 * are those of src/fetcher/main.ts, over the thread's port instead of NATS.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { createLog } from '../process/log.ts';
import { realPorts } from '../process/ports.ts';
import { readSettings, registryOptions } from '../process/settings.ts';
import { CofaError } from '../../schemas/errors.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout } from '../store/layout.ts';
import type { Completion, Job, JobWord } from '../../schemas/fetch.ts';
import { JobRunner } from '../fetch/job-runner.ts';

export interface FetchThreadData {
  root: string;
  name: string;
}

const port = parentPort;
if (port === null) throw new Error('fetch-thread.ts runs in a worker thread');
const { root, name } = workerData as FetchThreadData;
const settings = await readSettings(root);
const log = createLog(`${name}-fetcher`, settings.logLevel);
const runner = new JobRunner({
  name,
  node: settings.node,
  random: realPorts().random,
  layout: new Layout(root),
  registry: new RegistryClient({ ...registryOptions(settings), log }),
  log,
  // Those beside an image in its registry are brought all the same.
  packs: () => Promise.reject(new CofaError('unavailable', "startup packs of NATS need the node's fetchers")),
  complete: (completion: Completion) => port.postMessage(completion, []),
});
port.on('message', (job: Job | JobWord) => runner.take(job));
