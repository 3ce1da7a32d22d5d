/**
 * Entry of `cofa`. Start-up time is part of every `cofa run`, so compiled code is kept beside the dependencies, and
 * each command loads only what it needs. Started by ops/cofa.
 */
import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';

const cache = fileURLToPath(new URL('../../node_modules/.cache/cofa', import.meta.url));
enableCompileCache(cache);
// For the processes and threads that are started from here.
process.env.NODE_COMPILE_CACHE ??= cache;

const { main } = await import('./program.ts');
process.exit(await main(process.argv.slice(2)));
