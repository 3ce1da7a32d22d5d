/** What `ops/critest.ts` makes of ginkgo's reports. Needs no root. */
import { expect, test } from 'vitest';
import {
  compared,
  type Known,
  type Outcome,
  type Run,
  resultsOf,
  summary,
} from '../../ops/critest/report.ts';

const spec = (texts: string[], name: string, State: string, more: object = {}) => ({
  LeafNodeType: 'It',
  ContainerHierarchyTexts: texts.map((text, at) => (at === 0 ? `[k8s.io] ${text}` : text)),
  LeafNodeText: name,
  State,
  RunTime: 1.5e9,
  ...more,
});
const failed = (Message: string) => ({ Failure: { Message } });

function runOf(...specs: object[]): Run {
  return { results: resultsOf([{ SpecReports: specs }]), layersFetched: 2 };
}

test('a report says what each test came to; what another part has is none of it', () => {
  const report = [
    {
      SpecReports: [
        { ...spec([], '', 'passed'), LeafNodeType: 'BeforeSuite', ContainerHierarchyTexts: null },
        spec(['Images', 'that are pulled'], 'are there', 'passed'),
        spec(['Images'], 'are gone', 'timedout', failed('\nstill here\nat image.go')),
        spec(['Profiles'], 'are kept', 'skipped', failed('no such kernel')),
        spec(['Pods'], 'run elsewhere', 'skipped'),
      ],
    },
  ];
  expect(Object.fromEntries(resultsOf(report))).toEqual({
    'Images that are pulled are there': { group: 'Images', outcome: 'passed', reason: '', seconds: 1.5 },
    'Images are gone': { group: 'Images', outcome: 'failed', reason: 'still here', seconds: 1.5 },
    'Profiles are kept': { group: 'Profiles', outcome: 'skipped', reason: 'no such kernel', seconds: 1.5 },
  });
  expect(() => resultsOf([{ SpecReports: [{ LeafNodeType: 'It' }] }])).toThrow('ContainerHierarchyTexts');
});

const known: Known[] = [{ test: /users of their own/, why: 'ids are not mapped' }];

test('a test differs where the sides do not say the same, or one side did not come to it', () => {
  const runs = new Map([
    [
      'overlayfs',
      runOf(
        spec(['Pods'], 'run', 'passed'),
        spec(['Pods'], 'with users of their own', 'passed'),
        spec(['Pods'], 'end', 'passed'),
        spec(['Images'], 'by digest', 'failed', failed('not found')),
      ),
    ],
    [
      'cofa',
      runOf(
        spec(['Pods'], 'run', 'passed'),
        spec(['Pods'], 'with users of their own', 'failed', failed('permission denied')),
        spec(['Images'], 'by digest', 'failed', failed('not found')),
      ),
    ],
  ]);
  expect(compared(runs, known)).toEqual({
    tests: ['Images by digest', 'Pods end', 'Pods run', 'Pods with users of their own'],
    differences: [{ test: 'Pods end' }, { test: 'Pods with users of their own', why: 'ids are not mapped' }],
    gone: [],
  });
  expect(summary(runs, known).split('\n')).toEqual([
    'test                           overlayfs      cofa',
    'Images by digest                  failed    failed',
    'Pods end                          passed   not run',
    'Pods run                          passed    passed',
    'Pods with users of their own      passed    failed',
    '',
    'passed, failed, skipped   overlayfs    cofa',
    'Images                        0 1 0   0 1 0',
    'Pods                          3 0 0   1 1 0',
    '',
    'on          passed, failed, skipped   layers fetched   took',
    'overlayfs                     3 1 0                2    6 s',
    'cofa                          1 2 0                2    5 s',
    '',
    'overlayfs and cofa failed: Images by digest: not found',
    'cofa failed: Pods with users of their own: permission denied',
    '',
    'differs: Pods end: overlayfs passed, cofa not run',
    'differs, as is known: Pods with users of their own: overlayfs passed, cofa failed: ids are not mapped',
    '4 tests, 1 differences',
  ]);
});

test('a known difference that does not show any more is said, unless its test was not run', () => {
  const both = (run: Run) =>
    compared(
      new Map([
        ['overlayfs', run],
        ['cofa', run],
      ]),
      known,
    );
  const same = runOf(spec(['Pods'], 'with users of their own', 'passed'));
  expect(both(same)).toMatchObject({ differences: [], gone: known });
  expect(both(runOf(spec(['Pods'], 'run', 'passed')))).toMatchObject({ differences: [], gone: [] });
  const skipped = runOf(spec(['Pods'], 'with users of their own', 'skipped', failed('no such disk')));
  expect(both(skipped)).toMatchObject({ differences: [], gone: [] });
  // One side alone says nothing of differences.
  expect(compared(new Map([['cofa', same]]), known)).toMatchObject({ differences: [], gone: [] });
});

test('a test that comes to the same on both sides when it is run again differs from run to run', () => {
  const [passed, other] = (['passed', 'failed'] as const).map((state) =>
    runOf(spec(['Pods'], 'run', state, state === 'failed' ? failed('late') : {})),
  ) as [Run, Run];
  const again = (outcome: Outcome) => new Map([['Pods run', [outcome]]]);
  const sides = (one: Run, another: Run) =>
    new Map([
      ['overlayfs', one],
      ['cofa', another],
    ]);
  const varying = sides({ ...passed, again: again('failed') }, { ...other, again: again('failed') });
  expect(compared(varying).differences).toEqual([{ test: 'Pods run', varies: true }]);
  expect(summary(varying)).toContain(
    'differs from run to run: Pods run: overlayfs passed failed, cofa failed failed',
  );
  expect(summary(varying)).toContain('1 tests, 0 differences');
  const lasting = sides({ ...passed, again: again('passed') }, { ...other, again: again('failed') });
  expect(compared(lasting).differences).toEqual([{ test: 'Pods run' }]);
});
