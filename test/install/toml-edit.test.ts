/** Edits of other people's files: set, set again, taken back. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { applyEdits, isEdited, revertEdits, topLevelValue } from '../../src/install/toml-edit.ts';

const CRI = ['plugins', 'io.containerd.grpc.v1.cri', 'containerd'];
const EDITS = [
  { table: ['proxy_plugins', 'cofa'], keys: { type: '"snapshot"', address: '"/run/c.sock"' } },
  { table: CRI, keys: { snapshotter: '"cofa"', disable_snapshot_annotations: 'false' } },
];

test('a table that is there gets keys in place, others come at the end', () => {
  const text = [
    'version = 2 # the second',
    '[plugins]',
    '  [plugins."io.containerd.grpc.v1.cri".containerd] # pods',
    '    snapshotter = "overlayfs"  # was always so',
    '    default_runtime_name = "runc"',
    '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes]',
    '    snapshotter = "other"',
    '',
  ].join('\n');
  const edited = applyEdits(text, EDITS);
  expect(edited).toBe(
    [
      'version = 2 # the second',
      '[plugins]',
      '  [plugins."io.containerd.grpc.v1.cri".containerd] # pods',
      '    disable_snapshot_annotations = false # cofa install',
      '    snapshotter = "cofa" # cofa install; was: "overlayfs"',
      '    default_runtime_name = "runc"',
      '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes]',
      '    snapshotter = "other"',
      '# cofa install: begin',
      '[proxy_plugins.cofa]',
      '  type = "snapshot"',
      '  address = "/run/c.sock"',
      '# cofa install: end',
      '',
    ].join('\n'),
  );
  expect(topLevelValue(text, 'version')).toBe('2');
  expect(isEdited(text)).toBe(false);
  expect(isEdited(edited)).toBe(true);
  // A comment behind a value that was replaced is what is lost.
  expect(revertEdits(edited)).toBe(text.replace('  # was always so', ''));
});

test('names in any quotes are the same table', () => {
  for (const header of [
    `[plugins.'io.containerd.grpc.v1.cri'.containerd]`,
    `[ plugins . "io.containerd.grpc.v1.cri" . "containerd" ]`,
  ]) {
    const edited = applyEdits(`${header}\n`, EDITS);
    expect(edited.split('\n').filter((line) => line.startsWith('[plugins'))).toHaveLength(
      header.startsWith('[ ') ? 0 : 1,
    );
    expect(edited.split('\n')[1]).toContain('snapshotter = "cofa"');
  }
});

test('any text: edited twice is edited once, and taken back it is as before', () => {
  const line = fc.constantFrom(
    '',
    '# a comment',
    'version = 2',
    'root = "/x # y"',
    '[plugins]',
    `[${CRI[0]}."${CRI[1]}".${CRI[2]}]`,
    '[proxy_plugins.cofa]',
    '  [proxy_plugins.other]',
    '  snapshotter = "overlayfs"',
    '  disable_snapshot_annotations = true',
    "type = 'content'",
    '[[streams]]',
  );
  const text = fc.array(line, { maxLength: 12 }).map((lines) => `${lines.join('\n')}\n`);
  fc.assert(
    fc.property(text, (before) => {
      const edited = applyEdits(before, EDITS);
      expect(applyEdits(edited, EDITS)).toBe(edited);
      expect(revertEdits(edited)).toBe(before);
    }),
    { numRuns: 2000 },
  );
});
