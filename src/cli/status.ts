/** `cofa status` */
import type { Command } from 'commander';
import type { Mount, Status } from '../../schemas/api.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import {
  formatBytes,
  formatDuration,
  formatShare,
  renderPairs,
  renderTable,
  shortDigest,
} from '../terminal/table.ts';

export function define(command: Command, context: Context): void {
  command
    .description('Show the engine: its processes, and how much of each image has arrived.')
    .option('-l, --layers', 'each layer too')
    .action(async (options: { layers?: boolean }) => {
      const asking = { timeoutMs: 10_000, signal: context.signal() };
      const status = await withEngine(context, ({ call }) => call('status', {}, asking));
      context.output.data(status, () => render(status, { layers: options.layers === true, now: new Date() }));
    });
  command.addHelpText(
    'after',
    `
Columns:
  STATE    of a process: starting, running, restarting (it ended; a pause), failed (ended too often: tried now and then)
  FOR      how long the state has lasted
  LAST END how the process before this one ended, and why
  STATE    of an image: ready, indexing, failed; unprepared (a client pulled it; no sidecar, and nothing of it here)
  INDEX    sidecar: it came from the registry; node: there was none to use, this node indexed the image
  TRUST    proven: this node has built it from the layers too, or alone; refuted: they give something else
  PRESENT  share of the uncompressed bytes that are on this node
  FETCHED  compressed bytes that came from the registry since the engine started
  BLOCKS   absent / being fetched / present, of 64 KiB
  HITS     share of the reads of the kernel that found their blocks present`,
  );
  examples(command, [
    ['cofa status', ''],
    ["cofa status --json | jq '.images[] | {ref, blocks}'", ''],
  ]);
}

export function render(status: Status, o: { layers: boolean; now: Date }): string {
  const supervisor = status.processes.find((one) => one.role === 'supervisor');
  const parts = [
    renderPairs([
      [
        'engine',
        `${status.version}, node ${status.node}, pid ${supervisor?.pid ?? '-'}, up ${formatDuration(o.now.getTime() - Date.parse(status.startedAt))}`,
      ],
      ['root', status.root],
      ['nats', status.nats],
      ['transport', status.transport],
      ...(status.log === undefined
        ? []
        : [
            [
              'log',
              `${status.log.events} events, ${formatBytes(status.log.bytes)} of ${formatBytes(status.log.limit)} kept`,
            ] as const,
          ]),
      ['cache', cache(status)],
      ['ready', status.ready ? 'yes' : 'no: reads of what has not arrived wait'],
      ...status.degraded.map((sentence) => ['degraded', sentence] as const),
    ]),
    renderTable(
      ['PROCESS', 'PID', 'STATE', 'FOR', 'RESTARTS', 'MEMORY', 'LAST END'],
      status.processes.map((one) => [
        one.name,
        one.pid === 0 ? '-' : String(one.pid),
        one.state,
        one.since === undefined ? '-' : formatDuration(o.now.getTime() - Date.parse(one.since)),
        String(one.restarts),
        one.rssBytes === undefined ? '-' : formatBytes(one.rssBytes),
        one.lastEnd?.reason ?? '-',
      ]),
      ['PID', 'RESTARTS', 'MEMORY'],
    ),
  ];
  if (status.mounts.length > 0) {
    parts.push(
      renderTable(
        ['MOUNT', 'STATE', 'CONTAINER', 'IMAGE'],
        status.mounts.map((mount) => [mount.dir, stateOf(mount), mount.container ?? '-', mount.ref]),
      ),
    );
  }
  if (status.images.length > 0) {
    parts.push(
      renderTable(
        ['IMAGE', 'STATE', 'INDEX', 'TRUST', 'SIZE', 'PRESENT', 'FETCHED', 'BLOCKS', 'HITS', 'ERRORS'],
        status.images.map((image) => [
          image.ref,
          image.state,
          image.origin ?? '-',
          image.trust ?? '-',
          formatBytes(image.bytes.total),
          formatShare(image.bytes.present, image.bytes.total),
          formatBytes(image.bytes.fetched),
          blocks(image.blocks),
          formatShare(image.reads.hits, image.reads.hits + image.reads.misses),
          String(image.reads.errors),
        ]),
        ['SIZE', 'PRESENT', 'FETCHED', 'BLOCKS', 'HITS', 'ERRORS'],
      ),
    );
  }
  const passed = status.images.flatMap((image) => image.passed ?? []);
  if (passed.length > 0) {
    parts.push(
      renderTable(
        ['SIDECAR NOT USED', 'WHY'],
        passed.map(({ sidecar, reason }) => [shortDigest(sidecar), reason]),
      ),
    );
  }
  if (o.layers && status.images.length > 0) {
    parts.push(
      renderTable(
        ['LAYER', 'STATE', 'SIZE', 'PRESENT', 'FETCHED', 'BLOCKS', 'IMAGE'],
        status.images.flatMap((image) =>
          image.layers.map((layer) => [
            shortDigest(layer.diffId),
            layer.state,
            formatBytes(layer.bytes.total),
            formatShare(layer.bytes.present, layer.bytes.total),
            formatBytes(layer.bytes.fetched),
            blocks(layer.blocks),
            image.ref,
          ]),
        ),
        ['SIZE', 'PRESENT', 'FETCHED', 'BLOCKS'],
      ),
    );
  }
  return parts.join('\n');
}

function cache({ cache: { usedBytes, limitBytes, freeBytes, prefetch } }: Status): string {
  const limit = limitBytes === null ? '' : ` of ${formatBytes(limitBytes)}`;
  const room = prefetch ? '' : ', no room for prefetch';
  return `${formatBytes(usedBytes)}${limit}, ${formatBytes(freeBytes)} free on the disk${room}`;
}

function stateOf(mount: Mount): string {
  return mount.trust === 'refuted' ? `${mount.state}, refuted` : mount.state;
}

function blocks(counts: { absent: number; fetching: number; present: number }): string {
  return `${counts.absent}/${counts.fetching}/${counts.present}`;
}
