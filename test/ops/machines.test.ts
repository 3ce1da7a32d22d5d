/**
 * ops/machines: its disk, which forgets as a real one does, and its command line. Virtual machines themselves take minutes, so they
 * have to be asked for: `COFA_MACHINES=1` installs the package on a Debian 13 with its own kernel, and cuts its power.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { BLOCK, CachedDisk } from '../support/power/cached-disk.ts';
import { Random } from '../support/random.ts';
import { Cleanup } from '../support/temp.ts';
import { serveDisk } from '../support/virtual/disk.ts';
import { whyNoMachines } from '../support/virtual/machine.ts';
import { tryMachines, withNeeds } from '../support/virtual/trials.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const BLOCKS = 256;

async function disk(cacheBytes?: number): Promise<{ disk: CachedDisk; base: Buffer; folder: string }> {
  const folder = await cleanup.tempDir('disk');
  const base = randomBytes(BLOCKS * BLOCK);
  writeFileSync(join(folder, 'base'), base);
  const made = new CachedDisk({
    base: join(folder, 'base'),
    file: join(folder, 'own'),
    ...(cacheBytes === undefined ? {} : { cacheBytes }),
  });
  cleanup.defer(() => made.close());
  return { disk: made, base, folder };
}

test('a disk reads what was written, flushed or not, at any offset', async () => {
  const { disk: one, base } = await disk(16 * BLOCK);
  const random = new Random(7);
  for (let step = 0; step < 300; step++) {
    const offset = random.int(0, base.length - 1);
    const bytes = randomBytes(random.int(1, Math.min(5 * BLOCK, base.length - offset)));
    bytes.copy(base, offset);
    if (random.chance(0.2)) one.writeThrough(offset, bytes);
    else one.write(offset, bytes);
    if (random.chance(0.1)) one.flush();
    const at = random.int(0, base.length - 1);
    const length = random.int(1, base.length - at);
    expect(one.read(at, length).equals(base.subarray(at, at + length))).toBe(true);
  }
});

test('a power cut keeps what was flushed or forced through, and of the rest each block as it was, as it became, or torn', async () => {
  const met = { lost: 0, kept: 0, torn: 0 };
  for (let seed = 1; seed <= 20; seed++) {
    const { disk: one, base } = await disk();
    const [flushed, forced, late] = [1, 2, 3].map((fill) => Buffer.alloc(BLOCK, fill)) as [
      Buffer,
      Buffer,
      Buffer,
    ];
    one.write(0, flushed);
    one.flush();
    one.writeThrough(BLOCK, forced);
    for (let block = 2; block < BLOCKS; block++) one.write(block * BLOCK, late);
    const cut = one.cut(new Random(seed));
    expect(cut.unflushed).toBe(BLOCKS - 2);
    expect(one.read(0, BLOCK).equals(flushed)).toBe(true);
    expect(one.read(BLOCK, BLOCK).equals(forced)).toBe(true);
    for (let block = 2; block < BLOCKS; block++) {
      const now = one.read(block * BLOCK, BLOCK);
      const before = base.subarray(block * BLOCK, (block + 1) * BLOCK);
      if (now.equals(before)) met.lost += 1;
      else if (now.equals(late)) met.kept += 1;
      else {
        met.torn += 1;
        for (let at = 0; at < BLOCK; at += 512) {
          const sector = now.subarray(at, at + 512);
          expect([before, late].some((whole) => whole.subarray(at, at + 512).equals(sector))).toBe(true);
        }
      }
    }
  }
  for (const count of Object.values(met)) expect(count).toBeGreaterThan(10);
});

test('a cut ends what the machine had not sent: a request after it is not carried out', async () => {
  const { disk: one, base, folder } = await disk();
  const server = await serveDisk(one, join(folder, 'sock'));
  cleanup.defer(() => server.close());
  const client = connect(join(folder, 'sock'));
  client.on('error', () => {});
  const answers: Buffer[] = [];
  client.on('data', (bytes: Buffer) => answers.push(bytes));
  const length = () => answers.reduce((sum, one) => sum + one.length, 0);
  // Flags, and the option EXPORT_NAME: size, flags and zeros come back.
  client.write(
    Buffer.concat([
      Buffer.from([0, 0, 0, 1]),
      Buffer.from('IHAVEOPT'),
      Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]),
    ]),
  );
  await expect.poll(length).toBe(18 + 134);
  const write = (block: number) => {
    const head = Buffer.alloc(28);
    head.writeUInt32BE(0x2560_9513);
    head.writeUInt16BE(1, 6);
    head.writeBigUInt64BE(BigInt(block * BLOCK), 16);
    head.writeUInt32BE(BLOCK, 24);
    return Buffer.concat([head, Buffer.alloc(BLOCK, 9)]);
  };
  const whole = write(3);
  client.write(whole);
  await expect.poll(length).toBe(18 + 134 + 16);
  client.write(write(4).subarray(0, 1000));
  await expect.poll(() => one.unflushed).toBe(BLOCK);
  server.disconnect();
  client.write(write(4).subarray(1000));
  await new Promise((resolve) => client.once('close', resolve));
  expect(one.read(3 * BLOCK, BLOCK).equals(Buffer.alloc(BLOCK, 9))).toBe(true);
  expect(one.read(4 * BLOCK, BLOCK).equals(base.subarray(4 * BLOCK, 5 * BLOCK))).toBe(true);
});

test('ops/machines lists what there is, and refuses what it does not know', () => {
  const machines = (...args: string[]) =>
    spawnSync(join(import.meta.dirname, '../../ops/machines'), args, { encoding: 'utf8' });
  const { status, stdout } = machines('--list');
  expect(status).toBe(0);
  expect(stdout).toMatch(/^ {2}debian-13$/m);
  expect(stdout).toMatch(/^ {2}power +power cuts/m);
  expect(machines('--list', '--systems', 'debian-11')).toMatchObject({ status: 0 });
  expect(machines('--help').stdout).toContain('--cuts N');
  expect(withNeeds(['reboot']).map(({ name }) => name)).toEqual(['install', 'lazy', 'containerd', 'reboot']);
});

const isAsked = process.env.COFA_MACHINES === '1';
const why = isAsked ? whyNoMachines()?.what : 'they have to be asked for: COFA_MACHINES=1';
if (why !== undefined) console.log(`machines.test.ts leaves the virtual machines out: ${why}`);

test.runIf(why === undefined)(
  'a Debian 13 with its own kernel: the package, a lazy mount, containerd, and the power is cut',
  async (context) => {
    const seed = randomInt(2 ** 31);
    console.log(
      `seed ${seed}; again: ops/machines --systems debian-13 --scenarios power --cuts 2 --seed ${seed}`,
    );
    const [report] = await tryMachines({
      systems: ['debian-13'],
      scenarios: ['power'],
      seed,
      cuts: 2,
      memoryMiB: 1536,
      onProgress: console.log,
    });
    if (report === undefined || report.outcomes.length === 0) return context.skip();
    expect(report.outcomes.filter(({ state }) => state !== 'ok')).toEqual([]);
  },
  1_200_000,
);
