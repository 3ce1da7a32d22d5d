/**
 * Entry of `cofa`, where no bundle of it is fresh (bundle.ts). Start-up time is part of every `cofa run`, so each command loads
 * only what it needs, and nothing touches the streams of node:process.
 */
import { processSink } from '../terminal/output.ts';
import { main } from './program.ts';

process.exit(await main(process.argv.slice(2), processSink, renewBundle));

/** Makes the bundle of `cofa run` for the next ones. */
function renewBundle(): void {
  // It is for speed only: who may not write there, or has no bundler, runs without.
  import('./bundle.ts').then(({ writeBundle }) => writeBundle('run.cjs')).catch(() => {});
}
