/** `cofa completion SHELL`: prints the script that completes `cofa` in a shell. */
import type { Command } from 'commander';
import { type Context, examples, oneOf } from './context.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

export function define(command: Command, context: Context): void {
  command
    .description('Print the script that completes commands, options and their values in a shell.')
    .argument('<shell>', SHELLS.join(', '), oneOf('shell', SHELLS))
    .action(async (shell: Shell) => context.sink.out(await completionOf(shell)));
  examples(command, [
    ['cofa completion bash > /etc/bash_completion.d/cofa', ''],
    ['cofa completion zsh > /usr/local/share/zsh/site-functions/_cofa', ''],
    ['cofa completion fish > /etc/fish/completions/cofa.fish', ''],
  ]);
}

/** The script for a shell. */
export async function completionOf(shell: Shell): Promise<string> {
  const { describeProgram } = await import('./description.ts');
  const program = await describeProgram();
  switch (shell) {
    case 'bash':
      return (await import('./completion-bash.ts')).bashCompletion(program);
    case 'zsh':
      return (await import('./completion-zsh.ts')).zshCompletion(program);
    case 'fish':
      return (await import('./completion-fish.ts')).fishCompletion(program);
  }
}
