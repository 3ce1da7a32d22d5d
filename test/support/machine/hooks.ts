/**
 * Puts the stand-ins in the place of the modules that reach outside: the kernel, FUSE, NATS, the registry, decoding. A
 * stand-in exports all that the real module does and replaces some of it.
 */
import { registerHooks } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const HERE = import.meta.dirname;
const SOURCE = join(HERE, '../../../src');
const STAND_INS = join(HERE, 'stand-ins');

/**
 * Module of the engine → its stand-in. A part that takes what it needs as an argument needs no entry: the number may
 * only fall.
 */
const REPLACED: Record<string, string> = {
  'kernel/loop.ts': 'loop.ts',
  'kernel/mount.ts': 'mount.ts',
  'kernel/erofs.ts': 'erofs.ts',
  'fuse/session.ts': 'session.ts',
  'image/span-table.ts': 'span-table.ts',
  'image/erofs-check.ts': 'erofs-check.ts',
  'registry/client.ts': 'registry-client.ts',
  'registry/sidecars.ts': 'sidecars.ts',
  'fetch/fetch-job.ts': 'fetch-job.ts',
  'fetch/scrub-job.ts': 'scrub-job.ts',
  'mounts/file-pages.ts': 'file-pages.ts',
  'store/device.ts': 'device.ts',
  'store/log-files.ts': 'log-files.ts',
  'images/index-on-node.ts': 'index-on-node.ts',
  'images/indexers.ts': 'indexers.ts',
  'images/rebuild.ts': 'rebuild.ts',
  'store/lock.ts': 'lock.ts',
  'bus/local-socket.ts': 'local-socket.ts',
  'fuse/stand-in.ts': 'fuse-stand-in.ts',
  'kernel/holes.ts': 'holes.ts',
  'kernel/read-ahead.ts': 'read-ahead.ts',
  'registry/packs.ts': 'packs.ts',
  'pack/pack-store.ts': 'pack-store.ts',
  'fetch/start-jobs.ts': 'start-jobs.ts',
  'container/reap.ts': 'reap.ts',
};
const PACKAGES: Record<string, string> = {
  '@nats-io/jetstream': 'jetstream.ts',
  '@nats-io/transport-node': 'transport-node.ts',
};

/** How many modules are replaced by path. */
export const replacementCount = Object.keys(REPLACED).length;

/** Replacements that a module of this process has met. */
const met = new Set<string>();

/**
 * Replacements that no module has met since `installHooks`. Of one that moved the simulation would run the real
 * module, which reaches outside.
 */
export const unmetReplacements = (): string[] =>
  [...Object.keys(REPLACED), ...Object.keys(PACKAGES)].filter((name) => !met.has(name));

export function installHooks(): void {
  registerHooks({
    resolve(specifier, context, next) {
      const fromStandIn = context.parentURL?.startsWith(pathToFileURL(STAND_INS).href) === true;
      const standIn = PACKAGES[specifier];
      if (standIn !== undefined && !fromStandIn) {
        met.add(specifier);
        return { url: pathToFileURL(join(STAND_INS, standIn)).href, shortCircuit: true };
      }
      const resolved = next(specifier, context);
      if (fromStandIn || !resolved.url.startsWith('file:')) return resolved;
      const url = new URL(resolved.url);
      const path = fileURLToPath(url);
      if (!path.startsWith(`${SOURCE}/`)) return resolved;
      const name = `${basename(dirname(path))}/${basename(path)}`;
      const replaced = REPLACED[name];
      if (replaced === undefined) return resolved;
      met.add(name);
      return { ...resolved, url: pathToFileURL(join(STAND_INS, replaced)).href };
    },
  });
}
