/**
 * Who talks over NATS, and what each may say. The private nats-server of an engine (src/process/nats-server.ts) has a user
 * for each role; docs/api.md tells what to give whom on the operator's NATS.
 *
 * Two ways lead round a list of subjects, and both are closed for who is not to be relied on, fetchers and users:
 *
 * - Who may create a consumer names the subject that it delivers to, and who may ask JetStream's API names the subject of
 *   the answer; nats-server does not look whether that user may publish there. So they have no part of JetStream's API in
 *   the account of the log. Startup packs, which fetchers read and write, lie in an account of their own.
 * - Who calls an operation names the subject of its reply. The engine answers none into its own subjects (src/supervisor/api.ts).
 */
import { PACK_BUCKET, SNAPSHOT_STREAM, STREAM } from '../../schemas/subjects.ts';
import type { UserRights } from '../../schemas/rights.ts';
import type { BusAddress } from './connection.ts';

export const BUS_ROLES = [
  'supervisor',
  'front-end',
  'snapshotter',
  'fetcher',
  'reader',
  'api',
  'packs',
] as const;

/**
 * `reader`: `cofa events` and `cofa replay`, which read the whole log; `api`: every client outside the engine, which calls
 * operations and watches events; `packs`: the startup packs' account, for the processes that need them.
 */
export type BusRole = (typeof BUS_ROLES)[number];

/** How each role reaches NATS. On the operator's NATS they all do in the same way. */
export type BusUsers = Readonly<Record<BusRole, BusAddress>>;

/** What the supervisor hands to its children. */
export type ChildRole = Exclude<BusRole, 'supervisor'>;
export type ChildUsers = Readonly<Record<ChildRole, BusAddress>>;

export interface BusPermissions {
  publish: readonly string[];
  subscribe: readonly string[];
  /** Of what `publish` allows. */
  denied?: readonly string[];
}

/** Answers to what a role asks come to subjects that no other role can listen to. */
export const inboxOf = (role: BusRole): string => (role === 'api' ? '_INBOX' : `_INBOX_${role}`);

/** Below it are the answers to users with limited rights (schemas/rights.ts). */
const USER_INBOX = '_INBOX_user';
export const userInboxOf = (user: string): string => `${USER_INBOX}.${user}`;

/**
 * The subjects of a user with limited rights: it calls on subjects of its own, which no other user may publish to, so the
 * engine knows who asks. `node` as below.
 */
export function userPermissionsOf(user: string, { operations }: UserRights, node = '*'): BusPermissions {
  const base = `cofa.v1.${node}`;
  return {
    publish: operations
      .filter((one) => one !== 'events')
      .map((operation) => `${base}.api.${user}.${operation}`),
    subscribe: [
      `${base}.progress.${user}.*`,
      ...(operations.includes('events') ? [`${base}.event.>`] : []),
      `${userInboxOf(user)}.>`,
    ],
  };
}

/** The subjects of a role; `node` as in schemas/subjects.ts. */
export function permissionsOf(role: BusRole, node = '*'): BusPermissions {
  const base = `cofa.v1.${node}`;
  const inside = `${base}.*`;
  const inbox = `${inboxOf(role)}.>`;
  // The epoch's place in the subjects inside the engine is that of `event` and `fold` in those that are stored.
  const denied = ['event.front', 'event.worker', 'fold.front', 'fold.worker'].map(
    (part) => `${base}.${part}.>`,
  );
  switch (role) {
    case 'supervisor':
      return {
        publish: [
          `${base}.>`,
          '$JS.API.>',
          '$JS.ACK.>',
          '$JS.FC.>',
          ...BUS_ROLES.map((to) => `${inboxOf(to)}.>`),
          `${USER_INBOX}.>`,
        ],
        subscribe: [`${base}.>`, inbox],
      };
    case 'front-end':
      return {
        publish: [
          `${base}.event.layer.*`,
          `${base}.room`,
          `${inside}.front.notice`,
          `${inside}.worker.ask`,
          `${inside}.worker.job.*`,
          `${inboxOf('supervisor')}.>`,
          ...READ_LOG,
        ],
        denied,
        subscribe: [`${inside}.front.*`, `${inside}.worker.hello`, `${inside}.worker.completion`, inbox],
      };
    case 'snapshotter':
      return {
        publish: [`${base}.event.snapshot.*`, `${base}.room`, `${base}.api.*`, ...READ_LOG],
        subscribe: [inbox],
      };
    case 'fetcher':
      return {
        publish: [`${inside}.worker.hello`, `${inside}.worker.completion`],
        denied,
        subscribe: [`${inside}.worker.ask`, `${inside}.worker.job.*`],
      };
    case 'reader':
      return { publish: READ_LOG, subscribe: [inbox] };
    case 'api':
      return {
        publish: [`${base}.api.*`],
        subscribe: [`${base}.progress.*`, `${base}.event.>`, inbox],
      };
    case 'packs':
      return { publish: PACKS, subscribe: [inbox] };
  }
}

/**
 * The subjects of a member of fleets (schemas/fleet.ts), in an account that the nodes share. The last token of each is the sender,
 * so no member speaks in another's name; and none has a part of JetStream's API, which would do that for it.
 */
export const fleetPermissionsOf = (node: string): BusPermissions => ({
  publish: [`${FLEET}.*.*.*.${node}`],
  subscribe: [`${FLEET}.*.*.${node}.*`, `${FLEET}.*.*.all.*`],
});

const FLEET = 'cofa.fleet.v1';

/** What reading the log and its snapshots takes of JetStream's API (src/store/log-reader.ts, snapshots.ts). */
const READ_LOG = [
  '$JS.API.INFO',
  ...[STREAM, SNAPSHOT_STREAM].flatMap((stream) => [
    `$JS.API.STREAM.INFO.${stream}`,
    `$JS.API.STREAM.MSG.GET.${stream}`,
  ]),
  ...consumersOf(STREAM),
];

/** What the object store of startup packs takes. */
const PACKS = [
  '$JS.API.INFO',
  ...['CREATE', 'INFO', 'PURGE', 'MSG.GET'].map((call) => `$JS.API.STREAM.${call}.OBJ_${PACK_BUCKET}`),
  ...consumersOf(`OBJ_${PACK_BUCKET}`),
  `$O.${PACK_BUCKET}.>`,
];

/** Reading a stream by a consumer of one's own, with flow control. */
function consumersOf(stream: string): string[] {
  return [
    ...['CREATE', 'INFO', 'DELETE', 'MSG.NEXT'].map((call) => `$JS.API.CONSUMER.${call}.${stream}.>`),
    `$JS.FC.${stream}.>`,
  ];
}
