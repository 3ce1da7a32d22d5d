/** containerd's snapshots API (gRPC) over the store: converts and delegates. */
import { create } from '@bufbuild/protobuf';
import { type Timestamp, TimestampSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Logger } from 'pino';
import {
  type Moment,
  SnapshotError,
  type SnapshotErrorCode,
  type SnapshotFacts,
} from '../../actors/snapshots.ts';
import { type ErrorCode, toErrorRecord } from '../../schemas/errors.ts';
import {
  type Info,
  InfoSchema,
  Kind,
  Snapshots,
} from '../containerd/generated/containerd/services/snapshots/v1/snapshots_pb.ts';
import type { Mount } from '../containerd/generated/containerd/types/mount_pb.ts';
import { MountSchema } from '../containerd/generated/containerd/types/mount_pb.ts';
import type { Calls } from './grpc-calls.ts';
import type { SnapshotMount, SnapshotStore } from './store.ts';

/** Infos in one message of a list. */
const LIST_CHUNK = 100;

/** The API's methods; `snapshotter` in requests is the name that containerd knows this one by, and is not looked at. */
export function snapshotCalls(store: SnapshotStore, log: Logger): Calls<typeof Snapshots> {
  const guarded = async <T>(operation: string, work: () => T | Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw asConnectError(operation, error, log);
    }
  };
  return {
    prepare: ({ key, parent, labels }, asked) =>
      guarded('prepare', async () => ({
        mounts: protoMounts(await store.prepare({ key, parent, labels, asked })),
      })),
    view: ({ key, parent, labels }, asked) =>
      guarded('view', async () => ({
        mounts: protoMounts(await store.view({ key, parent, labels, asked })),
      })),
    mounts: ({ key }) => guarded('mounts', async () => ({ mounts: protoMounts(await store.mounts(key)) })),
    commit: ({ name, key, parent, labels }) =>
      guarded('commit', async () => {
        await store.commit(name, { key, parent, labels });
        return {};
      }),
    remove: ({ key }) =>
      guarded('remove', async () => {
        await store.remove(key);
        return {};
      }),
    stat: ({ key }) => guarded('stat', () => ({ info: protoInfo(store.stat(key)) })),
    update: ({ info, updateMask }) =>
      guarded('update', async () => {
        if (info === undefined) throw new SnapshotError('invalid-argument', 'an update needs an info');
        return { info: protoInfo(await store.update(info.name, info.labels, updateMask?.paths ?? [])) };
      }),
    async *list({ filters }) {
      const found = await guarded('list', () => store.list(filters));
      for (let at = 0; at < found.length; at += LIST_CHUNK) {
        yield { info: found.slice(at, at + LIST_CHUNK).map(protoInfo) };
      }
    },
    usage: ({ key }) =>
      guarded('usage', async () => {
        const { size, inodes } = await store.usage(key);
        return { size: BigInt(size), inodes: BigInt(inodes) };
      }),
    cleanup: () =>
      guarded('cleanup', async () => {
        await store.cleanup();
        return {};
      }),
  };
}

const KINDS = { active: Kind.ACTIVE, view: Kind.VIEW, committed: Kind.COMMITTED } as const;

function protoInfo({ name, parent, kind, created, updated, labels }: SnapshotFacts): Info {
  return create(InfoSchema, {
    name,
    parent,
    kind: KINDS[kind],
    createdAt: protoMoment(created),
    updatedAt: protoMoment(updated),
    labels: { ...labels },
  });
}

const protoMoment = ({ sec, nsec }: Moment): Timestamp =>
  create(TimestampSchema, { seconds: BigInt(sec), nanos: nsec });

const protoMounts = (mounts: readonly SnapshotMount[]): Mount[] =>
  mounts.map(({ type, source, options }) => create(MountSchema, { type, source, options }));

const REFUSED: Record<SnapshotErrorCode, Code> = {
  'already-exists': Code.AlreadyExists,
  'not-found': Code.NotFound,
  'failed-precondition': Code.FailedPrecondition,
  'invalid-argument': Code.InvalidArgument,
};

/** What containerd does differently upon; the rest is `Unknown` to it. */
const FAILED: Partial<Record<ErrorCode, Code>> = {
  unavailable: Code.Unavailable,
  timeout: Code.Unavailable,
  'not-running': Code.Unavailable,
  'no-space': Code.ResourceExhausted,
  unauthorized: Code.PermissionDenied,
  integrity: Code.DataLoss,
  unsupported: Code.Unimplemented,
};

function asConnectError(operation: string, error: unknown, log: Logger): ConnectError {
  if (error instanceof SnapshotError) {
    return new ConnectError(`failed to ${operation} snapshot: ${error.message}`, REFUSED[error.code]);
  }
  const record = toErrorRecord(error);
  log.warn({ operation, error }, 'call failed');
  const hint = record.hint === undefined ? '' : ` (${record.hint})`;
  return new ConnectError(`${operation}: ${record.message}${hint}`, FAILED[record.code] ?? Code.Unknown);
}
