/** `cofa run REF [COMMAND…]`: options in docker's words. */
import type { Command } from 'commander';
import { addOptions, type Context, examples } from './context.ts';
import { runCommand } from './run-command.ts';
import { RUN_OPTIONS, type RunWords } from './run-options.ts';

export function define(command: Command, context: Context): void {
  command
    .description(
      'Run a container in the foreground. It starts before its image has arrived. It uses the network of the host unless told otherwise; what it writes is thrown away at its end, as with docker run --rm.',
    )
    .usage('[options] <ref> [command...]')
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .argument('[command...]', 'replaces the command of the image')
    .passThroughOptions();
  addOptions(command, RUN_OPTIONS);
  command.action((ref: string, args: string[], words: RunWords) => runCommand(ref, args, words, context));
  examples(command, [
    ['cofa run debian:12 cat /etc/os-release', ''],
    ['cofa run -it debian:12 bash', 'a shell'],
    ['cofa run -e TOKEN -v "$PWD:/work" -w /work node:22 npm test', ''],
    ['cofa run -u nobody --read-only 127.0.0.1:5000/app:1.4', ''],
    ['cofa run --entrypoint sh app:1.4 -c "echo hello"', 'options after the image are its own'],
  ]);
}
