import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { parseSimpleYaml } from '../../src/registry/simple-yaml.ts';

const read = (text: string) => parseSimpleYaml(text, 'config.yaml');
/** What a whole YAML parser makes of it. */
const python = (text: string): unknown =>
  JSON.parse(
    execFileSync('python3', ['-c', 'import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))'], {
      input: text,
      encoding: 'utf8',
    }),
  );

describe('it reads as a whole parser does', () => {
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
  ])('case %#', (text) => {
    expect(read(text)).toEqual(python(text));
  });
});

test.each([
  ['an anchor', 'a: &x 1\n', 1],
  ['an alias', 'a: 1\nb: *x\n', 2],
  ['text of several lines', 'a: |\n  x\n', 1],
  ['a map in braces', 'a: {b: 1}\n', 1],
  ['a tag', 'a: !!str 1\n', 1],
  ['several documents', 'a: 1\n---\nb: 2\n', 2],
  ['a tab', 'a:\n\tb: 1\n', 2],
  ['a key twice', 'a: 1\na: 2\n', 2],
  ['neither key nor item', 'a: 1\nsome words\n', 2],
  ['what is indented too far', 'a: 1\n   b: 2\n', 2],
  ['what is indented less than the start', '  a: 1\nb: 2\n', 2],
  ['quotes that do not end', 'a: "b\n', 1],
  ['brackets that do not end', 'a: [b,\n  c]\n', 1],
])('%s is refused, with its line', (_, text, line) => {
  expect(() => read(text)).toThrow(`config.yaml, line ${line}: `);
});

test('what is refused is not quoted: it may be a secret', () => {
  for (const text of ['a: "hunter2\n', '{"a": hunter2}', 'a: 1\nhunter2\n'])
    expect(() => read(text)).toThrow(expect.not.stringContaining('hunter2'));
});
