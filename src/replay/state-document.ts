/** A node's state as a JSON document, and what differs between two of them. Schemas: schemas/replay.ts. */
import { layersOfImage } from '../../actors/device.ts';
import { type NodeState, presentRanges, proofOf } from '../../actors/node-state.ts';
import { pairsOf } from '../../actors/ranges.ts';
import { defined } from '../../schemas/defined.ts';
import type { ReplayDiff, ReplayImage, ReplayLayer, ReplayMount, ReplayState } from '../../schemas/replay.ts';
import type { ReplayLog } from './replay-log.ts';
import { digestOfNodeState } from '../store/node-codec.ts';

/** The state after `position` events. `digest`: false leaves it empty. */
export function describeState(log: ReplayLog, position: number, { digest = true } = {}): ReplayState {
  const state = log.stateAt(position);
  const at = log.timeOf(position);
  return {
    node: log.node,
    seq: log.seqOf(position),
    position,
    time: at > 0 ? new Date(at).toISOString() : null,
    digest: digest ? digestOfNodeState(state) : '',
    running: state.running,
    crashed: state.crashed,
    processes: [...state.processes].map(([name, { role, pid, starts }]) => ({
      name,
      role,
      pid: pid ?? null,
      starts,
    })),
    members: [...state.members].map(([name, { zone, role, address }]) => ({ name, zone, role, address })),
    leftOut: namesUntil(state.leftOut),
    disbelieved: namesUntil(state.disbelieved),
    snapshots: state.snapshots.size,
    ...describeFacts(state),
  };
}

const namesUntil = (named: NodeState['leftOut']): ReplayState['leftOut'] =>
  [...named].map(([name, { until }]) => ({ name, until: new Date(until).toISOString() }));

/** The part of the document that is about images, layers and mounts. */
export function describeFacts(state: NodeState): {
  images: ReplayImage[];
  layers: ReplayLayer[];
  mounts: ReplayMount[];
} {
  const users = new Map<string, string[]>();
  const images = [...state.images].map(
    ([manifest, { resolved, prepared, failure, verified, refuted }]): ReplayImage => {
      const trust = proofOf({ prepared, verified, refuted });
      const now: ReplayImage['state'] =
        failure !== undefined ? 'failed' : prepared !== undefined ? 'prepared' : 'resolved';
      for (const id of layersOfImage({ resolved, prepared }))
        users.set(id, [...(users.get(id) ?? []), resolved.ref]);
      return defined({
        manifest,
        ref: resolved.ref,
        state: now,
        origin: prepared?.origin,
        flat: prepared?.flat,
        failure: failure && { code: failure.code, message: failure.message },
        trust,
        verified,
        refuted: refuted?.message,
        layers: resolved.layers.map(({ diffId }) => diffId),
      });
    },
  );
  const layers = [...state.layers].map(([id, layer]): ReplayLayer => {
    const { size, blockSize, blockCount, blob, presentCount, complete, handedOver, diffId } = layer;
    return {
      ...(diffId === undefined ? { diffId: id } : { diffId, root: id }),
      state: handedOver ? 'handed-over' : complete ? 'complete' : 'lazy',
      size,
      blockSize,
      blockCount,
      blob,
      presentCount,
      present: pairsOf(presentRanges(layer.present)),
      images: [...new Set(users.get(id) ?? [])],
    };
  });
  const mounts = [...state.mounts.values()].map(
    ({ id, dir, ref, manifest, state: now, container }): ReplayMount =>
      defined({ id, dir, ref, manifest, state: now, container }),
  );
  return { images, layers, mounts };
}

const idOf = ({ root, diffId }: ReplayLayer): string => root ?? diffId;

/** What became different from `a` to `b`. */
export function diffStates(a: ReplayState, b: ReplayState): ReplayDiff {
  const aLayers = new Map(a.layers.map((layer) => [idOf(layer), layer]));
  const bLayers = new Map(b.layers.map((layer) => [idOf(layer), layer]));
  const layers: ReplayDiff['layers'] = [];
  for (const id of new Set([...aLayers.keys(), ...bLayers.keys()])) {
    const [before, after] = [aLayers.get(id), bLayers.get(id)];
    const gained = subtract(after?.present ?? [], before?.present ?? []);
    const lost = subtract(before?.present ?? [], after?.present ?? []);
    const change = changeOf(before, after);
    const fields = fieldsChanged(before, after, ['state', 'size', 'blockCount', 'blob']);
    if (change === 'changed' && gained.length + lost.length === 0 && Object.keys(fields).length === 0)
      continue;
    layers.push({ diffId: (after ?? before)?.diffId ?? id, change, gained, lost, fields });
  }
  return {
    from: { seq: a.seq, position: a.position, time: a.time },
    to: { seq: b.seq, position: b.position, time: b.time },
    equal: a.digest === b.digest,
    ...(a.running === b.running ? {} : { running: { from: a.running, to: b.running } }),
    processes: diffBy(a.processes, b.processes, 'name', ['pid', 'starts']),
    members: diffBy(a.members, b.members, 'name', ['zone', 'role', 'address']),
    leftOut: diffBy(a.leftOut, b.leftOut, 'name', ['until']),
    disbelieved: diffBy(a.disbelieved, b.disbelieved, 'name', ['until']),
    images: diffBy(a.images, b.images, 'manifest', [
      'ref',
      'state',
      'origin',
      'flat',
      'failure',
      'trust',
      'verified',
      'refuted',
    ]),
    layers,
    mounts: diffBy(a.mounts, b.mounts, 'id', ['dir', 'ref', 'manifest', 'state', 'container']),
  };
}

type Fields = Record<string, { from: unknown; to: unknown }>;

function diffBy<T extends object>(
  a: readonly T[],
  b: readonly T[],
  key: keyof T & string,
  names: ReadonlyArray<keyof T & string>,
): Array<{ id: string; change: 'added' | 'removed' | 'changed'; fields: Fields }> {
  const before = new Map(a.map((one) => [String(one[key]), one]));
  const after = new Map(b.map((one) => [String(one[key]), one]));
  return [...new Set([...before.keys(), ...after.keys()])].flatMap((id) => {
    const [old, now] = [before.get(id), after.get(id)];
    const fields = fieldsChanged(old, now, names);
    const change = changeOf(old, now);
    return change === 'changed' && Object.keys(fields).length === 0 ? [] : [{ id, change, fields }];
  });
}

function changeOf(before: unknown, after: unknown): 'added' | 'removed' | 'changed' {
  return before === undefined ? 'added' : after === undefined ? 'removed' : 'changed';
}

/** `null` stands for what is not there. */
function fieldsChanged<T extends object>(
  before: T | undefined,
  after: T | undefined,
  names: ReadonlyArray<keyof T & string>,
): Fields {
  const fields: Fields = {};
  for (const name of names) {
    const [from, to] = [before?.[name] ?? null, after?.[name] ?? null];
    if (JSON.stringify(from) !== JSON.stringify(to)) fields[name] = { from, to };
  }
  return fields;
}

type Ranges = ReadonlyArray<readonly [number, number]>;

/** Blocks of `a` that are not in `b`; both ascending and apart. */
export function subtract(a: Ranges, b: Ranges): Array<[number, number]> {
  const rest: Array<[number, number]> = [];
  let next = 0;
  for (const [first, count] of a) {
    const end = first + count;
    let at = first;
    while (next > 0 && (b[next - 1] as [number, number])[0] + (b[next - 1] as [number, number])[1] > first)
      next--;
    for (; next < b.length; next++) {
      const [otherFirst, otherCount] = b[next] as readonly [number, number];
      if (otherFirst >= end) break;
      if (otherFirst > at) rest.push([at, otherFirst - at]);
      at = Math.max(at, otherFirst + otherCount);
      if (at >= end) break;
    }
    if (at < end) rest.push([at, end - at]);
  }
  return rest;
}

/** Blocks in a list of ranges. */
export const countBlocks = (ranges: Ranges): number => ranges.reduce((sum, [, count]) => sum + count, 0);
