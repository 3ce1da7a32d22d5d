/** `cofa install crio`: a file beside those of others, and what `cofa doctor` makes of CRI-O's settings. Needs no root. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { judgeCrio } from '../../src/cli/doctor-crio.ts';
import { planCrio, planCrioUninstall, repairs } from '../../src/install/crio.ts';
import { tableValue } from '../../src/install/toml-edit.ts';

const folder = '/etc/crio/crio.conf.d';
const path = `${folder}/99-cofa.conf`;
const written = planCrio({ folder, read: () => undefined })[0]?.after ?? '';

test('CRI-O gets a file that turns its repair off; a second time nothing changes', () => {
  expect(tableValue(written, ['crio'], 'internal_repair')).toBe('false');
  expect(planCrio({ folder, read: (name) => (name === path ? written : undefined) })).toEqual([]);
});

test('it is removed again, and a file of another hand is not', () => {
  expect(planCrioUninstall({ folder, read: () => written })).toMatchObject([{ path, after: undefined }]);
  expect(planCrioUninstall({ folder, read: () => '[crio]\n' })).toEqual([]);
  expect(planCrioUninstall({ folder, read: () => undefined })).toEqual([]);
});

describe('what doctor makes of CRI-O', () => {
  const other = '[crio.runtime]\ndefault_runtime = "crun"\n';
  const on = '[crio]\ninternal_repair = true # as ever\n';
  test.each<[string, string[], boolean, string[]]>([
    ['there is none', [], true, []],
    ['it was not told of cofa', [other], false, []],
    ['it was installed', [other, written], true, ['ok']],
    ['it was told of podman’s store alone', [other], true, ['warn']],
    ['a later file turns its repair on', [written, on], true, ['warn']],
    ['a later file says nothing of it', [written, other], true, ['ok']],
  ])('%s', (_, settings, knowsStore, states) => {
    expect(judgeCrio({ settings, knowsStore }).map(({ state }) => state)).toEqual(states);
  });
});

test('by default CRI-O repairs', () => {
  expect(repairs([])).toBe(true);
});

test('docs/crio.md gives OpenShift the same setting, and the folder of the store', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/crio.md'), 'utf8');
  const sources = Array.from(page.matchAll(/^ +source: data:,(\S+)$/gm), ([, source = '']) =>
    decodeURIComponent(source),
  );
  expect(sources).toHaveLength(2);
  expect(repairs(sources)).toBe(false);
  expect(sources).toContain('d /var/lib/cofa/podman 0700 root root -\n');
});
