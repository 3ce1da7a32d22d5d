/** YAML, by a parser that others wrote: cofa itself reads and writes none. */
import { execFileSync } from 'node:child_process';

const PROGRAM =
  'import json, sys, yaml; print(json.dumps([one for one in yaml.safe_load_all(sys.stdin) if one]))';

/** All documents of a text, without the empty ones. */
export function parseYaml<T>(text: string | Buffer): T[] {
  return JSON.parse(execFileSync('python3', ['-c', PROGRAM], { input: text, encoding: 'utf8' })) as T[];
}
