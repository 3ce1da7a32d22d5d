/**
 * A cluster: the control plane and a kubelet of Kubernetes, containerd, and ops/kubernetes applied as it stands. The tests
 * follow each other, as on a node from its first day on.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { prepareScene, type Scene } from './scene.ts';

const cleanup = new Cleanup();
const onProgress = (line: string) => console.log(`cluster: ${line}`);
const scene = prepareScene({ cleanup, onProgress });
const FOLDER = join(import.meta.dirname, '../../ops/kubernetes');
/** A node is to be ready this long after its start, ms; and so the engine's pod, and what stands on it. */
const READY_MS = 60_000;
const PODS_MS = 90_000;
/** These limits are to be the ones that are met. */
const TEST_MS = 300_000;

let s: Scene;
beforeAll(async () => {
  if (scene !== undefined) s = await scene();
}, 1_200_000);
afterAll(() => cleanup.run());

/** Reads a file again and again until it is told to end. */
const AGAIN =
  'while [ ! -e /over ]; do read -r said </said && [ "$said" = "I am far" ] || exit 1; done; echo fine';
const KUBE = ['-n', 'kube-system'];
const secret = (namespace: string, name: string, config: string) => ({
  apiVersion: 'v1',
  kind: 'Secret',
  type: 'kubernetes.io/dockerconfigjson',
  metadata: { namespace, name },
  stringData: { '.dockerconfigjson': config },
});

describe.runIf(scene)('a node', () => {
  test('is Ready before there is a cofa', async () => {
    await s.untilReady(new Date(0), READY_MS);
  });

  test('gets cofa from ops/kubernetes as it stands', async () => {
    await s.kubectl(...KUBE, 'create', 'configmap', 'cofa-keys', `--from-file=${s.key}`);
    await s.apply(secret('kube-system', 'cofa-registries', s.credentials()));
    for (const name of ['cofa', 'configure']) await s.kubectl('apply', '-f', join(FOLDER, `${name}.yaml`));
    for (const name of ['cofa', 'cofa-configure']) await s.untilRolledOut(name, PODS_MS);
  });
});

describe.runIf(scene)('pods', () => {
  test('start lazily, and their layers stay in the registry', async () => {
    await s.run('lazy');
    await s.untilSaid('pod/lazy', 'I am lazy\n');
    expect(await s.imageOf('lazy')).toMatchObject({ state: 'ready', origin: 'sidecar' });
    expect(await s.blobsOnNode('lazy')).toEqual([]);
    // What has no sidecar runs as well.
    await s.run('plain');
    await s.untilSaid('pod/plain', 'I am plain\n');
    expect(await s.blobsOnNode('plain')).toContain(s.blobs.plain?.at(-1));
  });

  test('of a deployment have every byte, of an image volume too', async () => {
    await s.apply(s.deployment(s.refs.lazy as string));
    await s.kubectl('rollout', 'status', 'deployment/web', '--timeout=60s');
    const compare = 'cmp /data/big /expected/lazy && cmp /model/data/big /expected/other && cat /model/said';
    for (const pod of await s.podsOf('web'))
      expect(await s.kubectl('exec', pod, '--', 'sh', '-c', compare)).toBe('I am other\n');
  });

  test('are replaced by those of another image, one after another', async () => {
    await s.kubectl('set', 'image', 'deployment/web', `app=${s.refs.other}`);
    await s.kubectl('rollout', 'status', 'deployment/web', '--timeout=60s');
    for (const pod of await s.podsOf('web')) await s.untilSaid(pod, 'I am other\n');
  });

  test('are started anew by a probe that fails, on what the image has', async () => {
    const [pod] = (await s.podsOf('web')) as [string];
    await s.kubectl('exec', pod, '--', 'sh', '-c', 'echo > /dead');
    await eventually('its container was started again', async () => (await s.restarts(pod)) === 1);
    await s.kubectl('wait', '--for=condition=Ready', pod, '--timeout=60s');
    expect(await s.kubectl('exec', pod, '--', 'sh', '-c', 'test -e /dead || echo gone')).toBe('gone\n');
  });

  test('of a job end', async () => {
    await s.apply(s.job(s.refs.lazy as string, 4));
    await s.kubectl('wait', '--for=condition=complete', 'job/say', '--timeout=60s');
    expect(await s.kubectl('logs', '-l', 'job-name=say', '--tail=-1')).toBe('I am lazy\n'.repeat(4));
  });

  test('of a private image start for those alone who have its secret', async () => {
    await s.run('private');
    await eventually('it is refused', async () => (await s.waitingFor('private')).includes('ImagePull'));
    await s.kubectl('delete', 'pod', 'private', '--now');
    await s.apply(secret('default', 'robot', s.credentials()));
    await s.run('private', { imagePullSecrets: [{ name: 'robot' }] });
    await s.untilSaid('pod/private', 'I am private\n');
    expect(await s.imageOf('private')).toMatchObject({ state: 'ready', origin: 'sidecar' });
  });

  test('of a service account that a credential provider is for start with its token, others do not', async () => {
    await s.takeTokensOf('puller');
    const spec = (serviceAccountName: string) => ({ serviceAccountName, restartPolicy: 'Never' });
    const always = '--image-pull-policy=Always';
    await s.run('private', spec('default'), { as: 'stranger', args: [always] });
    await s.run('private', spec('puller'), { as: 'with-token', args: [always] });
    await s.untilSaid('pod/with-token', 'I am private\n');
    expect(await s.blobsOnNode('private')).toEqual([]);
    await eventually('it is refused', async () => (await s.waitingFor('stranger')).includes('ImagePull'));
    await s.kubectl('delete', 'pod', 'stranger', '--now');
  });

  test('with users of their own (hostUsers: false) start lazily, and see every byte as theirs', async () => {
    await s.run('lazy', { hostUsers: false, ...s.comparing('lazy') }, { as: 'users' });
    await s.untilSaid('pod/users', 'I am lazy\n');
    const script =
      'cmp /data/big /expected && stat -c "%n %u" /said && echo mine >/mine && cat /proc/self/uid_map';
    const said = await s.kubectl('exec', 'users', '--', 'sh', '-c', script);
    expect(said.replace(/ +/g, ' ')).toMatch(/^\/said 0\n 0 [1-9]\d+ 65536\n$/);
    await s.kubectl('delete', 'pod', 'users', '--now');
  });

  test('read on while the DaemonSet is rolled out with another image: no read fails', async () => {
    await s.run('far', s.comparing('far'));
    await s.untilSaid('pod/far', 'I am far\n');
    const before = await s.engine();
    const reading = s.kubectl('exec', 'far', '--', 'sh', '-c', 'cmp /data/big /expected && echo same');
    const again = s.kubectl('exec', 'far', '--', 'sh', '-c', AGAIN);
    for (const one of [reading, again]) one.catch(() => {});
    await s.kubectl(...KUBE, 'set', 'image', 'daemonset/cofa', 'cofa=registry.example/cofa:2');
    await s.untilReplaced(before, PODS_MS);
    // The next one found it half way.
    expect((await s.imageOf('far'))?.blocks.absent).toBeGreaterThan(0);
    await s.run('other', {}, { as: 'after' });
    await s.untilSaid('pod/after', 'I am other\n');
    await s.bringNear();
    expect(await reading).toBe('same\n');
    await s.kubectl('exec', 'far', '--', 'sh', '-c', 'echo >/over');
    expect(await again).toBe('fine\n');
    expect((await s.imageOf('far'))?.reads.errors).toBe(0);
    await s.kubectl('delete', 'pod', 'far', 'after', '--now');
  });

  test('leave a node that is drained, and come back', async () => {
    await s.kubectl('drain', s.name, '--ignore-daemonsets', '--force', '--timeout=60s');
    expect(await s.get<{ items: unknown[] }>('pods', '--field-selector=status.phase=Running')).toMatchObject({
      items: [],
    });
    await s.kubectl('uncordon', s.name);
    await s.run('private', { imagePullSecrets: [{ name: 'robot' }] });
    await s.kubectl('rollout', 'status', 'deployment/web', '--timeout=60s');
  });
});

describe.runIf(scene)('a node that lost its power', () => {
  test('is Ready, and all of its pods are back', { timeout: TEST_MS }, async () => {
    const began = await s.reboot();
    await s.untilReady(began, READY_MS);
    await s.untilBack(PODS_MS);
  });

  test('the same with the registry away and credentials that are no longer right', {
    timeout: TEST_MS,
  }, async () => {
    for (const name of ['other', 'private']) await s.untilWhole(name);
    s.takeRegistryAway();
    const began = await s.reboot();
    await s.untilReady(began, READY_MS);
    await s.untilBack(PODS_MS);
    for (const pod of await s.podsOf('web'))
      expect(
        await s.kubectl('exec', pod, '--', 'sh', '-c', 'cmp /data/big /expected/other && cat /said'),
      ).toBe('I am other\n');
    await s.bringRegistryBack();
  });

  test('is Ready with cofa stopped; what needs no cofa starts', { timeout: TEST_MS }, async () => {
    const nowhere = { spec: { template: { spec: { nodeSelector: { none: 'yes' } } } } };
    await s.kubectl(...KUBE, 'patch', 'daemonset', 'cofa', '-p', JSON.stringify(nowhere));
    await eventually('cofa is stopped', async () => (await s.scheduled('cofa')) === 0);
    const began = await s.reboot();
    await s.untilReady(began, READY_MS);
    const handler = 'cofa-bootstrap';
    const annotations = { 'io.containerd.cri.runtime-handler': handler };
    await s.run('early', { runtimeClassName: handler }, { annotations });
    await s.untilSaid('pod/early', 'I am early\n');

    const everywhere = [{ op: 'remove', path: '/spec/template/spec/nodeSelector' }];
    await s.kubectl(...KUBE, 'patch', 'daemonset', 'cofa', '--type=json', '-p', JSON.stringify(everywhere));
    await s.untilRolledOut('cofa', PODS_MS);
    await s.untilBack(PODS_MS);
  });
});
