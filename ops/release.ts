/** The build behind ops/release. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { buildDeb } from './packages/deb.ts';
import { type Arch, installModules, packageJson } from './packages/modules.ts';
import { buildNpm } from './packages/npm.ts';
import { buildOci, type Debian, sha256Of } from './packages/oci.ts';
import { billOfMaterials, licencesOf } from './packages/sbom.ts';
import { settle, sourceEpoch, writeProgram } from './packages/tree.ts';

const KINDS = ['deb', 'npm', 'oci'] as const;
type Kind = (typeof KINDS)[number];

export interface ReleaseOptions {
  out: string;
  arch: Arch;
  kinds: readonly Kind[];
  /** Of all that is in it, seconds since 1970; by default `sourceEpoch()`. */
  epoch?: number;
  /** Below the program in the OCI image; by default mmdebstrap makes it anew. */
  debian?: Debian;
  onProgress: (line: string) => void;
}

/** Builds a release into a folder; paths of its files, SHA256SUMS last. What was there by these names is replaced. */
export async function buildRelease(options: ReleaseOptions): Promise<string[]> {
  const { out, arch, kinds, onProgress, epoch = sourceEpoch() } = options;
  const { version } = packageJson();
  const scratch = mkdtempSync(join(tmpdir(), 'cofa-release-'));
  mkdirSync(out, { recursive: true });
  const files: string[] = [];
  const put = (name: string, text: string) => {
    files.push(join(out, name));
    writeFileSync(join(out, name), text);
  };
  try {
    onProgress(`the program of version ${version}, and npm's packages`);
    const program = join(scratch, 'program');
    await writeProgram(program);
    installModules(program, arch);
    settle(program, epoch);
    const licences = licencesOf(join(program, 'node_modules'));
    const sbom = billOfMaterials(scratch, epoch);
    const shared = { version, arch, epoch, scratch, out, licences };
    let deb: string | undefined;
    if (kinds.includes('deb') || kinds.includes('oci')) {
      onProgress('the Debian package');
      deb = await buildDeb({ ...shared, program, sbom });
      files.push(deb);
    }
    if (kinds.includes('npm')) {
      onProgress("npm's package");
      files.push(buildNpm({ ...shared, program }));
    }
    let debian: string[] = [];
    if (kinds.includes('oci') && deb !== undefined) {
      onProgress('the OCI image');
      const image = await buildOci({ ...shared, deb }, options.debian);
      files.push(image.file);
      debian = image.packages;
    }
    put(`cofa-${version}.cdx.json`, debian.length === 0 ? sbom : billOfMaterials(scratch, epoch, debian));
    put('LICENSES.txt', licences);
    const sums = await Promise.all(files.map(async (file) => `${await sha256Of(file)}  ${basename(file)}\n`));
    put('SHA256SUMS', sums.toSorted((a, b) => (a.slice(66) < b.slice(66) ? -1 : 1)).join(''));
    return files;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      out: { type: 'string', default: 'release' },
      arch: { type: 'string', default: process.arch },
      only: { type: 'string', default: KINDS.join(',') },
    },
  });
  const kinds = values.only
    .split(',')
    .map((word) => KINDS.find((kind) => kind === word) ?? refuse('--only', word));
  const { arch } = values;
  if (arch !== 'x64' && arch !== 'arm64') return refuse('--arch', arch);
  const onProgress = (line: string) => console.error(`release: ${line}`);
  for (const file of await buildRelease({ out: resolve(values.out), arch, kinds, onProgress }))
    console.log(file);
}

function refuse(option: string, word: string): never {
  console.error(`release: ${option} does not take ${JSON.stringify(word)}; see ops/release --help`);
  process.exit(2);
}

if (import.meta.main) await main();
