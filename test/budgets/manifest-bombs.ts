/** Manifests that are small and become large when they are parsed. Work for test/support/cost.ts. */
import { parseManifest } from '../../src/registry/manifest.ts';

export const deep = () => {
  const document = Buffer.from('['.repeat(2e6) + ']'.repeat(2e6));
  return () => parseManifest(document, undefined, 'x').kind;
};

export const wide = () => {
  const document = Buffer.from(`{"schemaVersion":2,"manifests":[${'{},'.repeat(1.3e6)}{}]}`);
  return () => parseManifest(document, undefined, 'x').kind;
};
