/** YAML of files that Kubernetes's programs read as well; JSON is YAML, too. */
import { CofaError } from '../../schemas/errors.ts';

export type YamlValue = string | number | boolean | null | YamlValue[] | { [key: string]: YamlValue };

/** Characters of a file: the largest that an operator writes have some thousand. */
const LONGEST = 1 << 20;
/** Uses of anchors, so that a short file does not become a large value. */
const MOST_ALIASES = 100;

/** `name` stands in errors. Error: `invalid-argument`, which quotes nothing of the file, since it may hold secrets. */
export async function parseYaml(text: string, name: string): Promise<YamlValue> {
  if (text.length > LONGEST) throw new CofaError('invalid-argument', `${name} has more than 1 MiB`);
  const { LineCounter, parseDocument } = await import('yaml');
  const lines = new LineCounter();
  const refuse = (why: string, at?: number) =>
    new CofaError(
      'invalid-argument',
      `${name}${at === undefined ? '' : `, line ${lines.linePos(at).line}`}: ${why}`,
      { hint: 'is it one document of YAML, or JSON?' },
    );
  try {
    const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, stringKeys: true });
    // Its message may quote; its code does not.
    const [error] = document.errors;
    if (error !== undefined) throw refuse(error.code.toLowerCase().replaceAll('_', ' '), error.pos[0]);
    return document.toJS({ maxAliasCount: MOST_ALIASES }) as YamlValue;
  } catch (error) {
    if (error instanceof CofaError) throw error;
    throw refuse(
      error instanceof ReferenceError ? 'aliases without an anchor, or too many' : 'nested too deep',
    );
  }
}
