/** The process that runs seeds for run-seeds.ts: Node's ambient functions are replaced here, and only here. */
import { installAmbient } from './ambient.ts';
import { installHooks, unmetReplacements } from './hooks.ts';
import type { FromRunner, ToRunner } from './run-seeds.ts';

const send = process.send?.bind(process);
if (send === undefined) throw new Error('run-seeds.ts starts this');
const say = (message: FromRunner) => send(message);

process.once('message', (order: ToRunner) => void run(order));

async function run({ first, count, sabotage, isLoud }: ToRunner): Promise<void> {
  installHooks();
  installAmbient();
  const { loadPrograms } = await import('./programs.ts');
  const runSupervisor = await loadPrograms();
  const { simulateEngine } = await import('./whole-engine.ts');
  for (let seed = first; seed < first + count; seed++) {
    try {
      const options = { sabotage, ...(isLoud ? { onTrace: (line: string) => say({ line }) } : {}) };
      say({ outcome: await simulateEngine(seed, runSupervisor, options) });
    } catch (error) {
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
      say({ failure: { seed, message } });
    }
  }
  say({ done: true, unmet: unmetReplacements() });
}
