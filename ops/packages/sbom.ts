/** What a release ships: a bill of materials (CycloneDX 1.5) by npm, with what is no package of npm added; and licences. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { releaseManifest } from './modules.ts';

interface Component {
  type: string;
  name: string;
  version: string;
  purl: string;
  'bom-ref': string;
  [field: string]: unknown;
}
interface Bom {
  serialNumber: string;
  metadata: { timestamp: string; [field: string]: unknown };
  components: Component[];
  [field: string]: unknown;
}

/** The npm that writes it: `npm sbom` came after the npm of Debian 12 and 13. */
const NPM = '11.19.1';

/**
 * The bill of npm's packages, Node among them. Equal locks give equal bills: time and serial number come from what is in it.
 * `debian`: packages of the OCI image as `name version`, by lines. Takes npm, and its registry where this machine's is older.
 */
export function billOfMaterials(scratch: string, epoch: number, debian: readonly string[] = []): string {
  const folder = join(scratch, 'sbom');
  mkdirSync(folder, { recursive: true });
  const { manifest, lock } = releaseManifest();
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify(lock));
  const args = [
    'sbom',
    '--package-lock-only',
    '--omit=dev',
    '--sbom-format=cyclonedx',
    '--sbom-type=application',
  ];
  const [program, ...before] = npmWithSbom(scratch);
  const text = execFileSync(program as string, [...before, ...args], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  const bom = JSON.parse(text) as Bom;
  bom.metadata.timestamp = new Date(epoch * 1000).toISOString();
  for (const line of debian) {
    const [name = '', version = ''] = line.split(' ');
    const purl = `pkg:deb/debian/${name}@${encodeURIComponent(version)}`;
    bom.components.push({ type: 'library', name, version, purl, 'bom-ref': purl });
  }
  bom.components.sort((a, b) => (a['bom-ref'] < b['bom-ref'] ? -1 : 1));
  bom.serialNumber = '';
  bom.serialNumber = `urn:uuid:${uuidOf(JSON.stringify(bom))}`;
  return `${JSON.stringify(bom, null, 1)}\n`;
}

/** This machine's npm where it can, else one that is fetched for it. */
function npmWithSbom(scratch: string): string[] {
  const [major = 0, minor = 0] = execFileSync('npm', ['--version'], { encoding: 'utf8' })
    .split('.')
    .map(Number);
  if (major > 10 || (major === 10 && minor >= 2)) return ['npm'];
  const folder = join(scratch, 'npm');
  execFileSync('npm', [
    'install',
    '--prefix',
    folder,
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    `npm@${NPM}`,
  ]);
  return [process.execPath, join(folder, 'node_modules/npm/bin/npm-cli.js')];
}

/** A UUID of version 8: of a text (RFC 9562). */
function uuidOf(text: string): string {
  const bytes = createHash('sha256').update(text).digest().subarray(0, 16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x80, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** The licence texts of every package below a folder of modules, by name. Throws where one has neither text nor name. */
export function licencesOf(modules: string): string {
  const texts: string[] = [];
  for (const name of packagesBelow(modules)) {
    const folder = join(modules, name);
    const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
      name: string;
      version: string;
      license?: unknown;
      licenses?: unknown;
    };
    const kind = about.license ?? about.licenses;
    const files = readdirSync(folder)
      .filter((file) => /^(licen[cs]e|copying|notice)/i.test(file))
      .toSorted();
    if (kind === undefined && files.length === 0) throw new Error(`no licence is known of ${name}`);
    const said = typeof kind === 'string' ? kind : kind === undefined ? 'see below' : JSON.stringify(kind);
    const bodies = files.map((file) =>
      readFileSync(join(folder, file), 'utf8').replaceAll('\r\n', '\n').trim(),
    );
    texts.push([`${about.name} ${about.version}: ${said}`, ...bodies].join('\n\n'));
  }
  return `${texts.join(`\n\n${'-'.repeat(80)}\n\n`)}\n`;
}

function packagesBelow(modules: string): string[] {
  const found: string[] = [];
  const walk = (below: string) => {
    for (const { name } of readdirSync(join(modules, below), { withFileTypes: true }).filter((one) =>
      one.isDirectory(),
    )) {
      const path = join(below, name);
      if (name.startsWith('.')) continue;
      if (name.startsWith('@')) walk(path);
      else if (existsSync(join(modules, path, 'package.json'))) {
        found.push(path);
        if (existsSync(join(modules, path, 'node_modules'))) walk(join(path, 'node_modules'));
      }
    }
  };
  walk('');
  return found.toSorted();
}
