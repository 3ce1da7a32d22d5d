/** `cofa incidents ls|show|rm`: what went wrong, with the stretch of the event log around it. */
import type { Command } from 'commander';
import type { IncidentListed, IncidentShown } from '../../schemas/incidents.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { IncidentFolder } from '../incidents/folder.ts';
import { printable } from '../terminal/output.ts';
import { formatBytes, renderTable } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';

export function define(command: Command, context: Context): void {
  command.description(
    'What went wrong: crashes of processes, reads that failed, bytes that are not what they should be, slow starts. Of each the engine keeps the stretch of the event log around it, as a file that cofa replay opens: cofa up --incidents-limit, --slow-start. The engine need not run.',
  );
  command
    .command('ls')
    .description('List the incidents that are kept, the oldest first.')
    .action(() => list(context));
  command
    .command('show')
    .description('Say what happened, which events tell of it, and what looks further.')
    .argument('[incident]', 'its name or number, as ls shows them', 'last')
    .action((wanted: string) => show(wanted, context));
  command
    .command('rm')
    .description('Remove incidents, and give back their space.')
    .argument('[incident...]', 'their names or numbers')
    .option('--all', 'all of them')
    .action((wanted: string[], { all }: { all?: boolean }) => remove(wanted, all === true, context));
  examples(command, [
    ['cofa incidents ls', ''],
    ['cofa incidents show', 'the last one'],
    ['cofa incidents show 1234 --json', ''],
    ['cofa incidents rm --all', ''],
    ['cofa support', 'pack them for the one who helps'],
  ]);
}

export async function folderOf(context: Context): Promise<IncidentFolder> {
  const [{ IncidentFolder }, { Layout }] = await Promise.all([
    import('../incidents/folder.ts'),
    import('../store/layout.ts'),
  ]);
  return new IncidentFolder(new Layout(context.root).incidents());
}

async function list(context: Context): Promise<void> {
  const folder = await folderOf(context);
  const { incidents, problems } = await folder.list();
  for (const problem of problems) context.output.warn(problem);
  const { listedOf } = await import('../incidents/describe.ts');
  const listed = incidents.map(listedOf);
  const bytes = listed.reduce((sum, one) => sum + one.bytes, 0);
  context.output.data({ dir: folder.dir, bytes, incidents: listed }, () => renderList(listed));
}

export function renderList(incidents: readonly IncidentListed[]): string {
  if (incidents.length === 0) return 'no incidents: nothing went wrong that is kept';
  return renderTable(
    ['NUMBER', 'TIME', 'KIND', 'TIMES', 'EVENTS', 'SIZE', 'WHAT'],
    incidents.map(({ number, time, kind, times, more, events, bytes, summary }) => [
      String(number),
      `${time.slice(0, 19).replace('T', ' ')}`,
      kind,
      more === 0 ? String(times) : `${times}+${more}`,
      String(events),
      formatBytes(bytes),
      summary,
    ]),
    ['NUMBER', 'TIMES', 'EVENTS', 'SIZE'],
  );
}

async function show(wanted: string, context: Context): Promise<void> {
  const folder = await folderOf(context);
  const stored = await folder.find(wanted);
  const { shownOf } = await import('../incidents/describe.ts');
  const shown = await shownOf(stored, { root: context.root, signal: context.signal() });
  context.output.data(shown, () => renderIncident(shown));
}

export function renderIncident(shown: IncidentShown): string {
  const { number, kind, time, node, story, relevant, next, file, events, bytes } = shown;
  const lines = [
    `incident ${number}: ${kind}, ${time.slice(0, 23).replace('T', ' ')} UTC, node ${node}`,
    '',
    ...story.map((sentence) => `  ${sentence}`),
  ];
  if (relevant.length > 0)
    lines.push(
      '',
      ...renderTable(
        ['SEQ', 'TIME', 'EVENT', ''],
        relevant.map((event) => [String(event.seq), event.time.slice(11, 23), event.type, event.what]),
        ['SEQ'],
      )
        .trimEnd()
        .split('\n'),
    );
  if (file !== null) lines.push('', `${events} events, ${formatBytes(bytes)}: ${file}`);
  if (next.length > 0) {
    const width = Math.max(...next.map(({ command }) => command.length));
    lines.push(
      '',
      'look further:',
      ...next.map(({ command, why }) => `  ${command.padEnd(width)}  # ${why}`),
    );
  }
  return lines.map((line) => `${printable(line)}\n`).join('');
}

async function remove(wanted: readonly string[], all: boolean, context: Context): Promise<void> {
  if (all === wanted.length > 0)
    throw new CofaError(
      'invalid-argument',
      all ? '--all and names exclude each other' : 'no incident is named',
      {
        hint: 'cofa incidents rm NUMBER…, or --all',
      },
    );
  const folder = await folderOf(context);
  const incidents = all
    ? (await folder.list()).incidents
    : await Promise.all(wanted.map((one) => folder.find(one)));
  const removed = new Set<string>();
  let bytes = 0;
  for (const one of incidents) {
    if (removed.has(one.name)) continue;
    await folder.remove(one.name);
    removed.add(one.name);
    bytes += one.bytes;
  }
  context.output.data({ removed: [...removed], bytes }, () =>
    context.output.quiet ? '' : `${removed.size} incidents removed, ${formatBytes(bytes)}`,
  );
}
