/**
 * What ops/release builds, installed where there was no cofa before: the Debian package in an empty Debian 12 and 13 and
 * Ubuntu 24.04, npm's package in a Debian 13 and the OCI image in a Debian 12; `COFA_INSTALLS=all` has both in both. Each mounts an
 * image lazily, and every byte is compared. `node ops/installs.ts` does the same from nothing, packages of Debian included.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { debianRoot } from '../../ops/images/roots.ts';
import { DEPENDS } from '../../ops/packages/deb.ts';
import { javaScriptOf } from '../../ops/packages/tree.ts';
import { version } from '../../src/client/version.ts';
import { Status } from '../../schemas/api.ts';
import { index, makeBase, makeClientImage, push } from '../clients/images.ts';
import { type FaultImage, pushImage, twoLayers } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { fileOf, momentsOf, PACKAGES, type Way, wayScript } from '../support/install-ways.ts';
import { buildAgain, keptOlderDeb, keptRelease } from '../support/kept-release.ts';
import { startRegistry } from '../support/registry-server.ts';
import { rootMachine } from '../support/root-machine.ts';
import { lendNetwork, networkEnvironment, TAKE_NETWORK } from '../support/root-network.ts';
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
let image: FaultImage;
let ref = '';
/** The same image, over a link on which reading it takes longer than an upgrade. */
let slowRef = '';
let sums = '';
/** An image whose containers read `/data/big` piece by piece, over such a link. */
let containerRef = '';
const PIECE = 1 << 20;
const BIG = { pieces: 64, seed: 8210 };

beforeAll(async () => {
  directory = await cleanup.tempDir('release');
  ({ folder: out, oci } = await keptRelease(console.log));
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 4e6, rttMs: 2 });
  cleanup.defer(() => relay.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(8200));
  ref = image.ref;
  await index(ref);
  slowRef = ref.replace(registry.host, relay.host);
  const second = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 4e6, rttMs: 2 });
  cleanup.defer(() => second.stop());
  const base = await makeBase(directory);
  const said = { big: BIG.seed, bytes: BIG.pieces * PIECE, said: 'I am a container' };
  const pushed = await push(
    await makeClientImage(directory, base, 'container', said),
    registry.host,
    'container',
  );
  await index(pushed);
  containerRef = pushed.replace(registry.host, second.host);
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
async function rootOf(release: Release, more: readonly string[] = []) {
  const packages = DEPENDS.map((one) => one.split(/ [|(]/)[0] as string).filter((name) => name !== 'libssl3');
  return await debianRoot(release, [...packages, RELEASES[release], 'ca-certificates', ...more], {
    onProgress: console.log,
  });
}

async function machineOf(release: Release, context: TestContext, more: readonly string[] = []) {
  const root = await rootOf(release, more);
  if (root === undefined) return undefined;
  const machine = await rootMachine(cleanupOf(context), [root]);
  copyFileSync(join(out, DEB), join(machine.shared, DEB));
  return machine;
}

/** Indexes the image, mounts it and compares every byte. */
const trial = () => `
[ "$(cofa --version)" = ${VERSION} ]
cofa --quiet up --no-rehearsal --trust registry --snapshotter
cofa --quiet index ${ref}
mkdir -p /tmp/mnt && cofa mount --no-prefetch ${ref} /tmp/mnt
cat > /tmp/sums <<'END'
${sums}END
(cd /tmp/mnt && sha256sum --quiet --check /tmp/sums)
cofa unmount /tmp/mnt
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

/** Ways that are tried beside the Debian package; a release of Debian each, since each takes half a minute. */
const WAYS: Array<[Way, Release]> = [
  ['npm', 'trixie'],
  ['oci', 'bookworm'],
  ...(process.env.COFA_INSTALLS === 'all'
    ? ([
        ['npm', 'bookworm'],
        ['oci', 'trixie'],
      ] as Array<[Way, Release]>)
    : []),
];

describe.concurrent.each(WAYS)('%s on %s', (way, release) => {
  test('installs as docs/install.md says, and mounts lazily', async (context) => {
    const root = await debianRoot(release, ['ca-certificates', ...PACKAGES[way]], {
      onProgress: console.log,
    });
    if (root === undefined) return context.skip();
    const machine = await rootMachine(cleanupOf(context), [root]);
    lendNetwork(machine.shared);
    const file = fileOf(way, readdirSync(out));
    copyFileSync(join(out, file), join(machine.shared, file));
    const firstPath = 'app/noise';
    const firstByte = image.files.get(firstPath)?.[0] as number;
    const tried = { ref, firstPath, firstByte, sums };
    // It has no install script that is needed.
    const options = { options: ['--no-rehearsal'], npmOptions: ['--ignore-scripts'] };
    const script = wayScript({ way, version: VERSION, file, image: tried, fetches: false, ...options });
    const { code, said } = await machine.run(TAKE_NETWORK + script, 480_000, networkEnvironment());
    expect(said).toMatch(/all is well\n$/);
    expect(code).toBe(0);
    const status = Status.parse(JSON.parse(readFileSync(join(machine.shared, 'status.json'), 'utf8')));
    expect(status.version).toBe(VERSION);
    expect(status.images.map(({ bytes }) => bytes.present < bytes.total / 2)).toEqual([true]);
    console.log(`${way} on ${release}, milliseconds: ${JSON.stringify(Object.fromEntries(momentsOf(said)))}`);
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

/** Another version of the package, whose file of settings says something else. */
const NEXT = `${VERSION}+next`;

// Its engine of 0.1.0 takes loop devices of other roots at /var/lib/cofa for its own: none is beside it.
test('an upgrade from the package of 0.1.0, and to one with other settings, under a reader and containers: no read fails', async (context) => {
  const machine = await machineOf('bookworm', context, ['containerd']);
  const older = await keptOlderDeb(console.log);
  if (machine === undefined || older === undefined) return context.skip();
  copyFileSync(older, join(machine.shared, basename(older)));
  writeFileSync(join(machine.shared, 'big'), noise(BIG.pieces * PIECE, BIG.seed));
  const { code, said } = await machine.run(
    `
# A container that says of each piece whether its bytes were right; one begins at the first one, one at the last.
cat > /host/again <<'END'
n=0
until [ -e /lent/enough ]; do
  case $1 in by-run) at=$n ;; *) at=$((${BIG.pieces} - 1 - n)) ;; esac
  if cmp -i $((at * ${PIECE})) -n ${PIECE} /data/big /lent/big; then echo whole; else echo failed; fi >> "/lent/$1"
  n=$(((n + 1) % ${BIG.pieces}))
done
END
ended() {
  ctr task delete --force by-containerd || true
} > /dev/null 2>&1
trap ended EXIT
dpkg --install /host/${basename(older)}
[ "$(cofa --version)" = 0.1.0 ]
# The operator's own.
echo 'metrics = "unix:/run/of-the-operator"' >> /etc/cofa/config.toml
cofa install containerd --no-unit
containerd > /host/containerd.log 2>&1 &
cofa up --trust always --snapshotter
cofa --quiet index ${ref}
mkdir -p /tmp/mnt && cofa mount --no-prefetch ${slowRef} /tmp/mnt
grep /tmp/mnt /proc/self/mountinfo > /tmp/before
cat > /tmp/sums <<'END'
${sums}END
# Its first pass fetches. The containers read what is not here yet, before, during and after.
read_on() {
  until [ -e /host/enough ]; do
    if (cd /tmp/mnt && sha256sum --quiet --check /tmp/sums); then echo whole; else echo failed; fi >> /host/by-mount
  done
}
passes() { cat /host/$1 2>/dev/null | wc -l; }
# Every reader has read all of its bytes, or its next pieces, twice since.
more() {
  for name in by-mount by-run by-containerd; do
    n=$(($(passes $name) + 2))
    until [ "$(passes $name)" -ge $n ]; do
      if grep failed /host/by-*; then return 1; fi
      sleep 0.1
    done
  done
}
say() { echo "$1: $(for name in by-mount by-run by-containerd; do echo "$name $(passes $name)"; done | tr '\\n' ' ')"; }
read_on &
reader=$!
cofa run --no-prefetch --name by-run -v /host:/lent ${containerRef} sh /lent/again by-run &
container=$!
cofa pull ${containerRef}
ctr run --detach --snapshotter cofa --mount type=bind,src=/host,dst=/lent,options=rbind:rw \
  ${containerRef} by-containerd sh /lent/again by-containerd
until [ "$(passes by-run)" -ge 1 ] && [ "$(passes by-containerd)" -ge 1 ]; do sleep 0.1; done
say 'before the upgrade'
# An engine of another name would know of none of these mounts: the one that runs goes on.
cp /etc/cofa/config.toml /tmp/right
echo 'node = "another"' >> /etc/cofa/config.toml
dpkg --force-confdef --force-confold --install /host/${DEB}
[ "$(cofa --version)" = ${VERSION} ] && [ ! -e /run/of-the-operator ]
cp /tmp/right /etc/cofa/config.toml
dpkg --force-confdef --force-confold --install /host/${DEB}
grep -q of-the-operator /etc/cofa/config.toml
[ -S /run/of-the-operator ]
more
say 'before the next one'
# The same program, with other words in its file of settings: dpkg would ask, and is told to keep those of the operator.
dpkg-deb --raw-extract /host/${DEB} /tmp/next
sed -i 's/^Version: .*/Version: ${NEXT}/' /tmp/next/DEBIAN/control
echo '# of the next version' >> /tmp/next/etc/cofa/config.toml
dpkg-deb -Znone --build /tmp/next /tmp/next.deb > /dev/null
dpkg --force-confdef --force-confold --install /tmp/next.deb
[ "$(dpkg-query --show --showformat='\${Version}' cofa)" = ${NEXT} ]
grep -q of-the-operator /etc/cofa/config.toml
[ -z "$(grep 'of the next version' /etc/cofa/config.toml)" ]
grep -q 'of the next version' /etc/cofa/config.toml.dpkg-dist
cofa config check
more
touch /host/enough
wait $reader
wait $container
say 'in all'
grep /tmp/mnt /proc/self/mountinfo | cmp - /tmp/before
# A new container starts, too.
[ "$(ctr run --rm --snapshotter cofa ${containerRef} another)" = 'I am a container' ]
[ "$(cofa run ${containerRef})" = 'I am a container' ]
cofa status --json > /host/status.json
cofa unmount /tmp/mnt
ended
ctr container delete by-containerd
cofa down
rm -f /run/of-the-operator
cofa up --trust registry --no-rehearsal
[ -S /run/of-the-operator ]
cofa down
echo all is well`,
    480_000,
  );
  expect(said).toMatch(/all is well\n$/);
  expect(code).toBe(0);
  expect(said).toContain('and the next one would be node another');
  expect(said).toContain('cofa: the engine of the version before goes on');
  for (const line of said.matchAll(/^(?:before the|in all).*$/gm)) console.log(line[0]);
  for (const name of ['by-mount', 'by-run', 'by-containerd']) {
    const passes = readFileSync(join(machine.shared, name), 'utf8').trim().split('\n');
    expect(new Set(passes), name).toEqual(new Set(['whole']));
  }
  const status = Status.parse(JSON.parse(readFileSync(join(machine.shared, 'status.json'), 'utf8')));
  const reads = status.images.map((one) => one.reads);
  console.log(`reads since the last engine started: ${JSON.stringify(reads)}`);
  expect(reads.map(({ errors }) => errors)).toEqual(reads.map(() => 0));
}, 600_000);
