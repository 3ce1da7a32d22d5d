/**
 * Pieces between two processes of one machine, by the code that members of a fleet use: a home that reads them from its
 * disk and sends them over TLS, an asker that pins its certificate. MB/s and seconds of processor per GB of both, for one
 * piece at a time and for eight. Run: `node ops/bench/fleet.ts`.
 */
import { spawn } from 'node:child_process';
import { randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Counts } from '../../actors/counts.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import type { Member } from '../../schemas/fleet.ts';
import { PIECE_BYTES } from '../../schemas/fleet.ts';
import { asRequest, lengthOf, type PieceAsk } from '../../src/fleet/piece-request.ts';
import { pieceServer } from '../../src/fleet/piece-server.ts';
import { PieceStore } from '../../src/fleet/piece-store.ts';
import { poolTo } from '../../src/fleet/tls.ts';
import { createLog } from '../../src/process/log.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { Cleanup } from '../../test/support/temp.ts';

const PIECES = 256;
const DIGEST = `sha256:${'0'.repeat(64)}`;
const SOURCE = { registry: 'localhost:1', repository: 'bench', digest: DIGEST, size: PIECES * PIECE_BYTES };
const asked = (index: number): PieceAsk => ({
  source: SOURCE,
  index,
  class: 'demand',
  token: undefined,
  noToken: false,
  tried: [],
  forHome: false,
});

/** The home, in a process of its own: says its port and fingerprint, and at the end its processor time. */
async function serve(dir: string): Promise<void> {
  const store = await PieceStore.open({ dir, limitBytes: 2 * SOURCE.size, now: Date.now });
  for (let index = 0; index < PIECES; index++)
    await store.write(pieceKey(SOURCE, index), randomBytes(PIECE_BYTES), 'registry');
  const identity = await makeIdentity();
  const server = pieceServer({
    identity,
    give: async (_, one) => {
      const bytes = await store.read(pieceKey(one.source, one.index), lengthOf(one));
      if (bytes === undefined) throw new Error('the piece is not here');
      return { piece: { bytes, from: 'registry' }, done: () => {} };
    },
    messages: { takeDirect: () => false },
    memberOf: () => ({ id: 'bench' }) as Member,
    rate: undefined,
    counts: new Counts(),
    log: createLog('bench', 'silent'),
  });
  server.listen(0, '127.0.0.1', () => {
    const { port } = server.address() as AddressInfo;
    const { fingerprint256: fingerprint } = new X509Certificate(identity.certificate);
    process.send?.({ address: `127.0.0.1:${port}`, fingerprint });
  });
  process.on('message', () => process.send?.(process.cpuUsage()));
}

async function main(): Promise<void> {
  const cleanup = new Cleanup();
  try {
    const home = spawn(process.execPath, [import.meta.filename, await cleanup.tempDir('bench-fleet')], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    cleanup.defer(async () => {
      home.kill();
      await once(home, 'exit');
    });
    const [pinned] = (await once(home, 'message')) as [{ address: string; fingerprint: string }];
    const pool = poolTo(pinned, await makeIdentity());
    cleanup.defer(() => pool.destroy());
    const cpuOf = async (): Promise<number> => {
      home.send('cpu');
      const [{ user, system }] = (await once(home, 'message')) as [NodeJS.CpuUsage];
      return (user + system) / 1e6;
    };
    const fetchOne = async (index: number) => {
      const { body } = await pool.request(asRequest(asked(index)));
      await body.arrayBuffer();
    };
    const run = async (atOnce: number) => {
      let next = 0;
      const lane = async () => {
        while (next < PIECES) await fetchOne(next++);
      };
      await Promise.all(Array.from({ length: atOnce }, lane));
    };
    await run(8);
    for (const atOnce of [1, 8]) {
      const [homeBefore, own, begun] = [await cpuOf(), process.cpuUsage(), performance.now()];
      await run(atOnce);
      const seconds = (performance.now() - begun) / 1000;
      const spent = process.cpuUsage(own);
      const gb = SOURCE.size / 1e9;
      const perGb = [(spent.user + spent.system) / 1e6, (await cpuOf()) - homeBefore].map((one) => one / gb);
      const [asker, sender] = perGb.map((one) => one.toFixed(1));
      console.log(
        `${atOnce} at once: ${(SOURCE.size / 1e6 / seconds).toFixed(0)} MB/s, processor s/GB: asker ${asker}, home ${sender}`,
      );
    }
  } finally {
    await cleanup.run();
  }
}

const [, , dir] = process.argv;
if (dir === undefined) await main();
else await serve(join(dir, 'pieces'));
