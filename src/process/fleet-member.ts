/** Runs a member of a fleet on a machine without an engine, and starts it again when it ends. */
import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { CofaError } from '../../schemas/errors.ts';
import { Layout } from '../store/layout.ts';
import { takeLock } from '../store/lock.ts';
import { Child, describeEnd, realChildPorts } from './child.ts';
import { type FleetSettings, writeFleetSettings } from './fleet-settings.ts';
import { createLog } from './log.ts';
import { NODE_FLAGS } from './node-flags.ts';
import { realSelf } from './self.ts';

const HANG_MS = 10_000;
const PROGRAM = fileURLToPath(new URL('../fleet/main.ts', import.meta.url));

/** Until SIGTERM or SIGINT. Errors: `conflict` where another program has the root, those of the file system. */
export async function runFetcherMember(settings: FleetSettings): Promise<void> {
  const layout = new Layout(settings.root);
  const log = createLog('fetcher', settings.logLevel);
  await layout.prepare();
  const release = takeLock(layout.lock(), layout.root);
  try {
    await writeFleetSettings(settings);
    const ended = Promise.withResolvers<void>();
    const child = new Child({
      role: 'fleet',
      name: 'fleet',
      command: process.execPath,
      args: [...NODE_FLAGS, PROGRAM, layout.root],
      log: layout.log('fleet'),
      link: {
        hangMs: HANG_MS,
        onReady: () => log.info({ root: layout.root }, 'the member of the fleet is ready'),
      },
      ports: realChildPorts(),
      onExit: (end) => log.warn({ pid: end.pid }, describeEnd(end)),
      onGiveUp: () =>
        ended.reject(
          new CofaError('environment', 'the member of the fleet does not start', {
            hint: `see ${layout.log('fleet')}`,
          }),
        ),
    });
    const off = realSelf().onSignal(() => void child.stop().then(() => ended.resolve()));
    child.start();
    try {
      await ended.promise;
    } finally {
      off();
      await child.stop();
      // It has a user and a password of NATS.
      await rm(layout.in('run/fleet.json'), { force: true });
    }
  } finally {
    release();
  }
}
