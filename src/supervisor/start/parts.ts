/** The parts of a running engine, made from what its log says, and the front end's notices to them. */
import type { NodeLog } from '../log/node-log.ts';
import { routeNotices } from '../notices.ts';
import { type ImageParts, type ImagePartsOptions, makeImages } from './images.ts';
import { makeMounts, type MountParts, type MountPartsOptions } from './mounts.ts';
import type { Servers } from './servers.ts';

export type Parts = ImageParts & MountParts;

export function makeParts(
  given: ImagePartsOptions & Omit<MountPartsOptions, 'images'> & Pick<Servers, 'doubts'> & NodeLog,
): Parts {
  const { bus, names, devices, doubts, conditions } = given;
  const imageParts = makeImages(given);
  const mountParts = makeMounts({ ...given, images: imageParts.images });
  routeNotices(bus, names, {
    whole: () => imageParts.trust.poke(),
    complete: ({ diffId }) => devices.handOver(diffId),
    'take-back': ({ diffId }) => devices.takeBack(diffId),
    checked: ({ diffId }) => doubts.compared(diffId),
    corrupt: ({ diffId, message }) => conditions.set(`corrupt:${diffId}`, message),
  });
  return { ...imageParts, ...mountParts };
}
