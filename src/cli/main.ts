/**
 * Entry of `cofa`, started by ops/cofa. Start-up time is part of every `cofa run`, so each command loads only what it
 * needs, and nothing touches the streams of node:process.
 */
import { main } from './program.ts';

process.exit(await main(process.argv.slice(2)));
