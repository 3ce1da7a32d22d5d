/** A node that is of no fleet loads nothing of it: the code of the fleet costs its processes neither time nor memory. */
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, it } from 'vitest';
import { TOP } from './arrows.ts';

/** What a file loads with itself: Node keeps no import of types. `import()` comes when its line runs. */
const LOADS = /^(?:import|export)\b[^'"]*?['"](\.[^'"]+)['"]/gm;
const OF_FLEET =
  /^src\/fleet\/|^(?:actors|schemas|src\/(?:registry|process|supervisor\/.*))\/(?:check-)?(?:fleet|ledger)[^/]*$|\/witnesses\.ts$/;

function loadedBy(program: string): Set<string> {
  const loaded = new Set([join(TOP, program)]);
  for (const file of loaded)
    for (const [, path = ''] of stripTypeScriptTypes(readFileSync(file, 'utf8')).matchAll(LOADS))
      if (path.endsWith('.ts')) loaded.add(resolve(dirname(file), path));
  return new Set([...loaded].map((file) => relative(TOP, file)));
}
const ofFleet = (program: string) => [...loadedBy(program)].filter((file) => OF_FLEET.test(file)).sort();

it.each([
  'supervisor/main',
  'front-end/main',
  'fetcher/main',
  'snapshotter/main',
  'indexer/main',
  'indexer/rebuilder',
  'indexer/table-maker',
  'black-box/main',
])('src/%s.ts begins without a module of the fleet', (program) => {
  expect(ofFleet(`src/${program}.ts`)).toEqual([]);
});

it('finds them in the member of a fleet, and in the stage of the supervisor that starts it', () => {
  expect(ofFleet('src/fleet/main.ts')).toEqual(
    expect.arrayContaining(['actors/fleet-home.ts', 'schemas/check-fleet.ts', 'src/fleet/pieces.ts']),
  );
  expect(ofFleet('src/supervisor/start/fleet.ts')).toEqual(
    expect.arrayContaining(['actors/fleet-ledger.ts', 'src/supervisor/images/witnesses.ts']),
  );
});
