/** Makes the log of a running engine long. */
import { randomInt } from 'node:crypto';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { busOf, readSettings } from '../../src/process/settings.ts';
import { EventLog } from '../../src/store/event-log.ts';

/**
 * Lets layers without a device report the same blocks over and over, as a cache under pressure would. Errors: those of
 * `EventLog.append`, such as `unavailable` where the engine ends meanwhile.
 */
export async function fillLog(root: string, node: string, events: number): Promise<void> {
  const settings = await readSettings(root);
  const bus = await connectBus(busOf(settings, 'front-end'), { name: 'test', reconnect: false });
  try {
    const names = subjects(node);
    const log = new EventLog(bus, Date.now, { epoch: settings.epoch, alone: true });
    // Of no earlier call, whose records this writer does not know.
    const first = randomInt(1e9);
    const layer = (n: number) => names.event('layer', String(first + n).padStart(64, '0'));
    await Promise.all(
      Array.from({ length: events }, (_, n) =>
        log.append(layer(n % 50), { type: 'layer.blocks', ranges: [[n, 1]] }),
      ),
    );
  } finally {
    await bus.close();
  }
}
