/**
 * Clients of containerd that pull, start and remove lazily pulled images for a while, and kills beside them (test/support/client-churn.ts).
 *
 *     node ops/churn.ts [--cycles 500] [--clients 8] [--kill-rounds 50] [--containerd 1.6|1.7|2.1|2.2|2.3|2.4] [--seed N]
 *
 * Prints a report as JSON. The exit code is 1 where it has violations.
 */
import { randomInt } from 'node:crypto';
import { clientChurn } from '../test/support/client-churn.ts';
import { containerdPath } from './images/debs.ts';
import { programOptions } from './program-options.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    cycles: { type: 'string', default: '500' },
    clients: { type: 'string', default: '8' },
    'kill-rounds': { type: 'string', default: '0' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    containerd: { type: 'string', default: '1.6' },
  },
});
const path = await containerdPath(values.containerd);
const report = await clientChurn({
  cycles: Number(values.cycles),
  clients: Number(values.clients),
  killRounds: Number(values['kill-rounds']),
  seed: Number(values.seed),
  untilUnmounted: true,
  onProgress: (line) => console.error(`churn: ${line}`),
  ...(path === undefined ? {} : { path }),
});
console.log(JSON.stringify(report, undefined, 2));
process.exit(report.violations.length === 0 ? 0 : 1);
