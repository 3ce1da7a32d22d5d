/** Stand-in for @nats-io/jetstream. */
import type { MsgHdrs } from '@nats-io/nats-core';
import { machine } from '../machine.ts';
import { world } from '../world.ts';
import { ApiError, matches, type SimConnection, SimConsumer, type StoredMessage } from '../nats.ts';

export * from '@nats-io/jetstream';
export { ApiError as JetStreamApiError } from '../nats.ts';

interface PublishOptions {
  msgID?: string;
  headers?: MsgHdrs;
  expect?: { lastSubjectSequence?: number };
  timeout?: number;
}

export function jetstream(bus: SimConnection, options: { timeout?: number } = {}) {
  return {
    publish: (subject: string, data: Uint8Array, publish: PublishOptions = {}) => {
      bus.check('publish', subject);
      return bus.call(
        publish.timeout ?? options.timeout ?? 5_000,
        () =>
          bus.server.append(subject, Buffer.from(data), {
            headers: publish.headers,
            msgID: publish.msgID,
            expected: publish.expect?.lastSubjectSequence,
            root: bus.process.root,
          }),
        () => machine().random.chance(bus.server.faults.loseAck),
      );
    },
    consumers: {
      get: async (
        stream: string,
        wanted: { filter_subjects?: string | string[]; deliver_policy?: string; opt_start_seq?: number } = {},
      ) => {
        const last = await bus.call(5_000, () => bus.server.stream(stream).lastSeq);
        const filters = wanted.filter_subjects ?? '>';
        const from = wanted.opt_start_seq ?? (wanted.deliver_policy === 'new' ? last + 1 : 1);
        return {
          consume: () =>
            Promise.resolve(new SimConsumer(bus, stream, Array.isArray(filters) ? filters : [filters], from)),
          delete: () => Promise.resolve(true),
        };
      },
    },
  };
}

type Query = { last_by_subj: string } | { seq: number; next_by_subj?: string };

export function jetstreamManager(bus: SimConnection, options: { timeout?: number } = {}) {
  const timeout = options.timeout ?? 5_000;
  const call = <T>(ask: () => T): Promise<T> => bus.call(timeout, ask);
  return Promise.resolve({
    streams: {
      info: (name: string, wanted: { subjects_filter?: string } = {}) =>
        call(() => {
          const { config, messages, lastSeq } = bus.server.stream(name);
          const bytes = messages.reduce(
            (sum, { data, subject }) => sum + data.length + subject.length + 30,
            0,
          );
          return {
            config,
            state: {
              messages: messages.length,
              bytes,
              first_seq: messages[0]?.seq ?? lastSeq + 1,
              last_seq: lastSeq,
              subjects:
                wanted.subjects_filter === undefined
                  ? undefined
                  : Object.fromEntries(
                      messages
                        .filter(({ subject }) => matches(wanted.subjects_filter as string, subject))
                        .map(({ subject }) => [subject, 1]),
                    ),
              consumer_count: bus.server.consumers.size,
            },
          };
        }),
      update: (name: string, change: object) =>
        call(() => Object.assign(bus.server.stream(name).config, change)),
      add: (config: { name: string; subjects: string[]; max_bytes: number }) =>
        call(() => {
          if (bus.server.faults.isFull)
            throw new ApiError(10047, 500, 'insufficient storage resources available');
          bus.server.store.streams.set(config.name, {
            config: { ...config },
            messages: [],
            lastSeq: 0,
            syncedSeq: 0,
            isDurable: false,
            ids: new Map(),
          });
          return { config };
        }),
      getMessage: (name: string, query: Query) =>
        call(() => {
          const { messages } = bus.server.stream(name);
          const found =
            'last_by_subj' in query
              ? messages.findLast(({ subject }) => matches(query.last_by_subj, subject))
              : messages.find(({ seq, subject }) =>
                  query.next_by_subj === undefined
                    ? seq === query.seq
                    : seq >= query.seq && matches(query.next_by_subj, subject),
                );
          if (world().sabotage === 'stale-owner' && found?.subject.endsWith('.engine.main') === true) {
            // Each engine is shown what it wrote itself.
            const own = messages.findLast(
              ({ subject, root }) => subject === found.subject && root === bus.process.root,
            );
            if (own !== undefined) return stored(own);
          }
          if (found === undefined) throw new ApiError(10037, 404, 'no message found');
          return stored(found);
        }),
      purge: (name: string, wanted: { filter?: string; seq?: number; keep?: number } = {}) =>
        call(() => {
          const stream = bus.server.stream(name);
          const before = stream.messages.length;
          const mine = stream.messages.filter(({ subject }) => matches(wanted.filter ?? '>', subject));
          const kept = new Set(wanted.keep === undefined ? [] : mine.slice(-wanted.keep));
          stream.messages = stream.messages.filter(
            (message) =>
              !mine.includes(message) ||
              kept.has(message) ||
              (wanted.seq !== undefined && message.seq >= wanted.seq),
          );
          return { success: true, purged: before - stream.messages.length };
        }),
      deleteMessage: (name: string, seq: number) =>
        call(() => {
          const stream = bus.server.stream(name);
          stream.messages = stream.messages.filter((message) => message.seq !== seq);
          return true;
        }),
    },
  });
}

const stored = ({ seq, subject, data, headers }: StoredMessage) => ({ seq, subject, data, header: headers });
