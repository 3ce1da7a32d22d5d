/** The kernel's keys, for real. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { afterEach, expect, test } from 'vitest';
import { Keyring, MAX_SECRET } from '../../src/kernel/keyring.ts';

const name = `cofa-test:${randomBytes(6).toString('hex')}`;
afterEach(() => Keyring.forget(name));
const texts = (ring: Keyring) => ring.all().map(String).toSorted();

test('what was put is there for another process, also below a session keyring of its own, until it is forgotten', () => {
  const ring = Keyring.open(name);
  ring.put('a', Buffer.from('first'), 60);
  ring.put('b', Buffer.from('second'), 60);
  ring.put('a', Buffer.from('first again'), 60);
  expect(texts(Keyring.open(name))).toEqual(['first again', 'second']);
  const module = new URL('../../src/kernel/keyring.ts', import.meta.url).href;
  const libc = new URL('../../src/kernel/libc.ts', import.meta.url).href;
  const program = `
    const { declare } = await import(${JSON.stringify(libc)});
    // KEYCTL_JOIN_SESSION_KEYRING, as systemd does for a service.
    declare('syscall', ['long', 'long', 'void *'], 'int64')(process.arch === 'arm64' ? 219 : 250, 1, null);
    const { Keyring } = await import(${JSON.stringify(module)});
    console.log(JSON.stringify(Keyring.open(${JSON.stringify(name)}).all().map(String).toSorted()));`;
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' });
  expect(JSON.parse(output)).toEqual(['first again', 'second']);
  ring.remove('b');
  ring.remove('none');
  expect(texts(ring)).toEqual(['first again']);
  Keyring.forget(name);
  expect(Keyring.open(name).all()).toEqual([]);
});

test('a secret may be as long as the kernel takes, many may be there, and a longer one is refused', () => {
  const ring = Keyring.open(name);
  const long = Buffer.alloc(MAX_SECRET, 'x');
  ring.put('long', long, 60);
  expect(ring.all()[0]?.equals(long)).toBe(true);
  expect(() => ring.put('longer', Buffer.alloc(MAX_SECRET + 1), 60)).toThrow('EINVAL');
  for (let at = 0; at < 200; at++) ring.put(`n${at}`, Buffer.from(`${at}`), 60);
  expect(ring.all()).toHaveLength(201);
});

test('a secret is gone when its time is over', async () => {
  const ring = Keyring.open(name);
  ring.put('short', Buffer.from('x'), 1);
  ring.put('long', Buffer.from('y'), 60);
  for (const end = performance.now() + 20_000; performance.now() < end && ring.all().length > 1; ) {
    await new Promise((done) => setTimeout(done, 100));
  }
  expect(texts(ring)).toEqual(['y']);
});
