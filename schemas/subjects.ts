/**
 * Every NATS subject of cofa in one place. `node` separates engines that share one NATS; it is a single token.
 *
 *     cofa.v1.<node>.api.<operation>          request/reply: what users call                 (schemas/api.ts)
 *     cofa.v1.<node>.api.<user>.<operation>   the same for a user with limited rights         (schemas/rights.ts)
 *     cofa.v1.<node>.progress.<token>         progress of one call, to the caller
 *     cofa.v1.<node>.progress.<user>.<token>  the same for a user with limited rights
 *     cofa.v1.<node>.presence                 who owns the node? asked by an engine that starts   (src/supervisor/log/ownership.ts)
 *     cofa.v1.<node>.event.<kind>.<id>        the event log, stored in the stream COFA_EVENTS (schemas/events.ts)
 *     cofa.v1.<node>.fold.<seq>.<part>        snapshots of what the log folds to, stored in COFA_SNAPSHOTS (schemas/snapshots.ts)
 *     cofa.v1.<node>.room                     the log is full: front end → supervisor
 *     cofa.v1.<node>.<e>.front.<operation>    supervisor → front end                         (schemas/front.ts)
 *     cofa.v1.<node>.<e>.front.notice         front end → supervisor
 *     cofa.v1.<node>.<e>.worker.hello         fetcher → front end: alive, with its slots      (schemas/fetch.ts)
 *     cofa.v1.<node>.<e>.worker.ask           front end → fetchers: say hello
 *     cofa.v1.<node>.<e>.worker.job.<fetcher> front end → one fetcher
 *     cofa.v1.<node>.<e>.worker.completion    fetcher → front end
 *
 * Who may use which of them: src/bus/roles.ts.
 *
 * `<e>` is the engine's epoch, `e` and a number (src/store/event-log.ts): the processes of an engine that was replaced may
 * live for a moment beside those of its successor, and write into other files.
 */
import type { FrontCall, FrontSubject } from './front.ts';

export const STREAM = 'COFA_EVENTS';
export const STREAM_SUBJECTS = 'cofa.v1.*.event.>';
export const SNAPSHOT_STREAM = 'COFA_SNAPSHOTS';
export const SNAPSHOT_SUBJECTS = 'cofa.v1.*.fold.>';
/** The object store of startup packs: the stream `OBJ_<bucket>` with the subjects `$O.<bucket>.>`. */
export const PACK_BUCKET = 'cofa-packs';

export interface Subjects {
  api(operation: string): string;
  /** Calls of users with limited rights. */
  readonly allUserCalls: string;
  /** Where users with limited rights call. */
  userApi(user: string, operation: string): string;
  /** `user`: one with limited rights. */
  progress(token: string, user?: string): string;
  readonly presence: string;
  event(kind: EventKind, id: string): string;
  readonly allEvents: string;
  eventsOf(kind: EventKind): string;
  /** One part of the snapshot that was taken behind sequence `seq`. */
  fold(seq: number, part: number): string;
  foldsOf(seq: number): string;
  readonly allFolds: string;
  readonly room: string;
  /** Of the engine whose processes talk; the subjects below follow it. */
  epoch: number;
  front<Call extends FrontCall>(call: Call): FrontSubject<Call>;
  readonly notice: string;
  readonly hello: string;
  readonly whoIsThere: string;
  job(fetcher: string): string;
  readonly completion: string;
}

export type EventKind = 'engine' | 'image' | 'layer' | 'root' | 'mount' | 'snapshot' | 'podman';

/** A node's name is one subject token: letters, digits, `-` and `_`, at most 64. */
export const NODE_NAME = /^[A-Za-z0-9_-]{1,64}$/;

export function subjects(node: string, epoch = 0): Subjects {
  if (!NODE_NAME.test(node))
    throw new RangeError(`node name ${JSON.stringify(node)} must match ${NODE_NAME}`);
  const base = `cofa.v1.${node}`;
  const inside = (): string => `${base}.e${names.epoch}`;
  const names: Subjects = {
    api: (operation) => `${base}.api.${operation}`,
    allUserCalls: `${base}.api.*.*`,
    userApi: (user, operation) => `${base}.api.${user}.${operation}`,
    progress: (token, user) => `${base}.progress.${user === undefined ? token : `${user}.${token}`}`,
    presence: `${base}.presence`,
    event: (kind, id) => `${base}.event.${kind}.${id}`,
    allEvents: `${base}.event.>`,
    eventsOf: (kind) => `${base}.event.${kind}.*`,
    fold: (seq, part) => `${base}.fold.${seq}.${part}`,
    foldsOf: (seq) => `${base}.fold.${seq}.*`,
    allFolds: `${base}.fold.>`,
    room: `${base}.room`,
    epoch,
    front: <Call extends FrontCall>(call: Call) => `${inside()}.front.${call}` as FrontSubject<Call>,
    get notice() {
      return `${inside()}.front.notice`;
    },
    get hello() {
      return `${inside()}.worker.hello`;
    },
    get whoIsThere() {
      return `${inside()}.worker.ask`;
    },
    job: (fetcher) => `${inside()}.worker.job.${fetcher}`,
    get completion() {
      return `${inside()}.worker.completion`;
    },
  };
  return names;
}
