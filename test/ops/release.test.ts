/**
 * What ops/release builds, installed where there was no cofa before: the Debian package in an empty Debian 12 and 13 and
 * Ubuntu 24.04, npm's package below a folder of its own. Each mounts an image lazily, and every byte is compared.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { debianRoot } from '../../ops/images/roots.ts';
import { DEPENDS } from '../../ops/packages/deb.ts';
import { javaScriptOf } from '../../ops/packages/tree.ts';
import { version } from '../../src/client/version.ts';
import { pushImage, twoLayers } from '../faults/fault-image.ts';
import { buildAgain, keptOlderDeb, keptRelease } from '../support/kept-release.ts';
import { startRegistry } from '../support/registry-server.ts';
import { rootMachine } from '../support/root-machine.ts';
import { Cleanup } from '../support/temp.ts';

const run = promisify(execFile);
const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** Of one test: two run beside each other. */
function cleanupOf({ onTestFinished }: TestContext): Cleanup {
  const own = new Cleanup();
  onTestFinished(() => own.run());
  return own;
}

const VERSION = version();
const arch = process.arch === 'arm64' ? 'arm64' : 'x64';
const DEB = `cofa_${VERSION}_${arch === 'x64' ? 'amd64' : 'arm64'}.deb`;
let directory = '';
/** It must not be changed. */
let out = '';
let oci = '';
let ref = '';
/** The same image, over a link on which reading it takes longer than an upgrade. */
let slowRef = '';
let sums = '';

beforeAll(async () => {
  directory = await cleanup.tempDir('release');
  ({ folder: out, oci } = await keptRelease(console.log));
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 4e6, rttMs: 2 });
  cleanup.defer(() => relay.stop());
  const image = await pushImage(directory, registry.host, 'app', twoLayers(8200));
  ref = image.ref;
  slowRef = ref.replace(registry.host, relay.host);
  const { stdout } = await run('sh', [
    '-c',
    'cd "$1" && find . -type f | xargs sha256sum',
    'sh',
    image.expected.root,
  ]);
  sums = stdout;
}, 900_000);

/** What is in the lowest layer of an image in a file, with the targets of links. */
const DEBIAN_FILES = `
layer=$(tar -xOf "$1" manifest.json | grep -o 'blobs/sha256/[0-9a-f]*' | sed -n 2p)
tar -xOf "$1" "$layer" | tar -tzv | sed 's/^\\([^ ]* *\\)\\{5\\}//'`;

describe('the files of a release', () => {
  test('another build gives the same, to the byte; the sums are right', async () => {
    const again = join(directory, 'again');
    await buildAgain(again, console.log);
    expect(readFileSync(join(again, 'SHA256SUMS'), 'utf8')).toBe(
      readFileSync(join(out, 'SHA256SUMS'), 'utf8'),
    );
    await run('sha256sum', ['--check', '--strict', 'SHA256SUMS'], { cwd: out });
    expect(readdirSync(out).length).toBe(
      readFileSync(join(out, 'SHA256SUMS'), 'utf8').trim().split('\n').length + 1,
    );
  }, 600_000);

  test('the bill of materials names every package that the Debian package ships, and LICENSES.txt its licence', async () => {
    const bill = JSON.parse(readFileSync(join(out, `cofa-${VERSION}.cdx.json`), 'utf8')) as {
      components: Array<{ name: string; group?: string; version: string }>;
    };
    const named = new Set(
      bill.components.map(({ group, name }) => (group === undefined ? name : `${group}/${name}`)),
    );
    const { stdout } = await run('sh', [
      '-c',
      `dpkg-deb --fsys-tarfile "$1" | tar -t | grep '/node_modules/.*package.json$'`,
      'sh',
      join(out, DEB),
    ]);
    const shipped = stdout.matchAll(/\/node_modules\/((?:@[^/]+\/)?[^/]+)\/package\.json$/gm);
    const names = [...shipped].map(([, name = '']) => (name === 'node' ? `node-linux-${arch}` : name));
    expect(names.length).toBeGreaterThan(40);
    const licences = readFileSync(join(out, 'LICENSES.txt'), 'utf8');
    for (const name of names) {
      expect(named).toContain(name);
      expect(licences).toContain(`${name} `);
    }
    // What the Debian package stands on is in the OCI image.
    for (const name of ['nats-server', 'runc']) expect(named).toContain(name);
  });

  test('the OCI image has the licence of each Debian package that is in it', async () => {
    const { stdout } = await run('sh', ['-c', DEBIAN_FILES, 'sh', oci], { maxBuffer: 64 << 20 });
    const files = new Set(stdout.split('\n'));
    const bill = JSON.parse(readFileSync(join(out, `cofa-${VERSION}.cdx.json`), 'utf8')) as {
      components: Array<{ name: string; purl: string }>;
    };
    const debian = bill.components.filter(({ purl }) => purl.startsWith('pkg:deb/')).map(({ name }) => name);
    expect(debian.length).toBeGreaterThan(80);
    const without = debian.filter((name) => {
      // Packages of one source share a folder, by a link.
      const link = [...files].find((file) => file.startsWith(`./usr/share/doc/${name} -> `));
      const folder = link?.split(' -> ')[1] ?? name;
      return !files.has(`./usr/share/doc/${folder}/copyright`);
    });
    expect(without).toEqual([]);
  });

  test('types go and names of modules change; lines stay', () => {
    const text =
      "import { a } from './a.ts';\nconst p: URL = new URL('../b/main.ts', import.meta.url);\n// see c.ts\n";
    expect(javaScriptOf(text)).toBe(
      "import { a } from './a.js';\nconst p      = new URL('../b/main.js', import.meta.url);\n// see c.ts\n",
    );
  });
});

const RELEASES = { bookworm: 'libssl3', trixie: 'libssl3t64', noble: 'libssl3t64' } as const;
type Release = keyof typeof RELEASES;
/** Those that are tried; Ubuntu's root takes the suite more than a minute, so it has to be asked for. */
const TRIED = (Object.keys(RELEASES) as Release[]).filter(
  (release) => release !== 'noble' || process.env.COFA_UBUNTU === '1',
);

/** Debian or Ubuntu without cofa, but with all that its package stands on: dpkg says so where a name is not of that release. */
async function rootOf(release: Release) {
  const packages = DEPENDS.map((one) => one.split(/ [|(]/)[0] as string).filter((name) => name !== 'libssl3');
  return await debianRoot(release, [...packages, RELEASES[release], 'ca-certificates'], {
    onProgress: console.log,
  });
}

async function machineOf(release: Release, context: TestContext) {
  const root = await rootOf(release);
  if (root === undefined) return undefined;
  const machine = await rootMachine(cleanupOf(context), [root]);
  copyFileSync(join(out, DEB), join(machine.shared, DEB));
  return machine;
}

/** Indexes the image, mounts it and compares every byte. `$COFA` is the command. */
const trial = () => `
: "\${COFA:=cofa}"
[ "$($COFA --version)" = ${VERSION} ]
$COFA --quiet up --no-rehearsal --trust registry --snapshotter
$COFA --quiet index ${ref}
mkdir -p /tmp/mnt && $COFA mount --no-prefetch ${ref} /tmp/mnt
cat > /tmp/sums <<'END'
${sums}END
(cd /tmp/mnt && sha256sum --quiet --check /tmp/sums)
$COFA unmount /tmp/mnt
`;

// Two beside each other: each waits for its disk and its processes now and then.
describe.concurrent.each(TRIED)('the Debian package on %s', (release) => {
  test('installs, mounts lazily, and is gone after a purge', async (context) => {
    const machine = await machineOf(release, context);
    if (machine === undefined) return context.skip();
    const { code, said } = await machine.run(`
dpkg --install /host/${DEB}
dpkg --verify cofa
cofa config check
cofa doctor --json > /host/doctor.json || true
[ -s /usr/share/man/man1/cofa.1.gz ] && [ -s /usr/share/man/man5/cofa-config.toml.5.gz ]
bash -c '. /usr/share/bash-completion/completions/cofa && complete -p cofa'
grep -q '^ExecStart=/usr/bin/cofa up' /usr/lib/systemd/system/cofa.service
# Programs that run while the package is set up again write what Node has compiled.
cache=/usr/lib/cofa/node_modules/.cache/busy
until [ -e /tmp/written ]; do
  [ -d $cache ] || mkdir -p $cache || true
  { : > $cache/$((n += 1)); } 2>/dev/null || true
done &
sleep 0.5
/var/lib/dpkg/info/cofa.postinst configure
touch /tmp/written
wait
rm -r $cache
${trial()}
echo '# of the operator' >> /etc/cofa/config.toml
dpkg --remove cofa
[ ! -e /usr/bin/cofa ] && [ ! -e /usr/lib/cofa ] && grep -q operator /etc/cofa/config.toml
dpkg --purge cofa
[ ! -e /etc/cofa ] && [ -z "$(ls /var/lib/cofa)" ]
echo all is well`);
    expect(said).toMatch(/all is well\n$/);
    expect(code).toBe(0);
  }, 600_000);
});

test('ops/in-root: a machine keeps what is changed where it is told to, has this one’s folders, and ends as its command', async (context) => {
  const root = await rootOf('bookworm');
  if (root === undefined) return context.skip();
  const own = cleanupOf(context);
  const [at, named] = [await own.tempDir('at'), await own.tempDir('named')];
  const machine = () => rootMachine(own, [root], { at, with: [named] });
  expect(await (await machine()).lend(`echo kept > /root/note; echo seen > ${named}/note; exit 3`)).toBe(3);
  const { code, said } = await (await machine()).run(`cat /root/note ${named}/note; exit 4`);
  expect({ code, said }).toEqual({ code: 4, said: 'kept\nseen\n' });
  expect(readFileSync(join(named, 'note'), 'utf8')).toBe('seen\n');
});

// Its engine of 0.1.0 takes loop devices of other roots at /var/lib/cofa for its own: none is beside it.
describe.concurrent('an upgrade', () => {
  test('from the package of 0.1.0, and to a package built again, under a reader: no read fails, and the mount stays', async (context) => {
    const machine = await machineOf('bookworm', context);
    const older = await keptOlderDeb(console.log);
    if (machine === undefined || older === undefined) return context.skip();
    copyFileSync(older, join(machine.shared, basename(older)));
    const { code, said } = await machine.run(`
dpkg --install /host/${basename(older)}
[ "$(cofa --version)" = 0.1.0 ]
cofa up --trust always
cofa --quiet index ${ref}
mkdir -p /tmp/mnt && cofa mount --no-prefetch ${slowRef} /tmp/mnt
grep /tmp/mnt /proc/self/mountinfo > /tmp/before
cat > /tmp/sums <<'END'
${sums}END
read_on() {
  until [ -e /tmp/enough ]; do
    if (cd /tmp/mnt && sha256sum --quiet --check /tmp/sums); then echo whole; else echo failed; fi >> /tmp/passes
    # So that the next pass fetches again.
    cofa --quiet prune --all > /tmp/prune 2>&1 || true
  done
}
passes() { cat /tmp/passes 2>/dev/null | wc -l; }
more() { n=$(($(passes) + 2)); until [ "$(passes)" -ge $n ]; do sleep 0.1; done; }
read_on &
sleep 1
echo "upgrade: passes before $(passes)"
dpkg --install /host/${DEB}
[ "$(cofa --version)" = ${VERSION} ]
more
echo "again: passes before $(passes)"
dpkg --install /host/${DEB}
more
touch /tmp/enough
wait
sort /tmp/passes | uniq -c
grep /tmp/mnt /proc/self/mountinfo | cmp - /tmp/before
cofa status --json > /host/status.json
cofa unmount /tmp/mnt
cofa down
echo all is well`);
    expect(said).toMatch(/all is well\n$/);
    expect(said).toMatch(/^ +\d+ whole$/m);
    expect(said).not.toMatch(/^ +\d+ failed$/m);
    expect(code).toBe(0);
    const status = JSON.parse(readFileSync(join(machine.shared, 'status.json'), 'utf8')) as {
      images: Array<{ reads: { errors: number } }>;
    };
    expect(status.images.map(({ reads }) => reads.errors)).toEqual([0]);
  }, 600_000);
});

describe.concurrent("npm's package", () => {
  test('works by npm install -g, with no install script', async (context) => {
    const own = cleanupOf(context);
    const prefix = await own.tempDir('npm');
    const args = [
      'install',
      '--global',
      '--ignore-scripts',
      '--prefix',
      prefix,
      join(out, `cofa-${VERSION}.tgz`),
    ];
    await run('npm', [...args, '--no-audit', '--no-fund'], { timeout: 240_000 });
    const cofa = join(prefix, 'bin/cofa');
    const state = await own.tempDir('npm-root');
    const env = { ...process.env, COFA_ROOT: state, COFA_CONFIG: '/dev/null', COFA: cofa };
    const script = `set -eu\n${trial().replaceAll('/tmp/mnt', `${state}/mnt`).replaceAll('/tmp/sums', `${state}/sums`)}\n$COFA down`;
    await run('sh', ['-c', script], { env, timeout: 180_000 });
  }, 600_000);
});
