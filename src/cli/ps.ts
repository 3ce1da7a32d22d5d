/** `cofa ps`: containers and mounts. Works without an engine too, since containers may outlive it. */
import type { Command } from 'commander';
import type { Mount, Status } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { ContainerInfo } from '../container/reap.ts';
import { type Context, examples } from './context.ts';
import { withEngine } from './engine.ts';
import { formatDuration, formatShare, renderTable } from '../terminal/table.ts';

export function define(command: Command, context: Context): void {
  command
    .description('List containers, those that a killed cofa run left included, and mounts.')
    .action(async () => {
      const { listContainers } = await import('../container/reap.ts');
      const now = new Date();
      const options = { timeoutMs: 10_000, signal: context.signal() };
      const status = await withEngine(context, ({ call }) => call('status', {}, options)).catch(
        (error: unknown) => {
          if (error instanceof CofaError && error.code === 'not-running') return undefined;
          throw error;
        },
      );
      const containers = await listContainers(context.root, now);
      context.output.data(
        {
          running: status !== undefined,
          containers: containers.map((info) => containerJson(info, status)),
          mounts: plainMounts(status),
        },
        () => render(containers, status, now),
      );
      if (status === undefined) context.output.note(`the engine of ${context.root} does not run`);
    });
  examples(command, [
    ['cofa ps', ''],
    [`cofa ps --json | jq -r '.containers[] | select(.state == "orphaned") | .id'`, ''],
  ]);
}

function containerJson(info: ContainerInfo, status: Status | undefined) {
  const { record } = info;
  return {
    id: info.id,
    state: info.state,
    ref: record?.ref ?? null,
    args: record?.args ?? [],
    created: record?.created ?? null,
    pid: info.pid ?? null,
    exit: record?.exit ?? null,
    folder: info.folder.path,
    mount: status?.mounts.find((mount) => mount.container === info.id) ?? null,
  };
}

function plainMounts(status: Status | undefined): Mount[] {
  return status?.mounts.filter((mount) => mount.container === undefined) ?? [];
}

export function render(containers: readonly ContainerInfo[], status: Status | undefined, now: Date): string {
  const parts: string[] = [];
  if (containers.length > 0) {
    parts.push(
      renderTable(
        ['CONTAINER', 'STATE', 'SINCE', 'PRESENT', 'IMAGE', 'COMMAND'],
        containers.map((info) => [
          info.id,
          info.state,
          info.record === undefined ? '-' : formatDuration(now.getTime() - Date.parse(info.record.created)),
          presentOf(
            status?.mounts.find((mount) => mount.container === info.id),
            status,
          ),
          info.record?.ref ?? '-',
          info.record === undefined || info.record.args.length === 0
            ? '-'
            : info.record.args.join(' ').slice(0, 60),
        ]),
        ['SINCE', 'PRESENT'],
      ),
    );
  }
  const mounts = plainMounts(status);
  if (mounts.length > 0) {
    parts.push(
      renderTable(
        ['MOUNT', 'STATE', 'PRESENT', 'INDEX', 'TRUST', 'IMAGE'],
        mounts.map((mount) => [
          mount.dir,
          mount.state,
          presentOf(mount, status),
          mount.origin,
          mount.trust,
          mount.ref,
        ]),
        ['PRESENT'],
      ),
    );
  }
  return parts.length === 0 ? 'no containers, no mounts\n' : parts.join('\n');
}

function presentOf(mount: Mount | undefined, status: Status | undefined): string {
  const image = status?.images.find((one) => one.manifest === mount?.manifest);
  return image === undefined ? '-' : formatShare(image.bytes.present, image.bytes.total);
}
