/**
 * Which containerd the clients' tests run with. COFA_CONTAINERD names others than the usual ones (ops/images/debs.ts), such as
 * `2.2` or `2.2,2.3`: tests of several versions take them all, tests of one take the first.
 */
import { CONTAINERD_VERSIONS, type ContainerdVersion, hasContainerd } from '../../ops/images/debs.ts';

const onProgress = (line: string) => console.log(line);

/** Versions that COFA_CONTAINERD names; undefined without it. Throws for a name that nothing knows. */
export const namedContainerds = (): ContainerdVersion[] | undefined =>
  process.env.COFA_CONTAINERD?.split(',').map((name) => {
    const known = CONTAINERD_VERSIONS.find((one) => one === name);
    if (known === undefined)
      throw new Error(`COFA_CONTAINERD: containerd is ${CONTAINERD_VERSIONS.join(', ')} here, not ${name}`);
    return known;
  });

/** Of these, or of those that are named, the ones that this machine has. */
export function containerds(usual: readonly ContainerdVersion[]): ContainerdVersion[] {
  return (namedContainerds() ?? usual).filter((one) => hasContainerd(one, { onProgress }));
}

/** The first that is named and here; without a name the newest of containerd 2. */
export const newestContainerd = (): ContainerdVersion => containerds(['2.4', '2.1'])[0] ?? '2.1';
