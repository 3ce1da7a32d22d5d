/** What starts the engine wants to know when it can be used: the snapshotter's socket, and a service manager's word. */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { tellServiceManager, watchdogMs } from '../kernel/service-manager.ts';

/** Resolves with true when a process answers on the socket, with false after `waitMs`. */
export async function untilAnswered(socket: string, waitMs: number): Promise<boolean> {
  for (const end = performance.now() + waitMs; ; await sleep(30)) {
    if (await isAnswered(socket)) return true;
    if (performance.now() > end) return false;
  }
}

/**
 * For the engine as a service (`Type=notify`): says that it is ready when it answers and, with `snapshotter`, when
 * containerd can reach it; from then on that it lives, as often as the manager asks.
 */
export async function reportToServiceManager(root: string, snapshotter: string | undefined): Promise<void> {
  const { connectEngine } = await import('../client/client.ts');
  for (; ; await sleep(50)) {
    const client = await connectEngine(root).catch(() => undefined);
    try {
      // An endpoint of an engine before this one may still lie there.
      if (client?.endpoint.pid !== process.pid) continue;
      await client.call('status', {}, { timeoutMs: 5_000 });
      break;
    } catch {
      continue;
    } finally {
      await client?.close();
    }
  }
  if (snapshotter !== undefined) while (!(await untilAnswered(snapshotter, 60_000)));
  tell('READY=1');
  // Not before: systemd's watchdog begins with the first sign, and would kill a start that is slow, which TimeoutStartSec bounds.
  const interval = watchdogMs();
  if (interval !== undefined) setInterval(() => tell('WATCHDOG=1'), interval / 3).unref();
}

/** A service manager that does not listen any more is no reason to end. */
function tell(words: string): void {
  try {
    tellServiceManager(words);
  } catch (error) {
    console.error(`cofa: the service manager was not told ${words}: ${String(error)}`);
  }
}

function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
