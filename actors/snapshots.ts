/**
 * containerd's snapshots on this node: a fold over `snapshot.*` events, and the decisions about each call.
 *
 * A snapshot is *active* (writable), a *view* (read-only) or *committed* (a layer that others stand on). The three
 * share one space of names: an active snapshot or view is found by the key of whoever prepared it, a committed one by
 * its name. Names come from outside and may hold anything, so the log and the disk know a snapshot by an id of the
 * node's own, which it keeps when it is committed.
 *
 * The rules and the kinds of errors are those of containerd's own snapshotters (core/snapshots/storage there): clients
 * rely on which of several possible errors comes first.
 */
import type { EventOf, NewEvent } from '../schemas/events.ts';
import type { TraceContext } from '../schemas/trace-context.ts';

export type SnapshotKind = 'active' | 'view' | 'committed';

/** A moment by the node's clock: seconds since 1970 and 0 ≤ nsec < 1e9. */
export interface Moment {
  sec: number;
  nsec: number;
}

/** Where a layer's content comes from a flat image instead of a folder of its own. */
export interface FlatLayer {
  /** Digest of the chain of layers, `sha256:…`: this layer and all below it (OCI image-spec, ChainID). */
  chain: string;
  /** An image that begins with the chain, as the registry names it, with its manifest's digest. */
  ref: string;
  manifest: string;
  /** How many layers of that image the chain has. */
  layers: number;
  /** Of the uppermost layer. */
  diffId: string;
}

export interface SnapshotFacts {
  /** Letters and digits; never used again. */
  id: string;
  /** Key of an active snapshot or view, name of a committed one. */
  name: string;
  /** Name of the committed snapshot below; empty: none. */
  parent: string;
  kind: SnapshotKind;
  labels: Readonly<Record<string, string>>;
  created: Moment;
  updated: Moment;
  /** Of a committed one: bytes and inodes that it takes by itself. */
  usage: { size: number; inodes: number };
  /** Of a committed one that was never unpacked. */
  flat: FlatLayer | undefined;
}

export type SnapshotErrorCode = 'already-exists' | 'not-found' | 'failed-precondition' | 'invalid-argument';

/** A call that is refused; the codes are gRPC's, as containerd uses them. */
export class SnapshotError extends Error {
  readonly code: SnapshotErrorCode;

  constructor(code: SnapshotErrorCode, message: string) {
    super(message);
    this.name = 'SnapshotError';
    this.code = code;
  }
}

/** The call that wants a snapshot. */
interface Asked {
  /** When it came, ms since the epoch. */
  at: number;
  trace: TraceContext | undefined;
}

const askedIn = ({ asked }: { asked?: Asked | undefined }) =>
  asked === undefined ? {} : { asked: asked.at, ...asked.trace };

/** What was decided: a fact to append about the snapshot of this id. */
export interface Decision {
  id: string;
  event: NewEvent & { type: SnapshotEventType };
}

type SnapshotEventType = 'snapshot.prepared' | 'snapshot.committed' | 'snapshot.updated' | 'snapshot.removed';
export type SnapshotEvent = EventOf<SnapshotEventType>;

/** What a mount of a snapshot is made of. */
export interface Parts {
  snapshot: SnapshotFacts;
  /** Ids of the unpacked layers below it, the uppermost first. */
  folders: string[];
  /** What lies below them all. */
  flat: FlatLayer | undefined;
}

/** containerd refuses labels above this: bytes of key and value together. */
const MAX_LABEL = 4096;
/** All labels of a snapshot, and a name; so that an event fits into a message. */
const MAX_LABELS = 256 * 1024;
const MAX_NAME = 16 * 1024;
/** What a snapshot is that containerd wants to have: its target's name (core/snapshots, LabelSnapshotRef). */
export const TARGET_LABEL = 'containerd.io/snapshot.ref';

/** The fold of one event; one that does not fit is ignored. */
export function foldSnapshot(snapshots: Map<string, SnapshotFacts>, id: string, event: SnapshotEvent): void {
  const before = snapshots.get(id);
  switch (event.type) {
    case 'snapshot.prepared':
      snapshots.set(id, {
        id,
        name: event.key,
        parent: event.parent,
        kind: event.kind,
        labels: event.labels,
        created: event.time,
        updated: event.time,
        usage: { size: 0, inodes: 0 },
        flat: undefined,
      });
      return;
    case 'snapshot.committed':
      snapshots.set(id, {
        id,
        name: event.name,
        parent: event.parent,
        kind: 'committed',
        labels: event.labels,
        created: event.time,
        updated: event.time,
        usage: { size: event.size, inodes: event.inodes },
        flat: event.flat,
      });
      return;
    case 'snapshot.updated':
      if (before !== undefined) snapshots.set(id, { ...before, labels: event.labels, updated: event.time });
      return;
    case 'snapshot.removed':
      snapshots.delete(id);
  }
}

/** The folded snapshots with the indexes that decisions need. */
export class SnapshotTable {
  readonly #byId: Map<string, SnapshotFacts>;
  readonly #byName = new Map<string, SnapshotFacts>();
  /** How many snapshots stand on the one of this name. */
  readonly #children = new Map<string, number>();

  constructor(byId: Map<string, SnapshotFacts> = new Map()) {
    this.#byId = byId;
    for (const facts of byId.values()) this.#add(facts);
  }

  all(): Iterable<SnapshotFacts> {
    return this.#byId.values();
  }

  has(id: string): boolean {
    return this.#byId.has(id);
  }

  find(name: string): SnapshotFacts | undefined {
    return this.#byName.get(name);
  }

  apply(id: string, event: SnapshotEvent): void {
    this.#drop(this.#byId.get(id));
    foldSnapshot(this.#byId, id, event);
    const now = this.#byId.get(id);
    if (now !== undefined) this.#add(now);
  }

  /** Errors: `not-found`. */
  stat(name: string): SnapshotFacts {
    const facts = this.#byName.get(name);
    if (facts === undefined) throw new SnapshotError('not-found', `snapshot ${quote(name)} does not exist`);
    return facts;
  }

  /** An active snapshot or view on `parent` (empty: on nothing). */
  prepare(order: {
    id: string;
    kind: 'active' | 'view';
    key: string;
    parent: string;
    labels: Record<string, string>;
    time: Moment;
    asked?: Asked | undefined;
  }): Decision {
    const { id, kind, key, parent, time } = order;
    checkName(key, 'key');
    const labels = checkLabels(order.labels);
    this.#checkParent(parent);
    if (this.#byName.has(key))
      throw new SnapshotError('already-exists', `snapshot ${quote(key)} already exists`);
    const facts = { type: 'snapshot.prepared' as const, kind, key, parent, labels, time };
    return { id, event: { ...facts, ...askedIn(order) } };
  }

  /**
   * A committed snapshot that nobody has to unpack, for a client that wants `target` on `parent`. Undefined when there
   * is one already, which the client then finds by its label.
   */
  adopt(order: {
    id: string;
    target: string;
    parent: string;
    labels: Record<string, string>;
    time: Moment;
    flat: FlatLayer;
    asked?: Asked | undefined;
  }): Decision | undefined {
    const { id, target, parent, time, flat } = order;
    if (this.findTarget(target, parent) !== undefined) return undefined;
    this.#checkParent(parent);
    const labels = checkLabels({ ...order.labels, [TARGET_LABEL]: target });
    // Another chain may have taken the name: the same layer on a parent that was unpacked, for example.
    const name = this.#byName.has(target) ? `${target} ${id}` : target;
    checkName(name, 'name');
    const facts = { type: 'snapshot.committed' as const, name, parent, labels, time, size: 0, inodes: 0 };
    return { id, event: { ...facts, flat, ...askedIn(order) } };
  }

  /** The committed snapshot that stands for `target` on `parent`, as containerd looks for it. */
  findTarget(target: string, parent: string): SnapshotFacts | undefined {
    const first = this.#byName.get(target);
    if (first !== undefined && isTarget(first, target, parent)) return first;
    for (const facts of this.#byId.values()) if (isTarget(facts, target, parent)) return facts;
    return undefined;
  }

  /**
   * Makes the active snapshot `key` the committed one `name`. Its labels are those given here alone. A parent may be
   * given where it was prepared without one.
   */
  commit(order: {
    name: string;
    key: string;
    parent: string;
    labels: Record<string, string>;
    time: Moment;
    usage: { size: number; inodes: number };
  }): Decision {
    const { name, key, time, usage } = order;
    checkName(name, 'name');
    const labels = checkLabels(order.labels);
    const active = this.stat(key);
    if (this.#byName.has(name))
      throw new SnapshotError('already-exists', `committed snapshot ${quote(name)} already exists`);
    if (active.kind !== 'active')
      throw new SnapshotError('failed-precondition', `snapshot ${quote(key)} is not active`);
    let { parent } = active;
    if (order.parent !== '' && order.parent !== parent) {
      if (parent !== '') {
        throw new SnapshotError(
          'invalid-argument',
          `the parent of active snapshot ${quote(key)} cannot be changed on commit`,
        );
      }
      parent = order.parent;
      const below = this.#byName.get(parent);
      if (below === undefined)
        throw new SnapshotError('not-found', `parent snapshot ${quote(parent)} does not exist`);
      if (below.kind !== 'committed')
        throw new SnapshotError('failed-precondition', `parent ${quote(parent)} is not committed`);
    }
    const { size, inodes } = usage;
    return {
      id: active.id,
      event: { type: 'snapshot.committed', name, parent, labels, time, size, inodes },
    };
  }

  /** New labels. `paths`: `labels` or `labels.NAME`; none: all that can be changed, which is the labels. */
  update(order: {
    name: string;
    labels: Record<string, string>;
    paths: readonly string[];
    time: Moment;
  }): Decision {
    const facts = this.stat(order.name);
    let labels: Record<string, string> = { ...facts.labels };
    if (order.paths.length === 0) labels = order.labels;
    for (const path of order.paths) {
      if (path === 'labels') {
        labels = { ...order.labels };
      } else if (path.startsWith('labels.')) {
        const label = path.slice('labels.'.length);
        labels[label] = Object.hasOwn(order.labels, label) ? (order.labels[label] as string) : '';
      } else {
        throw new SnapshotError(
          'invalid-argument',
          `field ${quote(path)} of snapshot ${quote(order.name)} cannot be updated`,
        );
      }
    }
    return {
      id: facts.id,
      event: { type: 'snapshot.updated', labels: checkLabels(labels), time: order.time },
    };
  }

  remove(name: string): Decision {
    const facts = this.stat(name);
    if ((this.#children.get(name) ?? 0) > 0) {
      throw new SnapshotError(
        'failed-precondition',
        `cannot remove snapshot ${quote(name)}: it has children`,
      );
    }
    return { id: facts.id, event: { type: 'snapshot.removed' } };
  }

  /** What an active snapshot or view is mounted from. Errors: `not-found`, `failed-precondition` when it is committed. */
  parts(name: string): Parts {
    const snapshot = this.stat(name);
    if (snapshot.kind === 'committed')
      throw new SnapshotError('failed-precondition', `snapshot ${quote(name)} is neither active nor a view`);
    return { snapshot, ...this.below(snapshot.parent) };
  }

  /** What lies below a snapshot with this parent. */
  below(parent: string): Omit<Parts, 'snapshot'> {
    const folders: string[] = [];
    for (let name = parent; name !== ''; ) {
      const facts = this.#byName.get(name);
      if (facts === undefined) throw new SnapshotError('not-found', `parent ${quote(name)} does not exist`);
      // A flat layer shows the whole chain: what else lies below it does not matter.
      if (facts.flat !== undefined) return { folders, flat: facts.flat };
      folders.push(facts.id);
      name = facts.parent;
    }
    return { folders, flat: undefined };
  }

  #checkParent(parent: string): void {
    if (parent === '') return;
    const facts = this.#byName.get(parent);
    if (facts === undefined)
      throw new SnapshotError('not-found', `parent snapshot ${quote(parent)} does not exist`);
    if (facts.kind !== 'committed')
      throw new SnapshotError('invalid-argument', `parent ${quote(parent)} is not a committed snapshot`);
  }

  #add(facts: SnapshotFacts): void {
    this.#byName.set(facts.name, facts);
    if (facts.parent !== '') this.#children.set(facts.parent, (this.#children.get(facts.parent) ?? 0) + 1);
  }

  #drop(facts: SnapshotFacts | undefined): void {
    if (facts === undefined) return;
    if (this.#byName.get(facts.name) === facts) this.#byName.delete(facts.name);
    if (facts.parent === '') return;
    const left = (this.#children.get(facts.parent) ?? 1) - 1;
    if (left > 0) this.#children.set(facts.parent, left);
    else this.#children.delete(facts.parent);
  }
}

const isTarget = (facts: SnapshotFacts, target: string, parent: string): boolean =>
  facts.kind === 'committed' && facts.parent === parent && facts.labels[TARGET_LABEL] === target;

function checkName(name: string, what: 'key' | 'name'): void {
  if (name === '') throw new SnapshotError('invalid-argument', `a snapshot needs a ${what}`);
  if (name.length > MAX_NAME)
    throw new SnapshotError(
      'invalid-argument',
      `a snapshot's ${what} of ${name.length} characters is too long`,
    );
}

/** The labels without those that are empty, which are none. */
function checkLabels(labels: Readonly<Record<string, string>>): Record<string, string> {
  const kept = Object.entries(labels).filter(([, value]) => value !== '');
  let sum = 0;
  for (const [key, value] of kept) {
    const size = bytesOf(key) + bytesOf(value);
    sum += size;
    if (size > MAX_LABEL) {
      throw new SnapshotError(
        'invalid-argument',
        `label ${quote(key)} has ${size} bytes with its value; ${MAX_LABEL} are allowed`,
      );
    }
  }
  if (sum > MAX_LABELS)
    throw new SnapshotError('invalid-argument', `${sum} bytes of labels; ${MAX_LABELS} are allowed`);
  return Object.fromEntries(kept);
}

/** In UTF-8; half a surrogate pair becomes the replacement character, which has three. */
function bytesOf(text: string): number {
  let bytes = 0;
  for (const mark of text) {
    const code = mark.codePointAt(0) ?? 0;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x1_0000 ? 3 : 4;
  }
  return bytes;
}

/** For messages: short, and nothing in it that a terminal would obey. */
const quote = (text: string): string => JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
