/** Programs run from their TypeScript: Node strips the types itself, and refuses some files that every other tool takes. */
import { globSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { expect, it } from 'vitest';

it('Node reads every file', () => {
  const files = globSync('{src,actors,schemas,ops}/**/*.ts');
  const refused = files.filter((file) => {
    try {
      stripTypeScriptTypes(readFileSync(file, 'utf8'));
      return false;
    } catch {
      return true;
    }
  });
  expect(files.length).toBeGreaterThan(500);
  expect(refused).toEqual([]);
});
