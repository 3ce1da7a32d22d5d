/** `cofa fleet` */
import type { Command } from 'commander';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { FleetStatus } from '../../schemas/fleet-status.ts';
import { formatBytes, formatDuration, formatShare, renderPairs, renderTable } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';

/** The member answers at once, or is stuck, ms. */
const ANSWER_MS = 5_000;

/** The last changes; `--json` has more. */
const SHOWN = 8;
const CHANGE_WORDS: Record<FleetStatus['changes'][number]['what'], string> = {
  came: 'came',
  gone: 'is gone',
  'left-out': 'sent wrong bytes and is left out',
};

export function define(command: Command, context: Context): void {
  command
    .description(
      'Show the fleet as the member on this machine sees it: who is there, and what came from whom since the member started.',
    )
    .action(async () => {
      const status = await askMember(context.root);
      context.output.data(status, () => render(status, new Date()));
    });
  command.addHelpText(
    'after',
    `
Columns:
  ROLE    node: an engine; fetcher: a cache without mounts
  WEIGHT  share of the blobs that it is a home of, in proportion to the others of its zone
  STATE   there; silent: it announces itself, and did not answer lately; wrong: it sent wrong bytes and is left out`,
  );
  examples(command, [
    ['cofa fleet', ''],
    ['cofa fleet --json | jq \'.members[] | select(.state != "there")\'', 'who does not answer'],
  ]);
}

/** Errors: `not-running` where no member runs in the root. */
export async function askMember(root: string): Promise<FleetStatus> {
  const [{ askLocal }, { Layout }] = await Promise.all([
    import('../bus/local-socket.ts'),
    import('../store/layout.ts'),
  ]);
  const isStatus = (value: unknown): value is FleetStatus => FleetStatus.safeParse(value).success;
  return await askLocal(new Layout(root).socket('fleet'), 'status', ANSWER_MS, isStatus).catch(
    (error: unknown) => {
      if (toErrorRecord(error).code !== 'not-running') throw error;
      throw new CofaError('not-running', `no member of a fleet runs in ${root}`, {
        cause: error,
        hint: 'cofa up --nats URL --fleet, or cofa fetcher --nats URL',
      });
    },
  );
}

export function render(status: FleetStatus, now: Date): string {
  const { asked, bytes, cache } = status;
  const pieces = asked.node + asked.fetcher + asked.own + asked.missed;
  const share = (count: number) => `${count} (${formatShare(count, pieces)})`;
  const zones = new Set(status.members.map(({ zone }) => zone));
  return [
    renderPairs([
      ['fleet', `${status.fleet}: members ${status.members.length}, zones ${zones.size}`],
      ['this member', status.self],
      ['nats', status.connected ? 'connected' : 'away: members that join are not seen'],
      ['asked for', `${pieces} pieces of blobs`],
      ['  of nodes', share(asked.node)],
      ['  of fetchers', share(asked.fetcher)],
      ['  of its own', share(asked.own)],
      ['  of registries', share(asked.missed)],
      ['from the fleet', `${formatBytes(bytes.received)} that no registry sent to this node`],
      ['for the fleet', `${formatBytes(bytes.origin)} fetched, ${formatBytes(bytes.sent)} sent`],
      ['kept', `${cache.pieces} pieces, ${formatBytes(cache.usedBytes)} of ${formatBytes(cache.limitBytes)}`],
      ...status.degraded.map((sentence) => ['degraded', sentence] as const),
    ]),
    renderTable(
      ['MEMBER', 'ZONE', 'ROLE', 'STATE', 'FOR', 'WEIGHT', 'ADDRESS', 'VERSION'],
      status.members.map((one) => [
        one.name,
        one.zone,
        one.role,
        one.state,
        formatDuration(now.getTime() - Date.parse(one.since)),
        String(one.weight),
        one.address,
        one.version,
      ]),
      ['WEIGHT'],
    ),
    ...(status.changes.length === 0
      ? []
      : [
          renderTable(
            ['AGO', 'CHANGE'],
            status.changes
              .slice(0, SHOWN)
              .map(({ at, what, name }) => [
                formatDuration(now.getTime() - Date.parse(at)),
                `${name} ${CHANGE_WORDS[what]}`,
              ]),
            [],
          ),
        ]),
  ].join('\n');
}
