/** ops/install against an apt and an npm that only write down what they are asked. */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { Cleanup } from '../support/temp.ts';

const INSTALL = fileURLToPath(new URL('../../ops/install', import.meta.url));
const cleanup = new Cleanup();
afterEach(() => cleanup.run());

interface Machine {
  run(purpose: string): { code: number | null; said: string; asked: string[] };
}

/** A machine on which `missing` is not installed yet, and whose package lists are too old if `stale`. */
async function machine(missing: string[], stale = false): Promise<Machine> {
  const directory = await cleanup.tempDir('install');
  const log = join(directory, 'log');
  const stub = (name: string, script: string) => {
    writeFileSync(join(directory, name), `#!/bin/sh\necho "${name} $*" >> ${log}\n${script}\n`);
    chmodSync(join(directory, name), 0o755);
  };
  writeFileSync(log, '');
  // The package is the last argument.
  stub(
    'dpkg-query',
    `for last; do :; done; case " ${missing.join(' ')} " in *" $last "*) [ -e ${directory}/done ] || exit 1 ;; esac; printf installed`,
  );
  const fresh = stale ? `[ -e ${directory}/updated ] || exit 100` : ':';
  stub(
    'apt-get',
    `[ -x /usr/sbin/policy-rc.d ] || exit 9
     case " $* " in *" update "*) touch ${directory}/updated ;; *" install "*) ${fresh}; touch ${directory}/done ;; esac`,
  );
  stub('systemctl', '');
  stub('npm', '');
  return {
    run: (purpose) => {
      writeFileSync(log, '');
      const path = [directory, dirname(process.execPath), '/usr/bin', '/bin'].join(':');
      const { status, stderr, stdout } = spawnSync(INSTALL, [purpose], {
        env: { PATH: path },
        encoding: 'utf8',
      });
      const asked = readFileSync(log, 'utf8').split('\n');
      return {
        code: status,
        said: stdout + stderr,
        asked: asked.filter((line) => /^(apt-get|systemctl)/.test(line)),
      };
    },
  };
}

const guard = '/usr/sbin/policy-rc.d';

test('says and does nothing where all is there', async () => {
  expect((await machine([])).run('test')).toEqual({ code: 0, said: '', asked: [] });
});

test('installs what is missing for the purpose, nothing else, and starts no service', async () => {
  const before = existsSync(guard);
  const one = await machine(['docker-registry', 'runc', 'umoci']);
  const { code, said, asked } = one.run('demo');
  expect(said).toBe('install: Debian packages: runc docker-registry\n');
  expect(code).toBe(0);
  expect(asked).toHaveLength(2);
  expect(asked[0]).toMatch(/ install -y --no-install-recommends runc docker-registry$/);
  expect(asked[1]).toBe('systemctl disable --quiet docker-registry.service');
  expect(existsSync(guard)).toBe(before);
  expect(one.run('demo')).toEqual({ code: 0, said: '', asked: [] });
});

test('fetches package lists only when the first try fails', async () => {
  const { code, said, asked } = (await machine(['runc'], true)).run('run');
  expect(code).toBe(0);
  expect(said).toBe('install: Debian packages: runc\ninstall: fetching package lists\n');
  expect(asked.map((line) => /(install|update)/.exec(line)?.[1])).toEqual(['install', 'update', 'install']);
});

test('says what is missing where there is no apt', async () => {
  const directory = await cleanup.tempDir('bare');
  mkdirSync(join(directory, 'bin'));
  for (const name of ['sh', 'dirname', 'mktemp', 'rm', 'id'])
    spawnSync('ln', ['-s', `/bin/${name}`, join(directory, 'bin', name)]);
  const { status, stderr } = spawnSync(INSTALL, ['run'], {
    env: { PATH: join(directory, 'bin') },
    encoding: 'utf8',
  });
  expect(status).toBe(8);
  expect(stderr).toMatch(/^install: this is not a Debian system: .*\n {2}hint: .*nats-server runc/);
});

test('npm follows the lock file to the letter, and where packages are installed replaces only what differs', async () => {
  const directory = await cleanup.tempDir('checkout');
  const here = (...names: string[]) => join(directory, ...names);
  mkdirSync(here('ops'));
  mkdirSync(here('bin'));
  for (const name of ['ops/install', 'package.json', 'package-lock.json'])
    copyFileSync(new URL(`../../${name}`, import.meta.url), here(name));
  const program = (name: string, script: string) =>
    writeFileSync(here('bin', name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  program('dpkg-query', 'printf installed');
  program(
    'npm',
    `case "$*" in *--prefix*|ls*) exit 1 ;; esac
     echo "$*" >> ${here('asked')}
     mkdir -p node_modules/node/bin && touch node_modules/.package-lock.json
     ln -sf /bin/true node_modules/node/bin/node`,
  );
  const install = () => {
    const path = [here('bin'), dirname(process.execPath), '/usr/bin', '/bin'].join(':');
    const { status } = spawnSync(here('ops/install'), ['run'], { env: { PATH: path } });
    expect(status).toBe(0);
  };
  const asked = () => readFileSync(here('asked'), 'utf8').replaceAll(/ --no-audit.*/g, '');
  install();
  expect(asked()).toBe('ci\n');
  install();
  expect(asked()).toBe('ci\n');
  writeFileSync(here('package-lock.json'), '{}');
  install();
  expect(asked()).toBe('ci\ninstall --no-save\n');
});

test('names its purposes when given another', async () => {
  const { status, stderr } = spawnSync(INSTALL, ['everything'], { encoding: 'utf8' });
  expect(status).toBe(8);
  expect(stderr).toContain('ops/install [run|demo|bench|test]');
});
