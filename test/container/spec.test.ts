import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseImageConfig } from '../../src/container/image-config.ts';
import {
  checkEnv,
  checkHostname,
  checkName,
  parseEnvFile,
  parseSecurity,
  parseVolume,
  type RunOptions,
} from '../../src/container/options.ts';
import { overlayData } from '../../src/container/overlay.ts';
import { stopSignalOf } from '../../src/container/signals.ts';
import { buildSpec, commandOf, environmentOf, type HostFacts } from '../../src/container/spec.ts';
import { startErrorOf } from '../../src/container/command.ts';
import { PLAIN } from './plain.ts';

const config = (object: unknown) => parseImageConfig(Buffer.from(JSON.stringify({ config: object })));
const options = (more: Partial<RunOptions> = {}): RunOptions => ({ ...PLAIN, ...more });
const host: HostFacts = {
  hostname: 'node1',
  env: {},
  bounding: ~0n,
  maxOpenFiles: 500_000,
  cgroup2: false,
  machine: 'x64',
  terminal: undefined,
};
const root = { uid: 0, gid: 0, additionalGids: [], home: '/root' };
const specOf = (more: Partial<RunOptions> = {}, facts: Partial<HostFacts> = {}, user = root) =>
  buildSpec({
    rootfs: '/r',
    config: config({ Cmd: ['sh'] }),
    options: options(more),
    user,
    host: { ...host, ...facts },
    cgroupsPath: '/cofa/x',
    files: [
      { source: '/c/hosts', target: '/etc/hosts' },
      { source: '/c/hostname', target: '/etc/hostname' },
    ],
  });

describe('the command follows docker’s rules', () => {
  const image = config({ Entrypoint: ['/entry', '-x'], Cmd: ['one', 'two'] });
  it.each([
    ['image alone', [], undefined, ['/entry', '-x', 'one', 'two']],
    ['arguments replace Cmd', ['three'], undefined, ['/entry', '-x', 'three']],
    ['--entrypoint drops the image’s Cmd', [], '/other', ['/other']],
    ['--entrypoint with arguments', ['a', 'b'], '/other', ['/other', 'a', 'b']],
    ['--entrypoint "" leaves the arguments', ['sh', '-c', ''], '', ['sh', '-c', '']],
  ])('%s', (_, args, entrypoint, command) => {
    expect(commandOf(image, { args, entrypoint })).toEqual(command);
  });
  it('refuses an empty command', () => {
    expect(() => commandOf(config({}), { args: [], entrypoint: undefined })).toThrow(/no command/);
    expect(() => commandOf(image, { args: [], entrypoint: '' })).toThrow(/no command/);
  });
});

describe('the environment', () => {
  const facts = { hostname: 'h', home: '/home/a', caller: { TAKEN: 'from caller' } };
  it('is the image’s, then -e, with PATH, HOSTNAME and HOME where no option says otherwise', () => {
    const image = config({ Env: ['PATH=/only', 'A=1', 'B=2', 'EMPTY=', 'EQ=a=b'] });
    expect(environmentOf(image, { env: ['A=9', 'TAKEN', 'B', 'C='], tty: false }, facts)).toEqual([
      'PATH=/only',
      'HOSTNAME=h',
      'HOME=/home/a',
      'A=9',
      'EMPTY=',
      'EQ=a=b',
      'TAKEN=from caller',
      'C=',
    ]);
    expect(environmentOf(config({}), { env: [], tty: true }, facts)).toContain('TERM=xterm');
  });
  it('reads env files literally', () => {
    const text = '\uFEFF# a comment\n\nA="quoted"\r\n  B=x y # z\nTAKEN\n';
    expect(parseEnvFile(text, 'f')).toEqual(['A="quoted"', 'B=x y # z', 'TAKEN']);
    expect(() => parseEnvFile('A=1\nno good=1\n', 'my.env')).toThrow(/my\.env, line 2/);
    expect(() => checkEnv('=x')).toThrow(/no name/);
  });
});

describe('volumes', () => {
  it.each([
    ['/a:/b', { source: '/a', target: '/b', readOnly: false, propagation: 'rprivate' }],
    ['/a/../c//:/b/./d:ro', { source: '/c', target: '/b/d', readOnly: true, propagation: 'rprivate' }],
    ['./x:/b:rslave,ro,z', { source: '/cwd/x', target: '/b', readOnly: true, propagation: 'rslave' }],
    ['..:/b:rw', { source: '/', target: '/b', readOnly: false, propagation: 'rprivate' }],
  ])('%s', (text, volume) => expect(parseVolume(text, '/cwd')).toEqual(volume));
  it.each(['/a', '/a:b', 'name:/b', '/a:/b:ro:x', '/a:/b:what', '/a:/', '/a:/x/..', ':/b', '/a:'])(
    '%s is refused',
    (text) => expect(() => parseVolume(text, '/cwd')).toThrow(/volume/),
  );
});

const names = (facts: Partial<HostFacts>, more: Partial<RunOptions> = {}) =>
  specOf(more, facts).linux.namespaces.map((one) => one.type);
const volume = (target: string) => ({
  source: '/s',
  target,
  readOnly: false,
  propagation: 'rprivate' as const,
});

describe('the specification', () => {
  it('gives root docker’s capabilities without CAP_NET_RAW, others none but the bounding set', () => {
    expect(specOf().process.capabilities.effective).toHaveLength(13);
    expect(specOf({}, { bounding: 0b1001n }).process.capabilities.effective).toEqual([
      'CAP_CHOWN',
      'CAP_FOWNER',
    ]);
    const other = specOf({}, {}, { ...root, uid: 1000 }).process.capabilities;
    expect(other.effective).toBeUndefined();
    expect(other.bounding).toHaveLength(13);
  });
  it('has no network namespace unless asked for, and a cgroup namespace on cgroup v2 alone', () => {
    expect(names({})).toEqual(['pid', 'ipc', 'uts', 'mount']);
    expect(names({}, { network: 'none' })).toContain('network');
    expect(names({ cgroup2: true })).toContain('cgroup');
  });
  it('puts outer mounts before inner ones, and volumes in the place of the standard ones', () => {
    const spec = specOf({
      volumes: [volume('/a/b/c'), volume('/a'), volume('/etc/hosts'), volume('/dev/shm')],
    });
    const order = spec.mounts.map((mount) => mount.destination);
    expect(order.indexOf('/a')).toBeLessThan(order.indexOf('/a/b/c'));
    expect(order.filter((one) => one === '/etc/hosts')).toHaveLength(1);
    expect(spec.mounts.find((mount) => mount.destination === '/dev/shm')?.type).toBe('bind');
    expect(order.indexOf('/dev')).toBeLessThan(order.indexOf('/dev/shm'));
  });
  it('allows listed system calls alone, unless told otherwise', () => {
    const { defaultAction, syscalls = [] } = specOf().linux.seccomp ?? {};
    expect(defaultAction).toBe('SCMP_ACT_ERRNO');
    const always = syscalls.filter((rule) => rule.args === undefined && rule.action === 'SCMP_ACT_ALLOW');
    const names = always.flatMap((rule) => rule.names);
    expect(names).toContain('arch_prctl');
    for (const refused of [
      'keyctl',
      'bpf',
      'mount',
      'userfaultfd',
      'unshare',
      'clone',
      'socket',
      'io_uring_setup',
    ])
      expect(names).not.toContain(refused);
    expect(specOf({ unconfined: true }).linux.seccomp).toBeUndefined();
    expect(() => specOf({}, { machine: 'riscv64' })).toThrow('no list of allowed system calls for riscv64');
    expect(specOf({ unconfined: true }, { machine: 'riscv64' }).linux.seccomp).toBeUndefined();
    expect(specOf({ noNewPrivileges: true }).process.noNewPrivileges).toBe(true);
    expect(parseSecurity(['no-new-privileges', 'seccomp=unconfined'])).toEqual({
      noNewPrivileges: true,
      unconfined: true,
    });
    expect(() => parseSecurity(['apparmor=x'])).toThrow(/"apparmor=x" is not known/);
  });
  it('keeps the open files limit customary', () => {
    expect(specOf().process.rlimits).toEqual([{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 500_000 }]);
    expect(specOf({}, { maxOpenFiles: 512 }).process.rlimits[0]?.soft).toBe(512);
    expect(specOf({}, { maxOpenFiles: undefined }).process.rlimits).toEqual([]);
  });
  it('passes hostname, folder, terminal and read-only root on', () => {
    const spec = specOf({ hostname: 'h', workdir: '/w', tty: true, readOnly: true });
    expect(spec).toMatchObject({
      hostname: 'h',
      process: { cwd: '/w', terminal: true },
      root: { readonly: true },
    });
    expect(spec.process.env).toContain('HOSTNAME=h');
    expect(specOf().process.cwd).toBe('/');
  });
});

describe('an image configuration', () => {
  it('may lack everything', () => {
    const empty = { entrypoint: [], cmd: [], env: [], user: '', workingDir: '/', stopSignal: undefined };
    expect(parseImageConfig(Buffer.from('{}'))).toEqual(empty);
    expect(config(null)).toEqual(empty);
    expect(
      config({ Entrypoint: null, Cmd: null, Env: null, User: '', WorkingDir: '', StopSignal: '' }),
    ).toEqual(empty);
  });
  it.each([
    [{ Cmd: 'echo' }, ['echo']],
    [{ Cmd: ['a', 'b'] }, ['a', 'b']],
  ])('Cmd of %j', (object, cmd) => expect(config(object).cmd).toEqual(cmd));
  it.each([{ Cmd: [1] }, { Env: {} }, { User: 5 }, { Cmd: ['a\0b'] }, { WorkingDir: [] }, [], 'text'])(
    '%j is refused by name',
    (object) => expect(() => config(object)).toThrow(/the image configuration is broken/),
  );
  it('that is anything at all gives a configuration or an integrity error', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
        for (const value of [a, { config: b }, { config: { Cmd: a, Entrypoint: b, Env: a, User: b } }]) {
          try {
            parseImageConfig(Buffer.from(JSON.stringify(value)));
          } catch (error) {
            expect(error).toMatchObject({ code: 'integrity' });
          }
        }
      }),
    );
  });
});

describe('small things', () => {
  const numbers = { SIGQUIT: 3, SIGTERM: 15, SIGUSR1: 10 };
  it.each([
    ['SIGQUIT', 'SIGQUIT'],
    ['quit', 'SIGQUIT'],
    ['10', 'SIGUSR1'],
    ['SIGRTMIN+3', undefined],
    ['99', undefined],
    [undefined, undefined],
  ])('stop signal %s is %s', (text, signal) => expect(stopSignalOf(text, numbers)).toBe(signal));
  it.each([
    [
      'runc run failed: unable to start container process: exec: "x": executable file not found in $PATH',
      127,
    ],
    [
      'runc run failed: unable to start container process: exec: "/v/x": stat /v/x: no such file or directory',
      127,
    ],
    ['runc run failed: unable to start container process: exec: "/bin/x": permission denied', 126],
    [
      'runc run failed: unable to start container process: error during container init: error mounting "/x"',
      125,
    ],
  ])('%s → %i', (message, exit) => {
    const error = startErrorOf(message);
    expect(error.exit).toBe(exit);
    expect(error.message).not.toMatch(/runc run failed/);
  });
  it('names and hostnames', () => {
    expect(checkName('a.b_c-1')).toBe('a.b_c-1');
    for (const bad of ['', '.', '..', '-a', 'a/b', 'a b', 'a\n', 'x'.repeat(65)]) {
      expect(() => checkName(bad)).toThrow(/not allowed/);
    }
    expect(checkHostname('a-1.example')).toBe('a-1.example');
    for (const bad of ['', '-a', 'a b', 'x'.repeat(65), 'a\0'])
      expect(() => checkHostname(bad)).toThrow(/not allowed/);
  });
  it('escapes what overlayfs takes for its own in paths', () => {
    expect(overlayData({ lower: '/a,b', upper: '/c:d', work: '/e\\f' }, ['volatile'])).toBe(
      'lowerdir=/a\\,b,upperdir=/c\\:d,workdir=/e\\\\f,volatile',
    );
  });
});
