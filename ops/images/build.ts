/**
 * Command line: `node ops/images/build.ts [NAME …] [--push HOST:PORT]` builds images (recipes.ts, strangers.ts; by default
 * those of recipes.ts) into the cache and pushes each as HOST:PORT/NAME:latest.
 */
import { parseArgs } from 'node:util';
import { REAL_IMAGES, realImage } from './debian.ts';
import { pushLayout } from './layout.ts';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { push: { type: 'string' } } });
for (const name of positionals.length > 0 ? positionals : REAL_IMAGES) {
  const layout = await realImage(name, { onProgress: (line) => console.error(line) });
  if (values.push !== undefined) await pushLayout(layout, values.push, name, 'latest');
  console.log(`${name} ${layout.manifest.digest} ${layout.directory}`);
}
