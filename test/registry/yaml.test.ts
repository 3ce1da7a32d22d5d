import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { parseYaml } from '../../src/registry/yaml.ts';

const read = (text: string) => parseYaml(text, 'config.yaml');
/** What another parser makes of it. */
const python = (text: string): unknown =>
  JSON.parse(
    execFileSync('python3', ['-c', 'import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))'], {
      input: text,
      encoding: 'utf8',
    }),
  );

describe('it reads as another parser does', () => {
  test.each([
    `# as Kubernetes's documentation has it
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    matchImages:
      - "*.dkr.ecr.*.amazonaws.com"   # quoted: a star begins an alias
      - '*.dkr.ecr.*.amazonaws.com.cn'
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args:
      - --v=4
      - get-credentials
    env:
      - name: AWS_PROFILE
        value: temp
      - name: EMPTY
        value: ""
`,
    'providers:\n- name: a\n  matchImages: ["x.io", y.io/team, \'z:5000\']\n  args: []\n- name: b\n  tokenAttributes: null\nlast: 1\n',
    'a: {}\nb: true\nc: "tr\\u0075e"\nd: -12\ne: ~\nf: http://host:1/x#y\n"g h": it\'s\ni:\n  j:\n    k: v # remark\n',
    '{"json": ["is", {"yaml": 2}]}',
    '---\n- - 1\n  - 2\n-\n  x: y\n- plain text, with: colon-less:words\n',
    '',
    'a: &x [1, 2]\nb: *x\nc: !!str 1\nd: |\n  two\n  lines\ne: {f: g}\n',
  ])('case %#', async (text) => {
    expect(await read(text)).toEqual(python(text));
  });
});

test.each([
  ['several documents', 'a: 1\n---\nb: 2\n', 2],
  ['a tab', 'a:\n\tb: 1\n', 2],
  ['a key twice', 'a: 1\na: 2\n', 2],
  ['words that are neither key nor item', 'a: 1\nsome words\n', 2],
  ['a line that is indented too far', 'a: 1\n   b: 2\n', 1],
  ['a line that is indented less than the start', '  a: 1\nb: 2\n', 2],
  ['quotes that do not end', 'a: "b\n', 2],
  ['a map as a key', '{a: 1}: 2\n', 1],
])('%s: refused, with the line', async (_, text, line) => {
  await expect(read(text)).rejects.toThrow(`config.yaml, line ${line}: `);
});

test('a short file does not become a large value', async () => {
  const levels = Array.from({ length: 12 }, (_, at) => {
    const item = at === 0 ? '1' : `*x${at - 1}`;
    return `x${at}: &x${at} [${Array.from({ length: 10 }, () => item).join(', ')}]`;
  });
  await expect(read(levels.join('\n'))).rejects.toThrow(/^config\.yaml: .*too many/);
  await expect(read('a: *x\n')).rejects.toThrow('config.yaml: aliases without an anchor');
  await expect(read('[1]'.padEnd((1 << 20) + 1))).rejects.toThrow('config.yaml has more than 1 MiB');
  await expect(read('['.repeat(100_000))).rejects.toThrow(/^config\.yaml/);
});

test('what is refused is not quoted: it may be a secret', async () => {
  for (const text of [
    'a: "hunter2\n',
    '{"a": hunter2',
    'a: 1\nhunter2\n',
    'a: *hunter2\n',
    'hunter2: 1\nhunter2: 2\n',
  ])
    await expect(read(text)).rejects.toThrow(expect.not.stringContaining('hunter2'));
});
