/** Errors as a user of `cofa` meets them: one sentence, one hint, one exit code. */
import { ERROR_KINDS, type ErrorRecord, toErrorRecord } from '../../schemas/errors.ts';
import { printable, type Sink } from '../terminal/output.ts';

export interface Failure {
  record: ErrorRecord;
  exit: number;
}

/**
 * What to say and how to end. An error may bring its own exit code (a container that did not start); else the code of
 * its kind counts. Undefined: the user stopped it, and there is nothing to say.
 */
export function failureOf(
  error: unknown,
  command: string | undefined,
): Failure | { exit: number; record: undefined } {
  const own = (error as { exit?: unknown } | null)?.exit;
  const stopped = error instanceof Error && error.name === 'Interrupted';
  if (stopped && typeof own === 'number') return { exit: own, record: undefined };
  const record = withHint(toErrorRecord(error), command);
  if (typeof own === 'number') return { record, exit: own };
  // Everything else that `cofa run` ends with is the container's, so its own failures share docker's code.
  return { record, exit: command === 'run' ? 125 : ERROR_KINDS[record.code].exit };
}

/** `cofa: message` and `  hint: …` on standard error; with `--json` an object on standard output. */
export function showFailure(
  record: ErrorRecord,
  sink: Sink,
  o: { json: boolean; command: string | undefined },
): void {
  if (o.json) {
    // The standard output of `run` belongs to the container.
    const show = o.command === 'run' ? sink.err : sink.out;
    show(`${JSON.stringify({ error: record })}\n`);
    return;
  }
  sink.err(`cofa: ${printable(record.message)}\n`);
  if (record.hint !== undefined) sink.err(`  hint: ${printable(record.hint)}\n`);
}

/** Every error says what to do next; kinds know it where the place of the error did not. */
function withHint(record: ErrorRecord, command: string | undefined): ErrorRecord {
  if (record.hint !== undefined) return record;
  const hint =
    record.code === 'invalid-argument' ? `see: cofa ${command ?? ''} --help` : ERROR_KINDS[record.code].act;
  return { ...record, hint: hint.replace('  ', ' ') };
}

/** The text of `cofa help exit-codes`. */
export function exitCodesHelp(): string {
  const byExit = new Map<number, string[]>();
  for (const [code, kind] of Object.entries(ERROR_KINDS)) {
    byExit.set(kind.exit, [...(byExit.get(kind.exit) ?? []), `${code}: ${kind.act}`]);
  }
  const lines = ['Exit codes of cofa', '', '   0  all went well'];
  for (const [exit, kinds] of [...byExit].sort(([a], [b]) => a - b)) {
    for (const [index, kind] of kinds.entries()) {
      lines.push(`${index === 0 ? String(exit).padStart(4) : '    '}  ${kind}`);
    }
  }
  lines.push(
    ' 130  stopped by Ctrl-C (128 + the number of the signal; 143 after SIGTERM)',
    ' 141  the reader of the output has gone',
    '',
    'cofa run ends with the exit code of the container (128 + n when signal n killed it), and',
    '',
    ' 125  cofa could not run it; the error says why',
    ' 126  the command is in the image and cannot be executed',
    ' 127  the command is not in the image',
    '',
    'With --json an error is an object on standard output, of cofa run on standard error:',
    '{"error": {"code", "message", "hint"}}.',
    'The words before the colons above are its "code".',
  );
  return `${lines.join('\n')}\n`;
}
