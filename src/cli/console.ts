/** `cofa console`: the page, and what `cofa replay --web` shares with it. */
import type { Command } from 'commander';
import type { Status } from '../../schemas/api.ts';
import type { ListenFlags } from '../console/address.ts';
import type { LoadedLog } from '../replay/load.ts';
import { addListenOptions } from './console-options.ts';
import { type Context, examples } from './context.ts';
import { giveHeapRoom } from '../process/heap.ts';
import { logSource } from './log-source.ts';
import { load, type SourceOptions } from './replay.ts';

export function define(command: Command, context: Context): void {
  command
    .description(
      'Serve a page that shows this node until Ctrl-C: how it is, how images arrive, and its event log as a debugger. It changes nothing. Open the address that is printed; the token in it lets its holder look.',
    )
    .option('--file <file>', 'show an exported log instead (cofa events export), as cofa replay --web does');
  addListenOptions(command);
  command.action(async (options: ListenFlags & { file?: string }) => {
    await serve(context, options.file, options, {});
  });
  examples(command, [
    ['cofa console', 'prints an address of 127.0.0.1'],
    ['cofa console --listen 8080', 'this port'],
    ['ssh -L 8080:127.0.0.1:8080 NODE', 'and that of a node, on your machine'],
    ['cofa console --listen 10.0.0.5:8443 --cert c.pem --key k.pem --auth login', 'for others'],
    ['cofa replay --web start.cofa-log', 'an exported log, anywhere'],
  ]);
}

/**
 * Serves until the context's signal. `file`: an exported log; without it the log of the engine. `selection`: what is
 * shown of it; a part of an engine's log stays as it is. Errors: those of the options, of
 * the log and of listen(2).
 */
export async function serve(
  context: Context,
  file: string | undefined,
  flags: ListenFlags,
  selection: SourceOptions,
): Promise<void> {
  const [{ listenSettings }, { openConsole }, { loadPage }, { Source }] = await Promise.all([
    import('../console/address.ts'),
    import('../console/server.ts'),
    import('../console/page.ts'),
    import('../console/source.ts'),
  ]);
  // What is wrong with the call is said before a long log is read.
  const settings = listenSettings(flags);
  const signal = context.signal();
  const page = await loadPage();
  const loaded = await load(context, file, selection);
  // A console may run for days: garbage is collected when it is as much as what lives, and not several times that.
  giveHeapRoom();
  const isPart = Object.values(selection).some((word) => word !== undefined);
  const source = new Source(file === undefined && !isPart ? await ofEngine(context, loaded) : { loaded });
  try {
    const server = await openConsole(settings, source, page);
    try {
      context.output.data({ url: server.url, title: source.title }, () => `${server.url}\n`);
      context.output.note(`shows ${source.title}; Ctrl-C ends it`);
      await new Promise<void>((ended) => {
        if (signal.aborted) ended();
        else signal.addEventListener('abort', () => ended(), { once: true });
      });
    } finally {
      await server.close();
    }
  } finally {
    await source.close();
  }
}

async function ofEngine(context: Context, loaded: LoadedLog) {
  const { connectEngine } = await import('../client/client.ts');
  const { loadLive } = await import('../replay/load.ts');
  const { pathsOfRoot } = await import('../image/file-paths.ts');
  const { shapesOfRoot } = await import('../replay/shapes.ts');
  const { IncidentLogs } = await import('../console/incident-logs.ts');
  const { Layout } = await import('../store/layout.ts');
  const { root } = context;
  // Of a stopped engine: its nats-server has been started to read the log, and keeps the engine from starting.
  if (loaded.follow === undefined) await loaded.close();
  return {
    loaded: loaded.follow === undefined ? { ...loaded, close: async () => {} } : loaded,
    reload: async (signal: AbortSignal): Promise<LoadedLog> => {
      const { startServer: _, ...source } = logSource(root);
      const again = await loadLive(source, { signal });
      again.log.paths = pathsOfRoot(root);
      again.log.shapes = shapesOfRoot(root);
      return again;
    },
    incidents: new IncidentLogs(root, new Layout(root).incidents()),
    status: async (): Promise<Status> => {
      const engine = await connectEngine(root);
      try {
        return await engine.call('status', {}, { timeoutMs: 5_000 });
      } finally {
        await engine.close();
      }
    },
  };
}
