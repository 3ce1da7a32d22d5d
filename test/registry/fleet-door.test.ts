/** The way to the fleet's member, with a member of the test's own making: who is named for wrong bytes, and when. */
import { createServer } from 'node:http';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { PIECE_BYTES, PIECE_HEADERS } from '../../schemas/fleet.ts';
import { FleetDoor } from '../../src/registry/fleet-door.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const SOURCE = { registry: 'registry.test', repository: 'app' };
const BLOB = { digest: `sha256:${'a'.repeat(64)}`, size: 2 * PIECE_BYTES };
/** Two pieces, as the registry has them. */
const RIGHT = Buffer.alloc(BLOB.size, 'right');
const FIRST = [0, PIECE_BYTES] as const;
const SECOND = [PIECE_BYTES, BLOB.size] as const;

/** The member of this node: piece 0 comes from `zero`, piece 1 from `one`; `named` are those whom the door calls wrong. */
async function startDoor(pieces: ReadonlyArray<{ from: string; bytes: Buffer }>) {
  const socket = join(await cleanup.tempDir('fleet-door'), 'fleet.sock');
  const said: Array<{ what: string; member?: string; index?: number; pieces?: number[] }> = [];
  const server = createServer(async (request, response) => {
    const [, , what = '', , index] = (request.url ?? '').split('/');
    if (request.method === 'GET') {
      const piece = pieces[Number(index)];
      response.writeHead(206, { [PIECE_HEADERS.from]: piece?.from });
      response.end(piece?.bytes);
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    said.push({ what, ...(JSON.parse(String(Buffer.concat(chunks))) as object) });
    response.end();
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  const door = new FleetDoor({
    socket,
    token: async () => undefined,
    read: async () => Buffer.alloc(0),
    now: () => 0,
  });
  cleanup.defer(async () => {
    await door.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const read = async (...ranges: Array<readonly [number, number]>) => {
    const chunks: Buffer[] = [];
    for await (const chunk of door.ranges(SOURCE, BLOB, ranges, undefined)) chunks.push(chunk);
    return Buffer.concat(chunks);
  };
  const named = () => said.flatMap(({ what, member }) => (what === 'wrong' ? [member] : []));
  /** What was said before this was is heard by then: the door says things in order, on connections of one pool. */
  const heard = async () => {
    await read(FIRST);
    door.right(SOURCE, BLOB, [FIRST]);
    await eventually('it is heard', async () => said.some(({ what }) => what === 'right'));
  };
  return { door, read, named, heard };
}

const honest = (index: number) => RIGHT.subarray(index * PIECE_BYTES, (index + 1) * PIECE_BYTES);
const spoilt = (bytes: Buffer, at: number) => {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
  return copy;
};

it('the job that found wrong bytes is stopped, and the next one that reads them names who sent them', async () => {
  const { door, read, named } = await startDoor([
    { from: 'honest', bytes: honest(0) },
    { from: 'liar', bytes: spoilt(honest(1), 70_000) },
  ]);
  await read(FIRST, SECOND);
  expect(door.doubt(BLOB)).toBe(true);
  expect(door.isAsked(SOURCE, BLOB)).toBe(false);

  door.compare(BLOB, 0, RIGHT);
  door.right(SOURCE, BLOB, [FIRST]);
  door.right(SOURCE, BLOB, [[PIECE_BYTES + 70_001, BLOB.size]]);
  expect(named()).toEqual([]);
  door.right(SOURCE, BLOB, [[PIECE_BYTES, PIECE_BYTES + 70_001]]);
  await eventually('the liar is named', async () => named().length > 0);
  door.settle(BLOB);
  door.right(SOURCE, BLOB, [[0, BLOB.size]]);
  expect(named()).toEqual(['liar']);
});

it('two jobs find wrong bytes of one blob, and both liars are named', async () => {
  const { door, read, named } = await startDoor([
    { from: 'liar', bytes: spoilt(honest(0), 0) },
    { from: 'other', bytes: spoilt(honest(1), PIECE_BYTES - 1) },
  ]);
  await read(FIRST);
  expect(door.doubt(BLOB)).toBe(true);
  door.compare(BLOB, 0, honest(0));
  await read(SECOND);
  expect(door.doubt(BLOB)).toBe(true);
  door.compare(BLOB, PIECE_BYTES, honest(1));
  door.settle(BLOB);
  await eventually('both are named', async () => named().length === 2);
  expect(named().sort()).toEqual(['liar', 'other']);
});

it('where the registry’s bytes were spoilt on their way, no member is named', async () => {
  const { door, read, named, heard } = await startDoor([
    { from: 'honest', bytes: honest(0) },
    { from: 'liar', bytes: spoilt(honest(1), 5) },
  ]);
  await read(FIRST, SECOND);
  door.doubt(BLOB);
  door.compare(BLOB, 0, spoilt(honest(0), 9));
  // It is read again, in chunks of another length.
  for (let at = 0; at < PIECE_BYTES; at += 8) door.compare(BLOB, at, RIGHT.subarray(at, at + 8));
  door.settle(BLOB);
  await heard();
  expect(named()).toEqual([]);
});
