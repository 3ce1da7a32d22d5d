/** What runs of critest came to, and where they differ. */
import * as z from 'zod';
import { textTable } from '../bench/measure.ts';

const OUTCOMES = ['passed', 'failed', 'skipped'] as const;
export type Outcome = (typeof OUTCOMES)[number];

export interface Result {
  outcome: Outcome;
  /** First part of its name. */
  group: string;
  /** Of what did not pass: its first line. */
  reason: string;
  seconds: number;
}

export interface Run {
  /** By the test's name. */
  results: ReadonlyMap<string, Result>;
  /** Requests for whole layers. */
  layersFetched: number;
  /** What tests came to that were run again. */
  again?: ReadonlyMap<string, readonly Outcome[]>;
}

/** A difference that has its cause in others' code, and stands in the docs. */
export interface Known {
  test: RegExp;
  why: string;
}

export interface Difference {
  test: string;
  /** Of a known one. */
  why?: string;
  /** Run again, it came to the same on each side at least once. */
  varies?: true;
}

/** What ginkgo writes for `--ginkgo.json-report`. */
const reportSchema = z.array(
  z.object({
    SpecReports: z.array(
      z.object({
        LeafNodeType: z.string(),
        ContainerHierarchyTexts: z.array(z.string()).nullable(),
        LeafNodeText: z.string(),
        State: z.string(),
        /** Nanoseconds. */
        RunTime: z.number(),
        Failure: z.object({ Message: z.string() }).optional(),
      }),
    ),
  }),
);

/** Results of each test that a run selected, by its name. Throws where ginkgo's report is not understood. */
export function resultsOf(report: unknown): Map<string, Result> {
  const specs = reportSchema.parse(report).flatMap(({ SpecReports }) => SpecReports);
  const results = new Map<string, Result>();
  for (const { LeafNodeType, ContainerHierarchyTexts, LeafNodeText, State, RunTime, Failure } of specs) {
    const reason = Failure?.Message.trim().split('\n')[0] ?? '';
    // What another part has is skipped without a reason.
    if (LeafNodeType !== 'It' || (State === 'skipped' && reason === '')) continue;
    const above = (ContainerHierarchyTexts ?? []).map((text) => text.replace(/^\[k8s\.io\] /, ''));
    const outcome = State === 'passed' || State === 'skipped' ? State : 'failed';
    const group = above[0] ?? LeafNodeText;
    results.set([...above, LeafNodeText].join(' '), { outcome, group, reason, seconds: RunTime / 1e9 });
  }
  return results;
}

/**
 * What the runs say of each test, in the tests' order; where they do not say the same; and which known differences are none any more,
 * since such a test passes in each run.
 */
export function compared(
  runs: ReadonlyMap<string, Run>,
  known: readonly Known[] = [],
): { tests: string[]; differences: Difference[]; gone: Known[] } {
  const all = [...runs.values()];
  const tests = [...new Set(all.flatMap(({ results }) => [...results.keys()]))].toSorted();
  const differences = tests
    .filter((test) => new Set(all.map(({ results }) => results.get(test)?.outcome)).size > 1)
    .map((test): Difference => {
      const why = known.find((one) => one.test.test(test))?.why;
      if (why !== undefined) return { test, why };
      const [first = [], ...others] = all.map((run) => outcomesOf(run, test));
      const varies = first.some((outcome) => others.every((one) => one.includes(outcome)));
      return varies ? { test, varies } : { test };
    });
  const isGone = (one: Known) =>
    all.length > 1 &&
    tests.some(
      (test) => one.test.test(test) && all.every(({ results }) => results.get(test)?.outcome === 'passed'),
    );
  return { tests, differences, gone: known.filter(isGone) };
}

/** For people: each test with what it came to on each side, counts, why tests did not pass, and the differences. */
export function summary(runs: ReadonlyMap<string, Run>, known: readonly Known[] = []): string {
  const names = [...runs.keys()];
  const { tests, differences, gone } = compared(runs, known);
  const of = (name: string, test: string) => runs.get(name)?.results.get(test);
  const counts = (results: readonly Result[]) =>
    OUTCOMES.map((one) => results.filter(({ outcome }) => outcome === one).length).join(' ');
  const groups = [...new Set(tests.map((test) => groupOf(runs, test)))].toSorted();
  const totals = [...runs].map(([name, { results, layersFetched }]) => {
    const seconds = [...results.values()].reduce((sum, one) => sum + one.seconds, 0);
    return [name, counts([...results.values()]), String(layersFetched), `${seconds.toFixed(0)} s`];
  });
  const why = new Map<string, string[]>();
  for (const test of tests)
    for (const name of names) {
      const { outcome, reason = '' } = of(name, test) ?? {};
      if (outcome === undefined || outcome === 'passed') continue;
      const line = `${outcome}: ${test}: ${reason}`;
      why.set(line, [...(why.get(line) ?? []), name]);
    }
  return [
    textTable([
      ['test', ...names],
      ...tests.map((test) => [test, ...names.map((name) => said(of(name, test)))]),
    ]),
    '',
    textTable([
      ['passed, failed, skipped', ...names],
      ...groups.map((group) => [
        group,
        ...[...runs.values()].map(({ results }) =>
          counts([...results.values()].filter((one) => one.group === group)),
        ),
      ]),
    ]),
    '',
    textTable([['on', 'passed, failed, skipped', 'layers fetched', 'took'], ...totals]),
    '',
    ...[...why].map(([line, sides]) => `${sides.join(' and ')} ${line}`),
    '',
    ...differences.map(({ test, why: reason, varies }) => {
      const how = reason === undefined ? '' : ', as is known';
      return [
        varies === undefined ? `differs${how}` : 'differs from run to run',
        test,
        [...runs].map(([name, run]) => `${name} ${outcomesOf(run, test).join(' ') || 'not run'}`).join(', '),
        ...(reason === undefined ? [] : [reason]),
      ].join(': ');
    }),
    ...gone.map(({ test, why: reason }) => `does not differ any more: ${test.source}: ${reason}`),
    `${tests.length} tests, ${differences.filter(isNews).length} differences`,
  ].join('\n');
}

/** A difference that is neither known nor one between runs of the same side. */
export const isNews = ({ why, varies }: Difference): boolean => why === undefined && varies === undefined;

const outcomesOf = ({ results, again }: Run, test: string): Outcome[] => {
  const first = results.get(test);
  return [...(first === undefined ? [] : [first.outcome]), ...(again?.get(test) ?? [])];
};

const said = (result: Result | undefined) => result?.outcome ?? 'not run';

const groupOf = (runs: ReadonlyMap<string, Run>, test: string) =>
  [...runs.values()].map(({ results }) => results.get(test)?.group).find((one) => one !== undefined) ?? '';
