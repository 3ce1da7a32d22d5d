/**
 * npm's packages as a release ships them: those of package-lock.json, checked against the digests that it names, and none
 * of their install scripts runs. What such scripts would bring comes from packages too: Node itself is one of
 * `NODE_BUILDS`, and native parts are the ones that their packages ship.
 */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { CHECKOUT } from './tree.ts';

/** Processors, by npm's names; Debian's are amd64 and arm64. */
export type Arch = 'x64' | 'arm64';
export const DEBIAN_ARCH: Record<Arch, string> = { x64: 'amd64', arm64: 'arm64' };

/** Node of package.json's `node`, which fetches one of these when it is installed; npm's digest of each. */
export const NODE_BUILDS: Record<Arch, string> = {
  x64: 'sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==',
  arm64: 'sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==',
};

interface PackageJson {
  version: string;
  dependencies: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  [field: string]: unknown;
}
interface Lock {
  packages: Record<string, Record<string, unknown> & { dependencies?: Record<string, string> }>;
  [field: string]: unknown;
}

export const packageJson = (): PackageJson =>
  JSON.parse(readFileSync(join(CHECKOUT, 'package.json'), 'utf8')) as PackageJson;

/** The page of the console is built of them; a release has it built. */
const OF_PAGE = ['vite', 'preact', '@preact/signals'];

/**
 * package.json and the lock of a release. Node comes as a package for the machine's processor instead of by a script.
 * fuse-native is for one of two transports and has no build for arm64: npm may do without.
 */
export function releaseManifest(): { manifest: PackageJson; lock: Lock } {
  const { node, 'fuse-native': fuse, ...dependencies } = packageJson().dependencies;
  for (const name of OF_PAGE) delete dependencies[name];
  if (node === undefined || fuse === undefined)
    throw new Error('package.json names no node, or no fuse-native');
  const builds = (Object.keys(NODE_BUILDS) as Arch[]).map((arch) => [`node-linux-${arch}`, node] as const);
  const optionalDependencies = { 'fuse-native': fuse, ...Object.fromEntries(builds) };
  const { devDependencies: _, allowScripts: _a, private: _p, scripts: _s, ...rest } = packageJson();
  const manifest = { ...rest, dependencies, optionalDependencies, os: ['linux'] };
  const lock = JSON.parse(readFileSync(join(CHECKOUT, 'package-lock.json'), 'utf8')) as Lock;
  const packages: Lock['packages'] = {};
  for (const [path, entry] of Object.entries(lock.packages)) {
    if (entry.dev === true || /^node_modules\/node(-bin-setup)?$/.test(path)) continue;
    packages[path] = entry;
  }
  const { devDependencies: _d, hasInstallScript: _i, ...root } = packages[''] ?? {};
  packages[''] = { ...root, dependencies, optionalDependencies, os: ['linux'] };
  for (const arch of Object.keys(NODE_BUILDS) as Arch[])
    packages[`node_modules/node-linux-${arch}`] = {
      version: node,
      integrity: NODE_BUILDS[arch],
      cpu: [arch],
      os: ['linux'],
      license: 'MIT',
      optional: true,
      bin: { node: 'bin/node' },
    };
  return { manifest, lock: { ...lock, packages } };
}

/** Installs them into `folder`/node_modules, for one processor. Takes npm, and its registry or its cache. */
export function installModules(folder: string, arch: Arch): void {
  const { manifest, lock } = releaseManifest();
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(join(folder, 'package-lock.json'), `${JSON.stringify(lock, null, 2)}\n`);
  const options = [
    '--ignore-scripts',
    '--omit=dev',
    '--no-audit',
    '--no-fund',
    '--no-bin-links',
    '--loglevel=error',
  ];
  execFileSync('npm', ['ci', ...options, '--os=linux', `--cpu=${arch}`, '--libc=glibc'], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  rmSync(join(folder, 'package-lock.json'));
  const modules = join(folder, 'node_modules');
  placeNode(modules, arch);
  for (const name of [...UNUSED, ...(arch === 'x64' ? [] : ONLY_X64)])
    rmSync(join(modules, name), { recursive: true, force: true });
  for (const folder of globSync('**/prebuilds', { cwd: modules }))
    for (const name of readdirSync(join(modules, folder)))
      if (name !== `linux-${arch}`) rmSync(join(modules, folder, name), { recursive: true });
}

/** For other systems, and sources and trials of native parts. */
const UNUSED = [
  'fuse-shared-library-darwin',
  'fuse-shared-library-linux-arm',
  'fuse-shared-library-linux/example',
  'koffi/vendor',
  'koffi/doc',
  'fuse-native/test',
];
/** The transport fuse-native has no build for other processors. */
const ONLY_X64 = ['fuse-native', 'fuse-shared-library', 'fuse-shared-library-linux'];

/** Node without its headers and npm, where ops/cofa looks for it. */
function placeNode(modules: string, arch: Arch): void {
  const from = join(modules, `node-linux-${arch}`);
  const to = join(modules, 'node');
  if (!existsSync(join(from, 'bin/node'))) throw new Error(`npm installed no Node for ${arch}`);
  mkdirSync(join(to, 'bin'), { recursive: true });
  for (const name of ['bin/node', 'LICENSE', 'package.json']) copyFileSync(join(from, name), join(to, name));
  rmSync(from, { recursive: true });
}
