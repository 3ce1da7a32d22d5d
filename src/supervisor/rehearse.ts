/** What the supervisor does in a start, as a rehearsal (rehearsal.ts). */
import { imageMachine } from '../../actors/image.ts';
import { mountMachine } from '../../actors/mount.ts';
import { listMounts } from '../kernel/mount.ts';
import { DEFAULT_START } from '../pack/pack-store.ts';
import { findPack } from '../registry/packs.ts';
import { parseReference } from '../registry/reference.ts';
import { startReferrers } from '../registry/start-referrers.ts';
import { ActorHost } from '../process/actor-host.ts';
import { type Rehearsal, rehearse } from '../process/rehearsal/rehearsal.ts';
import { LaterSync } from '../store/later-sync.ts';
import { chooseSidecar } from './images/sidecar-choice.ts';

/** Throws what goes wrong in it. */
export async function rehearseStart(rehearsal: Rehearsal): Promise<void> {
  await rehearse(rehearsal, async (image, layout) => {
    const reference = parseReference(image.ref);
    const resolved = await image.client.resolve(reference, {
      referrers: { wanted: () => true, blobsOf: startReferrers },
    });
    const files = new LaterSync();
    const [pack, { passed }] = await Promise.all([
      findPack(image.client, resolved, [DEFAULT_START]),
      chooseSidecar({
        layout,
        files,
        registry: image.client,
        manifest: image.manifest,
        image: resolved,
        policy: 'registry',
        known: undefined,
        roots: new Map(),
        signers: undefined,
        refuted: { flat: undefined, sidecars: new Set() },
        onPassed: () => {},
      }),
    ]);
    await files.synced();
    if (pack === undefined || passed.length > 0)
      throw new Error(`the image of the rehearsal is not as it should be: ${passed[0]?.reason ?? 'no pack'}`);
    const nothing = () => {};
    const actor = new ActorHost(imageMachine, { prepare: nothing, attach: nothing, detach: nothing });
    actor.send({ type: 'USE', mount: 'rehearsal' });
    for (const type of ['PREPARED', 'ATTACHED'] as const) actor.send({ type });
    actor.send({ type: 'RELEASE', mount: 'rehearsal' });
    actor.send({ type: 'DETACHED' });
    const mount = new ActorHost(mountMachine, { mount: nothing, unmount: nothing });
    for (const type of ['MOUNT', 'MOUNTED', 'UNMOUNT', 'UNMOUNTED'] as const) mount.send({ type });
    listMounts();
  });
}
